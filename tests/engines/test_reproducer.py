"""What a crash leaves: a directory that repeats it, with all that the graph needs, and no other traces."""

import os
import subprocess
import sys

import onnx
import pytest

from posedge.engines import BatchProfile, BuildOptions, build_engine
from posedge.engines.reproduce import repeat
from posedge.errors import BuildError

CRASH = """
import json, os, signal
__version__ = "10.3.0"
class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)
def Builder(logger):
    print("the last words", flush=True)
    {end}
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A TensorRT whose builder ends its process in a way of one's choice."""

    def install(end: str) -> None:
        package = tmp_path / "library" / "tensorrt"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(CRASH.format(end=end))
        monkeypatch.syspath_prepend(package.parent)

    return install


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"crashed \(SIGSEGV\)"),
        ("os.abort()", r"crashed \(SIGABRT\)"),
        ("os._exit(3)", r"without a result \(exit status 3\)"),
    ],
)
def test_a_crash_keeps_what_repeats_it(end, words, library, conv_chain, saved, out):
    library(end)
    options = BuildOptions(BatchProfile(1, 2, 4), workspace_bytes=1 << 20)
    with pytest.raises(
        BuildError, match=rf"{words}(?s:.)*the last words(?s:.)*repeats this is kept in"
    ) as error:
        build_engine(saved(conv_chain()), out / "model.engine", options)
    kept = out / "model.engine.reproducer"
    assert os.listdir(out) == [kept.name]
    assert sorted(path.name for path in kept.iterdir()) == ["graph.onnx", "log.txt", "request.json"]
    assert "the last words" in (kept / "log.txt").read_text()
    assert str(error.value).endswith(f"-m posedge.engines.reproduce {kept}")
    with pytest.raises(BuildError, match=words):
        repeat(kept)


def test_the_command_of_the_message_works(library, conv_chain, saved, out):
    library("os.abort()")
    with pytest.raises(BuildError) as error:
        build_engine(saved(conv_chain()), out / "model.engine")
    _, *arguments = str(error.value).rsplit(": ", 1)[1].split()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    finished = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )
    assert finished.returncode == 1
    assert "crashed (SIGABRT)" in finished.stdout
    assert finished.stderr == ""


def test_weights_beside_the_graph_are_kept_and_nothing_outside(library, conv_chain, tmp_path, out):
    library("os.abort()")
    graph = tmp_path / "graphs" / "model.onnx"
    graph.parent.mkdir()
    onnx.save(conv_chain(), graph, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(BuildError, match="kept in"):
        build_engine(graph, out / "model.engine")
    kept = out / "model.engine.reproducer"
    assert (kept / "weights.bin").read_bytes() == (graph.parent / "weights.bin").read_bytes()
    onnx.checker.check_model(str(kept / "graph.onnx"))


def test_a_build_that_succeeds_clears_the_crash_away(library, stand_in, conv_chain, saved, out):
    graph = saved(conv_chain())
    library("os.abort()")
    with pytest.raises(BuildError, match="kept in"):
        build_engine(graph, out / "model.engine")
    stand_in("10.3.0")
    build_engine(graph, out / "model.engine")
    assert os.listdir(out) == ["model.engine"]


def test_a_crash_that_cannot_be_kept_is_still_told(library, conv_chain, saved, out):
    library("os.abort()")
    (out / "model.engine.reproducer").write_bytes(b"in the way")
    with pytest.raises(BuildError, match=r"SIGABRT(?s:.)*repeats this could not be kept"):
        build_engine(saved(conv_chain()), out / "model.engine")
    assert (out / "model.engine.reproducer").read_bytes() == b"in the way"


def test_a_build_killed_from_outside_keeps_nothing(library, conv_chain, saved, out):
    """The system kills for want of memory, which is no fault of the graph."""
    library("os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(BuildError, match="SIGKILL") as error:
        build_engine(saved(conv_chain()), out / "model.engine")
    assert "kept in" not in str(error.value)
    assert os.listdir(out) == []


def test_a_directory_that_is_no_reproducer_is_refused(out):
    with pytest.raises(BuildError, match="no reproducer of a build"):
        repeat(out)


def test_a_build_beyond_its_memory_limit_names_the_limit(library, conv_chain, saved, out):
    graph = saved(conv_chain())
    library("raise RuntimeError(len(bytearray(300 << 20)))")
    with pytest.raises(BuildError, match=r"MemoryError.*had reached its memory limit of 200 MiB"):
        build_engine(graph, out / "model.engine", memory_limit_bytes=200 << 20)
    with pytest.raises(BuildError, match=r"could not start its builder \(314572800\)"):
        build_engine(graph, out / "model.engine", memory_limit_bytes=400 << 20)
    assert os.listdir(out) == []


@pytest.mark.parametrize(
    ("limit_mib", "words"),
    [(20, "library alone takes .* memory limit is 20 MiB"), (90, "had reached its memory limit of 90 MiB")],
)
def test_a_limit_too_small_for_the_library_is_no_missing_library(limit_mib, words, conv_chain, saved, out):
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    with pytest.raises(BuildError, match=words):
        build_engine(
            saved(conv_chain()),
            out / "engine",
            memory_limit_bytes=limit_mib << 20,
            flavour="tensorrt_rtx",
            time_limit_s=30,
        )
    assert os.listdir(out) == []


def test_the_real_builder_works_within_a_limit(conv_chain, saved, out):
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    build_engine(saved(conv_chain()), out / "engine", memory_limit_bytes=1 << 30, flavour="tensorrt_rtx")


def test_a_crash_under_a_memory_limit_suspects_the_limit(library, conv_chain, saved, out):
    library("os.abort()")
    with pytest.raises(BuildError, match=r"SIGABRT.* ran under a memory limit of 200 MiB"):
        build_engine(saved(conv_chain()), out / "model.engine", memory_limit_bytes=200 << 20)


def test_a_memory_limit_must_be_positive(conv_chain, saved, out):
    with pytest.raises(BuildError, match="memory limit of a build is 0 bytes"):
        build_engine(saved(conv_chain()), out / "model.engine", memory_limit_bytes=0)
