"""Files with objects of any class: tensors come out as torch reads them, nothing is ever run."""

import pickle
import random
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from fractions import Fraction
from pathlib import Path, PurePosixPath
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from posedge.errors import CheckpointError
from posedge.export.checkpoints import read_checkpoint
from posedge.export.unpickle import read_inertly
from posedge.progress import SilentProgress

FORMATS = [pytest.param(True, id="zip"), pytest.param(False, id="legacy")]
LIBRARY = "training_library"  # a module that exists while a file is written and not when it is read


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[..., type]:
    """Makes classes of a library that is not installed where the file is read."""
    module = ModuleType(LIBRARY)

    def make(name: str, *bases: type, **members: object) -> type:
        made = type(name, bases, {"__module__": LIBRARY, **members})
        setattr(module, name, made)
        return made

    monkeypatch.setitem(sys.modules, LIBRARY, module)
    return make


def save(
    content: object, path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool = True, protocol: int = 2
) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    monkeypatch.delitem(sys.modules, LIBRARY, raising=False)
    return path


def tensors() -> "OrderedDict[str, Tensor]":
    torch.manual_seed(0)
    base = torch.randn(6, 5)
    return OrderedDict(
        plain=torch.randn(3, 4),
        transposed=base.t(),
        part=base[2:4, 1:],
        scalar=torch.tensor(7),
        empty=torch.zeros(0, 3),
        half=torch.randn(4).half(),
        bfloat=torch.randn(4).bfloat16(),
        double=torch.randn(2).double(),
        flags=torch.tensor([True, False]),
        bytes=torch.arange(5, dtype=torch.uint8),
        complex=torch.randn(2, dtype=torch.complex64),
        expanded=torch.ones(1).expand(3, 2),
        parameter=nn.Parameter(torch.randn(2)),
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", FORMATS)
def test_tensors_are_those_that_torch_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, protocol: int
) -> None:
    path = save(tensors(), tmp_path / "a.pth", monkeypatch, zipped, protocol)
    expected = torch.load(path, weights_only=False)  # the file is this test's own
    read = read_inertly(path)
    assert read.unknown == ()
    assert isinstance(read.content, dict)
    assert list(read.content) == list(expected)
    for key, value in expected.items():
        made = read.content[key]
        assert made.dtype == value.dtype
        assert made.stride() == value.stride()
        assert torch.equal(made, value), key
    base = read.content["transposed"]
    assert read.content["part"].untyped_storage().data_ptr() == base.untyped_storage().data_ptr()
    assert base.untyped_storage().nbytes() == 120


