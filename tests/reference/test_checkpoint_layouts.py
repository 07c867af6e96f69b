"""Official state dicts, in every file format and layout that was ever published, load strictly."""

import json
import sys
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from posedge.export.checkpoints import fitting_models, load_checkpoint, read_checkpoint
from posedge.export.zoo import ZOO, build_model

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


def mmcls(state: State) -> object:
    return {"meta": {"mmcls_version": "0.12.0", "CLASSES": ("tench", "goldfish")}, "state_dict": state}


def parallel(state: State) -> object:
    return {"state_dict": OrderedDict((f"module.{key}", value) for key, value in state.items())}


def bare(state: State) -> object:
    return state


def float16(state: State) -> object:
    halved = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    return {"state_dict": halved}


def read_manifest(path: Path) -> list[tuple[str, list[int], str]]:
    entries: list[tuple[str, list[int], str]] = json.loads(path.read_text())["state_dict"]
    return entries


@pytest.fixture(scope="module")
def official(reference: Path) -> State:
    """Random weights under the official names and shapes, not those that the model says it has."""
    rng = np.random.default_rng(0)
    state = OrderedDict()
    for key, shape, dtype in read_manifest(reference / "manifests" / f"{NAME}.json"):
        values = rng.uniform(0.5, 1.5, shape) if dtype == "float32" else np.asarray(7)
        state[key] = torch.from_numpy(np.asarray(values)).to(getattr(torch, dtype))
    return state


def plain_meta(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    return {"epoch": 210, "time": "Fri Nov 27 11:00:00 2020", "CLASSES": ("person",), "config": "model = {}"}


def meta_of_objects(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Objects of classes that are gone when the file is read, as where mmengine is not installed."""
    module = ModuleType("mmengine")
    monkeypatch.setitem(sys.modules, "mmengine", module)
    made = {}
    for name, base in (("ConfigDict", dict), ("HistoryBuffer", object), ("Registry", OrderedDict)):
        made[name] = type(name, (base,), {"__module__": "mmengine"})
        setattr(module, name, made[name])
    history = made["HistoryBuffer"]()
    history.values = np.arange(3.0)
    return {
        "cfg": made["ConfigDict"](model=made["ConfigDict"](type="TopdownPoseEstimator")),
        "message_hub": {"loss": history, "best": np.float64(0.704)},
        "hooks": made["Registry"](ema=[history]),
        "time": datetime(2022, 10, 13),
        "class": made["ConfigDict"],
    }


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_model(NAME)


def assert_loads(model: nn.Module, official: State, path: Path, halved: bool = False) -> None:
    with torch.no_grad():
        for value in model.state_dict().values():
            value.zero_()
    load_checkpoint(model, path)
    loaded = model.state_dict()
    assert list(loaded) == list(official)
    for key, value in loaded.items():
        expected = official[key]
        if halved and expected.is_floating_point():
            expected = expected.half().float()
        assert value.dtype == official[key].dtype
        assert torch.equal(value, expected), key


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("layout", "meta"),
    [
        (mmpose_0x, plain_meta),
        (mmpose_0x, meta_of_objects),
        (mmpose_1x, plain_meta),
        (mmpose_1x, meta_of_objects),
        (parallel, meta_of_objects),
        (float16, meta_of_objects),
        (parallel, None),
        (bare, None),
    ],
)
def test_every_layout_loads_strictly(
    model: nn.Module,
    official: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layout: Callable[[State], object],
    zipped: bool,
    meta: Callable[[pytest.MonkeyPatch], dict[str, object]] | None,
) -> None:
    path = tmp_path / "checkpoint.pth"
    content = layout(official)
    if meta is not None:
        assert isinstance(content, dict)
        content["meta"] = {**content.get("meta", {}), **meta(monkeypatch)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "mmengine", raising=False)
    assert list(read_checkpoint(path)) == list(official)
    assert_loads(model, official, path, halved=layout is float16)


def test_safetensors_load_strictly(model: nn.Module, official: State, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_file({f"module.{key}": value for key, value in official.items()}, path)
    assert_loads(model, official, path)


@cache
def without_weights(name: str) -> nn.Module:
    """A network on a device that stores no numbers."""
    with torch.device("meta"):
        return build_model(name)


@pytest.mark.parametrize(
    ("new", "zipped", "meta"),
    [
        (False, False, meta_of_objects),
        (False, True, plain_meta),
        (True, False, plain_meta),
        (True, True, meta_of_objects),
    ],
    ids=["0.x-legacy-objects", "0.x-zip-plain", "1.x-legacy-plain", "1.x-zip-objects"],
)
@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter:UserWarning")
def test_every_official_file_fits_its_model(
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    new: bool,
    zipped: bool,
    meta: Callable[[pytest.MonkeyPatch], dict[str, object]],
) -> None:
    for name, entry in ZOO.items():
        manifest = reference / "manifests" / f"{name}.json"
        # one number stands for all of a tensor, so that the file of 119 million weights is small too
        state = OrderedDict(
            (key, torch.ones((), dtype=getattr(torch, dtype)).expand(shape))
            for key, shape, dtype in read_manifest(manifest)
        )
        path = tmp_path / "checkpoint.pth"
        layout = mmpose_1x if new else mmcls if entry.spec.task == "classification" else mmpose_0x
        content = layout(state)
        assert isinstance(content, dict)
        content["meta"].update(meta(monkeypatch))
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        monkeypatch.delitem(sys.modules, "mmengine", raising=False)
        read = read_checkpoint(path)
        assert [(key, value.shape, value.dtype) for key, value in read.items()] == [
            (key, value.shape, value.dtype) for key, value in state.items()
        ]
        if new or zipped or meta is plain_meta:
            continue  # what was read is the same each time: once is enough for what looks at every number
        load_checkpoint(without_weights(name), path)  # raises unless every key and shape is the model's
        same = {name, name.replace("256x192", "384x288"), name.replace("384x288", "256x192")}
        assert fitting_models(read) == [other for other in ZOO if other in same]
