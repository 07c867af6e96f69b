"""Checkpoint files: every format and layout loads, everything else is refused with a reason."""

import os
import pickle
import sys
from collections import OrderedDict
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from posedge.errors import CheckpointError, MissingExtraError
from posedge.export.checkpoints import load_checkpoint, read_checkpoint
from posedge.export.zoo import build_model

FORMATS = [pytest.param(True, id="zip"), pytest.param(False, id="legacy")]


class Network(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))
        self.head = nn.Conv2d(width, 2, 1)


class Marker:
    """Unpickled by an unrestricted loader, creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


def save(content: object, path: Path, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def assert_loads(path: Path, expected: dict[str, Tensor], atol: float = 0.0) -> None:
    model = Network()
    load_checkpoint(model, path)
    for key, value in model.state_dict().items():
        assert value.dtype == expected[key].dtype
        torch.testing.assert_close(value, expected[key], rtol=0, atol=atol)


@pytest.fixture
def state() -> "OrderedDict[str, Tensor]":
    torch.manual_seed(0)
    state = Network().state_dict()
    state["backbone.1.running_var"].uniform_(0.5, 2)
    state["backbone.1.num_batches_tracked"].fill_(1234)
    return OrderedDict(state)


@pytest.mark.parametrize("zipped", FORMATS)
def test_wrapped_and_bare(state: dict[str, Tensor], tmp_path: Path, zipped: bool) -> None:
    meta = {"epoch": 210, "CLASSES": ("person",), "time": "2020", "config": "model = dict()"}
    assert_loads(
        save({"meta": meta, "state_dict": state, "optimizer": {"lr": 0.1}}, tmp_path / "a.pth", zipped), state
    )
    assert_loads(save(state, tmp_path / "b.pth", zipped), state)


@pytest.mark.parametrize("zipped", FORMATS)
def test_keys_are_brought_to_one_layout(state: dict[str, Tensor], tmp_path: Path, zipped: bool) -> None:
    old = {"module." + key.replace("head.", "keypoint_head."): value for key, value in state.items()}
    old["module.data_preprocessor.mean"] = torch.ones(3, 1, 1)
    old["data_preprocessor.std"] = torch.ones(3, 1, 1)
    path = save({"state_dict": old}, tmp_path / "old.pth", zipped)
    assert list(read_checkpoint(path)) == list(state)
    assert_loads(path, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_the_models(
    state: dict[str, Tensor], tmp_path: Path, dtype: torch.dtype
) -> None:
    cast = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    assert_loads(save({"state_dict": cast}, tmp_path / "cast.pth"), state, atol=1e-2)


@pytest.mark.parametrize("zipped", FORMATS)
@pytest.mark.parametrize("place", ["meta", "state_dict"])
def test_code_is_refused_by_name_and_never_run(
    state: dict[str, Tensor], tmp_path: Path, zipped: bool, place: str
) -> None:
    marker = tmp_path / "executed"
    content: dict[str, object] = {"meta": {}, "state_dict": dict(state)}
    content[place] = Marker(marker)
    path = save(content, tmp_path / "evil.pth", zipped)
    with pytest.raises(CheckpointError, match=r"posix\.system.*Nothing was executed"):
        read_checkpoint(path)
    assert not marker.exists()


def test_code_in_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"{protocol}.pth"
        path.write_bytes(pickle.dumps({"state_dict": Marker(marker)}, protocol))
        with pytest.raises(CheckpointError, match=r"posix\.system"):
            read_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("zipped", FORMATS)
def test_a_pickled_model_is_refused_by_its_class(tmp_path: Path, zipped: bool) -> None:
    path = save(nn.Linear(2, 2), tmp_path / "model.pth", zipped)
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(path)


@pytest.mark.parametrize("zipped", FORMATS)
def test_objects_in_meta_do_not_stop_the_load(state: dict[str, Tensor], tmp_path: Path, zipped: bool) -> None:
    meta = {"acc": np.float64(0.7), "time": datetime(2020, 11, 27)}
    assert_loads(save({"meta": meta, "state_dict": state}, tmp_path / "numpy.pth", zipped), state)


@pytest.mark.parametrize("zipped", FORMATS)
def test_every_truncation_is_reported(state: dict[str, Tensor], tmp_path: Path, zipped: bool) -> None:
    whole = save({"state_dict": state}, tmp_path / "whole.pth", zipped).read_bytes()
    path = tmp_path / "cut.pth"
    for size in [1, 5, 100, len(whole) // 3, len(whole) // 2, len(whole) - 100, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"cut\.pth"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html></html>", "not a torch checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a torch checkpoint"),
        (b"PK\x03\x04" + bytes(200), "cut short or damaged"),
        (pickle.dumps({"a": 1}, 2), "cut short or damaged"),  # a pickle, but not torch's
        (b"\x80\x02" + np.random.default_rng(0).bytes(64), "cut short or damaged"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_missing_files_and_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="is a directory"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(3), "holds Tensor"),
        ([torch.ones(3)], "holds list"),
        ({}, "holds an empty dict"),
        ({"state_dict": {}}, "holds an empty dict"),
        ({"state_dict": {"a": 1.5}}, "under 'a' it holds float"),
        ({"a": {"b": torch.ones(1)}}, "under 'a' it holds dict"),
        ({"state_dict": {"a": torch.eye(3).to_sparse()}}, "sparse"),
        ({"state_dict": {3: torch.ones(1)}}, "under 3"),
        ({"module.a": torch.ones(1), "a": torch.ones(1)}, "both mean a"),
    ],
)
def test_what_is_not_a_state_dict_is_refused(tmp_path: Path, content: object, message: str) -> None:
    path = save(content, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_another_architecture_is_told_apart_key_by_key(state: dict[str, Tensor], tmp_path: Path) -> None:
    changed = dict(state)
    changed["heads.weight"] = changed.pop("head.weight")
    changed["backbone.0.bias"] = torch.ones(7)
    model = Network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(model, save(changed, tmp_path / "other.pth"))
    message = str(caught.value)
    assert "keys missing: 1, surplus: 1, of another shape: 1" in message
    assert "missing: head.weight (nearest in the file: heads.weight)" in message
    assert "surplus: heads.weight (nearest in the model: head.weight)" in message
    near = "(nearest of that shape in the file: backbone.1.bias)"
    assert f"backbone.0.bias: [7] in the file, [4] in the model {near}" in message
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_checkpoint_of_another_model_says_which_it_is(tmp_path: Path) -> None:
    path = save({"state_dict": build_model("rsn_18_256x192").state_dict()}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"does not fit Network \(9 keys\).*It fits rsn_18_256x192"):
        load_checkpoint(Network(), path)
    with pytest.raises(CheckpointError, match=r"does not fit rsn_50_256x192 \(9 keys\)"):
        load_checkpoint(Network(), path, name="rsn_50_256x192")
    path = save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "strange.pth")
    with pytest.raises(CheckpointError, match="It fits no model of the zoo"):
        load_checkpoint(build_model("rsn_18_256x192"), path)


def test_safetensors(state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_file({f"module.{key}": value for key, value in state.items()}, path)
    assert set(read_checkpoint(path)) == set(state)
    assert_loads(path, state)
    whole = path.read_bytes()
    for size in (9, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="cut short or damaged"):
            read_checkpoint(path)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'posedge\[export\]'"):
        read_checkpoint(path)


def test_long_lists_are_shortened(tmp_path: Path) -> None:
    other = {f"layer{index}.weight": torch.ones(1) for index in range(50)}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(Network(), save(other, tmp_path / "other.pth"))
    assert "keys missing: 9, surplus: 50" in str(caught.value)
    assert "surplus: and 30 more" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 35


def test_unsound_values_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    state["head.bias"][1] = float("nan")
    with pytest.raises(CheckpointError, match=r"head\.bias holds NaN"):
        load_checkpoint(Network(), save(state, tmp_path / "nan.pth"))
    state["head.bias"] = torch.ones(2, dtype=torch.int64)
    with pytest.raises(CheckpointError, match=r"head\.bias is torch\.int64 in the file"):
        load_checkpoint(Network(), save(state, tmp_path / "int.pth"))