def training_objects(library: Callable[..., type]) -> dict[str, object]:
    """What mmengine and mmcv put into ``meta``, by kind."""
    config = library("ConfigDict", dict)
    history = library(
        "HistoryBuffer", __init__=lambda self: setattr(self, "values", deque([0.5, 0.25], maxlen=10))
    )
    ordered = library("Registry", OrderedDict)
    listed = library("Pipeline", list)
    slotted = library("Slotted", __slots__=("a",), __getstate__=lambda self: (None, {"a": 1}))
    counted = library("Counted", int)
    called = library("Factory", __reduce_ex__=lambda self, protocol: (config, ([("a", 1)],), {"b": 2}))
    keyword = library("Keyword", str, __getnewargs_ex__=lambda self: ((), {"object": "x"}))
    colour = Enum("Colour", "RED GREEN", module=LIBRARY)
    vars(sys.modules[LIBRARY])["Colour"] = colour
    return {
        "config": config(model=config(type="RSN", layers=[config(a=1), (config(),)])),
        "history": {"loss": history(), "acc": history()},
        "registry": ordered(a=1),
        "pipeline": listed([1, listed([2])]),
        "slots": slotted(),
        "count": counted(3),
        "factory": called(),
        "keyword": keyword("x"),
        "colour": colour.RED,
        "class": config,
        "numpy": [np.float64(0.7), np.int64(3), np.arange(3), np.random.default_rng(0), np.dtype("f4")],
        "time": datetime(2020, 11, 27, 12, 30),
        "path": PurePosixPath("work_dirs/rsn18"),
        "containers": [{1, 2}, frozenset({3}), defaultdict(list, a=[1]), Counter("aab"), b"bytes", 1 + 2j],
        "fraction": Fraction(1, 3),
        "torch": [torch.device("cpu"), torch.float16, torch.Size([1]), torch.eye(3).to_sparse(), nn.ReLU()],
        "keys": {config: 1, colour.GREEN: 2},
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", FORMATS)
def test_objects_beside_the_weights_are_left_unmade_and_named(
    library: Callable[..., type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, protocol: int
) -> None:
    weights = tensors()
    content = {"meta": training_objects(library), "state_dict": weights, "optimizer": {"lr": np.float32(1)}}
    path = save(content, tmp_path / "official.pth", monkeypatch, zipped, protocol)
    notes = Notes()
    state = read_checkpoint(path, notes)
    assert list(state) == list(weights)
    assert all(torch.equal(state[key], value) for key, value in weights.items())
    assert len(notes.lines) == 1
    assert notes.lines[0].startswith(
        f"official.pth: beside the weights it holds objects of {LIBRARY}.ConfigDict,"
    )
    assert "nothing was executed" in notes.lines[0]
    assert {f"{LIBRARY}.{name}" for name in ("HistoryBuffer", "Registry", "Slotted", "Colour")} <= set(
        read_inertly(path).unknown
    )
    assert LIBRARY not in sys.modules


@pytest.mark.parametrize("zipped", FORMATS)
@pytest.mark.parametrize(
    ("wrap", "named"),
    [
        (lambda library, state: {**state, "plain": np.ones(3)}, r"multiarray\._reconstruct"),
        (lambda library, state: {**state, "plain": library("Weights")()}, "Weights"),
        (lambda library, state: {library("Key", str)("plain"): torch.ones(1)}, "Key"),
        (lambda library, state: library("StateDict", dict)(state), "StateDict"),
        (lambda library, state: {**state, "plain": library("Weights")}, "Weights"),
        (
            lambda library, state: {"plain": torch.eye(2).to_sparse(), "b": np.ones(1)},
            "_rebuild_sparse_tensor",
        ),
    ],
)
def test_weights_that_depend_on_another_class_are_refused_by_its_name(
    library: Callable[..., type],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    zipped: bool,
    wrap: Callable[..., object],
    named: str,
) -> None:
    content = {"meta": {}, "state_dict": wrap(library, tensors())}
    path = save(content, tmp_path / "a.pth", monkeypatch, zipped)
    with pytest.raises(CheckpointError, match=f"weights depend on .*{named}.*Nothing was executed"):
        read_checkpoint(path)


@pytest.mark.parametrize("zipped", FORMATS)
def test_damage_is_an_error_of_ours(
    library: Callable[..., type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    content = {"meta": training_objects(library), "state_dict": tensors()}
    whole = save(content, tmp_path / "a.pth", monkeypatch, zipped).read_bytes()
    generator = random.Random(0)
    path = tmp_path / "damaged.pth"
    failed = 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(generator.randrange(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(data[: generator.randrange(len(data))] if generator.random() < 0.3 else data)
        try:
            read_checkpoint(path)
        except CheckpointError:  # any other exception ends the test
            failed += 1
    assert failed > 30


def test_a_storage_larger_than_the_file_takes_no_memory(tmp_path: Path) -> None:
    torch.save(
        {"m": np.float64(1), "a": torch.ones(2)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False
    )
    data = (tmp_path / "a.pth").read_bytes()
    before = b"X\x03\x00\x00\x00cpu"
    at = data.index(before) + len(before)
    at += 2 if data[at : at + 1] == b"q" else 0  # a memo
    assert data[at : at + 2] == b"K\x02"
    (tmp_path / "b.pth").write_bytes(data[:at] + b"\x8a\x06\xff\xff\xff\xff\xff\x7f" + data[at + 2 :])
    with pytest.raises(CheckpointError, match="larger than the file"):
        read_checkpoint(tmp_path / "b.pth")


def test_a_plain_pickle_is_not_torchs(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"state_dict": {}, "time": datetime(2020, 1, 1)}))
    with pytest.raises(CheckpointError, match="does not begin as torch's files do"):
        read_checkpoint(path)
