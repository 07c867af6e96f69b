"""RSN-18's official state dict, in every file format and layout that was ever published, loads strictly."""

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from posedge.export.checkpoints import load_checkpoint, read_checkpoint
from posedge.export.zoo import build_model

NAME = "rsn_18_256x192"

State = OrderedDict[str, Tensor]


def mmpose_0x(state: State) -> object:
    renamed = OrderedDict((key.replace("head.", "keypoint_head.", 1), value) for key, value in state.items())
    return {"meta": {"mmpose_version": "0.6.0+8a5c1a5", "epoch": 210}, "state_dict": renamed}


def mmpose_1x(state: State) -> object:
    preprocessor = {
        "data_preprocessor.mean": torch.ones(3, 1, 1),
        "data_preprocessor.std": torch.ones(3, 1, 1),
    }
    return {
        "meta": {"mmpose_version": "1.3.2"},
        "state_dict": OrderedDict([*preprocessor.items(), *state.items()]),
    }


def parallel(state: State) -> object:
    return {"state_dict": OrderedDict((f"module.{key}", value) for key, value in state.items())}


def bare(state: State) -> object:
    return state


def float16(state: State) -> object:
    halved = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    return {"state_dict": halved}


@pytest.fixture(scope="module")
def manifest(reference: Path) -> list[tuple[str, list[int], str]]:
    entries: list[tuple[str, list[int], str]] = json.loads(
        (reference / "manifests" / f"{NAME}.json").read_text()
    )["state_dict"]
    return entries


@pytest.fixture(scope="module")
def official(manifest: list[tuple[str, list[int], str]]) -> State:
    """Random weights under the official names and shapes, not those that the model says it has."""
    rng = np.random.default_rng(0)
    state = OrderedDict()
    for key, shape, dtype in manifest:
        values = rng.uniform(0.5, 1.5, shape) if dtype == "float32" else np.asarray(7)
        state[key] = torch.from_numpy(np.asarray(values)).to(getattr(torch, dtype))
    return state


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", [mmpose_0x, mmpose_1x, parallel, bare, float16])
def test_every_layout_loads_strictly(
    official: State, tmp_path: Path, layout: Callable[[State], object], zipped: bool
) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(layout(official), path, _use_new_zipfile_serialization=zipped)
    assert list(read_checkpoint(path)) == list(official)
    model = build_model(NAME)
    load_checkpoint(model, path)
    loaded = model.state_dict()
    assert list(loaded) == list(official)
    for key, value in loaded.items():
        expected = official[key]
        if layout is float16 and expected.is_floating_point():
            expected = expected.half().float()
        assert value.dtype == official[key].dtype
        assert torch.equal(value, expected), key
