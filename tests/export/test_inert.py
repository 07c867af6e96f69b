"""What a checkpoint's pickle may not do: functions are refused and never run, all else is left unmade."""

import multiprocessing
import os
import socket
import subprocess
import zipfile
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import pytest
import torch

from posedge.errors import CheckpointError
from posedge.export.checkpoints import read_checkpoint
from posedge.export.inert import Inert
from posedge.export.unpickle import read_inertly
from posedge.progress import SilentProgress


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


FORMATS = [pytest.param(True, id="zip"), pytest.param(False, id="legacy")]


def written(code: bytes, path: Path, zipped: bool) -> Path:
    """A checkpoint whose ``meta`` is what the pickle instructions ``code`` make."""
    content = {"meta": b"HERE", "state_dict": {"a": torch.ones(2)}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=3)
    here = b"C\x04HERE"
    if not zipped:
        whole = path.read_bytes()
        assert whole.count(here) == 1
        path.write_bytes(whole.replace(here, code))
        return path
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data.replace(here, code) if name.endswith("data.pkl") else data)
    return path


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def reduce(module: str, name: str, *arguments: str) -> bytes:
    """``module.name(*arguments)``, the name as protocol 2 writes it."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(map(text, arguments)) + b"tR"


def stack_reduce(module: str, name: str, *arguments: str) -> bytes:
    """The same as protocol 4 writes it, where a name may have dots."""
    return text(module) + text(name) + b"\x93(" + b"".join(map(text, arguments)) + b"tR"


ATTACKS = [
    ("posix", "system", "touch {marker}"),
    ("os", "system", "touch {marker}"),
    ("os", "popen", "touch {marker}"),
    ("subprocess", "getoutput", "touch {marker}"),
    ("builtins", "eval", "open('{marker}', 'w')"),
    ("builtins", "exec", "open('{marker}', 'w')"),
    ("__builtin__", "eval", "open('{marker}', 'w')"),
    ("builtins", "open", "{marker}", "w"),
    ("io", "open", "{marker}", "w"),
    ("builtins", "__import__", "antigravity"),
    ("importlib", "import_module", "antigravity"),
    ("runpy", "run_path", "{marker}"),
    ("shutil", "copy", "/etc/hostname", "{marker}"),
    ("socket", "create_connection", "a"),
    ("pty", "spawn", "touch {marker}"),
    ("sys", "exit", "1"),
]


@pytest.mark.parametrize("zipped", FORMATS)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: ".".join(attack[:2]))
@pytest.mark.parametrize("write", [reduce, stack_reduce])
def test_an_attack_in_meta_is_refused_as_one(
    tmp_path: Path, attack: tuple[str, ...], zipped: bool, write: Callable[..., bytes]
) -> None:
    marker = tmp_path / "executed"
    module, name, *arguments = attack
    code = write(module, name, *(argument.format(marker=marker) for argument in arguments))
    path = written(code, tmp_path / "evil.pth", zipped)
    with pytest.raises(
        CheckpointError, match=rf"asks for {module}\.{name}, which runs code.*Nothing was exec"
    ):
        read_checkpoint(path)
    assert not marker.exists()


HARMLESS = [
    os.stat("."),
    subprocess.CompletedProcess(["a"], 0),
    HTTPStatus.OK,
    socket.AF_INET,
    multiprocessing.ProcessError("x"),
]


@pytest.mark.parametrize("zipped", FORMATS)
@pytest.mark.parametrize("value", HARMLESS, ids=lambda value: type(value).__name__)
def test_harmless_objects_of_the_same_modules_do_not_stop_the_load(
    value: object, zipped: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.pth"
    content = {"meta": {"found": value}, "state_dict": {"a": torch.ones(2)}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_checkpoint(path)["a"], torch.ones(2))


@pytest.mark.parametrize("module", ["torch", "numpy", "pathlib"])
def test_an_attack_through_another_module_is_refused(tmp_path: Path, module: str) -> None:
    path = written(
        stack_reduce(module, "os.system", f"touch {tmp_path / 'executed'}"), tmp_path / "a.pth", True
    )
    with pytest.raises(CheckpointError, match=rf"{module}\.os\.system, which runs code"):
        read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("zipped", FORMATS)
@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("numpy", "savetxt", ("{marker}", "1")),
        ("torch", "save", ("{marker}", "{marker}")),
        ("logging", "FileHandler", ("{marker}",)),
        ("posedge.files", "write_text", ("{marker}", "text")),
        ("pathlib", "Path.touch", ("{marker}",)),
    ],
)
def test_a_call_that_nobody_expected_is_not_made(
    tmp_path: Path, module: str, name: str, arguments: tuple[str, ...], zipped: bool
) -> None:
    marker = tmp_path / "executed"
    code = stack_reduce(module, name, *(argument.format(marker=marker) for argument in arguments))
    notes = Notes()
    path = written(code, tmp_path / "odd.pth", zipped)
    assert list(read_checkpoint(path, notes)) == ["a"]
    assert f"{module}.{name}" in notes.lines[0]
    assert not marker.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"ccollections\nOrderedDict\n}" + text("update") + text("x") + b"sb",  # BUILD on a class
        b"ctorch._utils\n_rebuild_tensor_v2\n}" + text("_call") + text("x") + b"sb",  # and on a function
        b"ctorch._utils\n_rebuild_tensor_v2\n(N}" + text("_call") + text("x") + b"stb",  # by its slots
        b"cnumpy\nx\n(N}" + text("__call__") + text("x") + b"stb",
    ],
)
def test_a_pickle_cannot_change_what_reads_it(tmp_path: Path, code: bytes) -> None:
    torch_would_refuse = reduce("numpy", "other")
    path = written(b"(" + code + torch_would_refuse + b"t", tmp_path / "a.pth", True)
    for _ in range(2):
        content = read_inertly(path).content
        assert isinstance(content, dict)
        assert torch.equal(content["state_dict"]["a"], torch.ones(2))
    assert "__call__" not in vars(type(content["meta"][1]))
    plain = written(reduce("numpy", "x"), tmp_path / "b.pth", True)
    assert torch.equal(read_checkpoint(plain)["a"], torch.ones(2))


def test_a_placeholder_takes_everything_and_keeps_nothing() -> None:
    thing = Inert(1, b=2)
    thing.append(1)
    thing.extend([1])
    thing[3] = 4
    assert thing(1, 2) is thing
    assert not hasattr(thing, "__dict__")
