"""The process of a build: its addresses are the same every time, and nobody else's change."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from posedge.engines import BuildOptions
from posedge.engines.determinism import of_one_length, start_repeatable
from posedge.engines.targets import built_for
from posedge.runtime.target import PORTABLE_SMS, Target, mismatch

LAYOUT = (
    "import ctypes, os, sys\n"
    "block = ctypes.create_string_buffer(1 << 20)\n"
    "print(ctypes.addressof(block), id(object), hash('text'), len(sys.argv[1]))\n"
    "print(sorted(name for name in os.environ if name.startswith(('POSEDGE_', 'TENSORRT_', 'MALLOC_'))))\n"
)
ADDR_NO_RANDOMIZE = 0x0040000


def personality(of: str = "self") -> int:
    return int(Path(f"/proc/{of}/personality").read_text(), 16)


def layout(argument: str, **variables: str) -> list[str]:
    with start_repeatable(
        [sys.executable, "-c", LAYOUT, argument],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read().decode()
    assert process.returncode == 0
    return said.splitlines()


@pytest.fixture(autouse=True)
def allowed() -> None:
    """Some containers forbid a process to choose its layout; builds work there and may differ."""
    program = "import ctypes, sys; sys.exit(ctypes.CDLL(None).personality(ctypes.c_ulong(0x0040000)) == -1)"
    if platform.system() != "Linux" or subprocess.run([sys.executable, "-c", program]).returncode:
        pytest.skip("this system does not let a process fix its addresses")


def test_two_processes_are_laid_out_alike_whatever_they_are_asked(tmp_path: Path) -> None:
    short = layout("{}")
    assert layout('{"graph": "' + "x" * 900 + '"}', SOMETHING="y" * 3000) == short


def test_only_the_child_has_fixed_addresses() -> None:
    before = personality()
    with start_repeatable(
        [sys.executable, "-c", "input()", ""], env=os.environ, stdin=subprocess.PIPE
    ) as process:
        assert personality(str(process.pid)) & ADDR_NO_RANDOMIZE
        assert process.stdin is not None
        process.stdin.write(b"\n")
    assert personality() == before


@pytest.mark.parametrize("name", ["a", "int8.onnx", "a long name.onnx", "ä" * 127, "x" * 255])
def test_a_path_has_one_length_whatever_the_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"graph")
    assert Path(of_one_length(name)).read_bytes() == b"graph"
    assert len(os.fsencode(of_one_length(name))) == len(of_one_length("model.onnx"))


def test_what_the_library_reads_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    _, names = layout("{}", TENSORRT_X="1", POSEDGE_X="1")
    assert names == "['MALLOC_ARENA_MAX', 'TENSORRT_X']"


def test_an_engine_of_rtx_is_portable_unless_it_was_asked_otherwise() -> None:
    target = built_for("tensorrt_rtx", "1.7.1", BuildOptions())
    assert (target.sms, target.portable) == (PORTABLE_SMS, True)
    target = built_for("tensorrt_rtx", "1.7.1", BuildOptions(target_sms=(89,)))
    assert (target.sms, target.portable, target.compute_capability) == ((89,), False, "8.9")
    assert not built_for("tensorrt", "10.3.0", BuildOptions()).portable


def test_options_widen_what_an_engine_of_tensorrt_is_for() -> None:
    compatible = BuildOptions(version_compatible=True, hardware_compatible=True)
    target = built_for("tensorrt", "10.3.0", compatible)
    assert (target.version_compatible, target.portable, min(target.sms)) == (True, True, 80)
    later = Target("tensorrt", "10.13.0", (89,), machine=target.machine)
    assert mismatch(target, later) is None
    assert mismatch(built_for("tensorrt", "10.3.0", BuildOptions()), later) is not None
