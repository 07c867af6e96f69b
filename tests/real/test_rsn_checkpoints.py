"""The fitted RSN-18 from files in the official layouts: strictly loaded, and through the whole job."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from posedge.benchmarks.accuracy import evaluate
from posedge.benchmarks.drawn.dataset import write_dataset
from posedge.calibration.datasets import CocoPersons
from posedge.demo import CHECKPOINT
from posedge.deploy import deploy
from posedge.export.checkpoints import load_checkpoint
from posedge.export.zoo import build_model, find_entry
from posedge.options import DataPaths, DeployOptions
from posedge.runtime.sessions import Outputs

NAME = "rsn_18_256x192"


class TorchSession:
    """A torch model behind the protocol of sessions."""

    name = "torch"
    simulated = False

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self.spec = find_entry(NAME).spec

    def run(self, batch: np.ndarray) -> Outputs:
        with torch.inference_mode():
            return (self._model(torch.from_numpy(batch)).numpy(),)

    def close(self) -> None:
        return None


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    model = build_model(NAME)
    load_checkpoint(model, CHECKPOINT)
    return model


def write_checkpoint(model: torch.nn.Module, path: Path, layout: str) -> None:
    """``model`` as mmpose writes it: "0.x" or "1.x" keys, "legacy" or "zip" file."""
    keys, form = layout.split()
    state = model.state_dict()
    if keys == "0.x":
        state = {key.replace("head.", "keypoint_head.", 1): value for key, value in state.items()}
    else:
        state = {"data_preprocessor.mean": torch.zeros(3, 1, 1), **state}
    document = {"meta": {"epoch": 210}, "state_dict": state}
    torch.save(document, path, _use_new_zipfile_serialization=form == "zip")


@pytest.mark.parametrize("layout", ["0.x legacy", "0.x zip", "1.x legacy", "1.x zip"])
def test_every_official_layout_loads_strictly_to_the_same_weights(
    model: torch.nn.Module, layout: str, tmp_path: Path
) -> None:
    write_checkpoint(model, tmp_path / "weights.pth", layout)
    loaded = build_model(NAME)
    load_checkpoint(loaded, tmp_path / "weights.pth")
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


@pytest.mark.slow
def test_the_whole_job_has_the_accuracy_of_torch(model: torch.nn.Module, tmp_path: Path) -> None:
    write_checkpoint(model, tmp_path / "weights.pth", "0.x legacy")
    drawn = write_dataset(tmp_path / "drawn", 12, seed=3)
    options = DeployOptions(
        model=NAME,
        output=tmp_path / "out",
        data=DataPaths(drawn.annotations, drawn.images, drawn.annotations),
        checkpoint=tmp_path / "weights.pth",
        calibration_crops=8,
        batch_sizes=(1,),
        seconds=0.1,
    )
    report = deploy(options).report
    assert [variant.name for variant in report.variants] == ["fp32", "fp16", "int8"]
    assert report.data.flip_test
    persons = CocoPersons.load(drawn.annotations, drawn.images)
    theirs = evaluate(TorchSession(model), persons, flip_test=True).figures.ap
    figures = json.loads((tmp_path / "out" / "receipt.json").read_text())["variants"]["fp32"]
    assert figures["ap"] == pytest.approx(theirs, abs=0.001)
    assert theirs > 0.80
