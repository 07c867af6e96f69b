"""The fitted RSN-18: torch against ONNX by AP, and the whole job from a file of mmpose 0.x."""

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
from posedge.export.onnx_export import export_onnx
from posedge.export.zoo import build_model, find_entry
from posedge.options import DataPaths, DeployOptions
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession

NAME = "rsn_18_256x192"


class TorchSession:
    """A torch model behind the protocol of sessions."""

    name = "torch"
    simulated = False

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self.spec = find_entry(NAME).spec

    def run(self, batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self._model(torch.from_numpy(batch)).numpy()


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    model = build_model(NAME)
    load_checkpoint(model, CHECKPOINT)
    return model


@pytest.mark.slow
def test_onnx_has_the_accuracy_of_torch(model: torch.nn.Module, coco: Path, tmp_path: Path) -> None:
    spec = find_entry(NAME).spec
    export_onnx(model, spec, tmp_path / "fp32.onnx")
    drawn = write_dataset(tmp_path, 30, seed=3)
    figures = CocoPersons.load(drawn.annotations, drawn.images)
    people = CocoPersons.load(coco / "val.json", coco / "images").take(40)
    with OnnxRuntimeSession(tmp_path / "fp32.onnx") as session:
        for dataset in (figures, people):
            theirs = evaluate(TorchSession(model), dataset).figures.ap
            assert evaluate(session, dataset).figures.ap == pytest.approx(theirs, abs=0.001)
        assert evaluate(session, figures).figures.ap > 0.80


@pytest.mark.slow
def test_the_whole_job_from_an_old_file(model: torch.nn.Module, coco: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    state = {key.replace("head.", "keypoint_head.", 1): value for key, value in model.state_dict().items()}
    torch.save({"meta": {"epoch": 210}, "state_dict": state}, path, _use_new_zipfile_serialization=False)
    options = DeployOptions(
        model=NAME,
        output=tmp_path / "out",
        data=DataPaths(coco / "val.json", coco / "images", coco / "train.json"),
        checkpoint=path,
        calibration_crops=8,
        limit=8,
        batch_sizes=(1,),
        seconds=0.1,
    )
    report = deploy(options).report
    assert [variant.name for variant in report.variants] == ["fp32", "fp16", "int8"]
    assert report.data.flip_test
