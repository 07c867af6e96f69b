"""build_engine: real TensorRT-RTX engines of every precision, their batch profile, and what is refused."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from posedge.engines import BatchProfile, BuildResult, build_engine
from posedge.errors import BuildError, OutputError
from posedge.progress import Progress, Task

pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")


class Recorder(Progress):
    """Keeps what a display would show."""

    def __init__(self) -> None:
        self.fractions: list[float] = []
        self.notes: list[str] = []

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Task]:
        recorder = self

        class Recording(Task):
            def update(self, done: float, total: float | None = None) -> None:
                recorder.fractions.append(done)

        yield Recording()

    def note(self, text: str) -> None:
        self.notes.append(text)


def weight_types(engine: Path, result: BuildResult) -> set[str]:
    """Types of the convolutions' weights, from the plain text in an engine: undocumented, so pinned."""
    if not result.version.startswith("1.7.1"):
        pytest.skip("the text inside engines is known for TensorRT-RTX 1.7.1 only")
    constants = re.findall(rb"const_payload_size=(\d+)[^\n]*? type=(\w+)", engine.read_bytes())
    return {kind.decode() for size, kind in constants if int(size) >= 288}


@pytest.mark.parametrize(("precision", "stored"), [("fp32", "float"), ("fp16", "half"), ("int8", "int8")])
def test_the_engine_has_the_precision_of_its_graph(precision, stored, conv_chain, saved, out):
    result = build_engine(saved(conv_chain(precision)), out / "model.engine")
    assert result.flavour in ("tensorrt", "tensorrt_rtx")
    assert result.seconds > 0
    assert result.peak_memory_bytes > 50_000_000  # the library alone is larger
    assert result.engine_bytes == (out / "model.engine").stat().st_size
    assert any("Engine generation completed" in line for line in result.log)
    assert weight_types(out / "model.engine", result) == {stored}
    assert os.listdir(out) == ["model.engine"]


def test_two_builds_give_the_same_bytes(conv_chain, saved, out):
    """True of small graphs; in large ones the library numbers some internal tensors by their addresses."""
    graph = saved(conv_chain("int8"))
    build_engine(graph, out / "first.engine")
    build_engine(graph, out / "second.engine")
    assert (out / "first.engine").read_bytes() == (out / "second.engine").read_bytes()


def test_the_profile_is_part_of_the_engine(conv_chain, saved, out):
    graph = saved(conv_chain())
    build_engine(graph, out / "small.engine", BatchProfile(1, 1, 2))
    build_engine(graph, out / "large.engine", BatchProfile(1, 8, 32))
    assert (out / "small.engine").read_bytes() != (out / "large.engine").read_bytes()


def test_progress_comes_from_the_builder_and_never_falls(conv_chain, saved, out):
    recorder = Recorder()
    build_engine(saved(conv_chain(layers=8)), out / "model.engine", progress=recorder)
    assert len(recorder.fractions) > 10
    assert recorder.fractions == sorted(recorder.fractions)
    assert recorder.fractions[0] >= 0
    assert recorder.fractions[-1] == 1


def test_a_relative_path_is_relative_to_the_callers_directory(conv_chain, saved, out, monkeypatch):
    graph = saved(conv_chain())
    monkeypatch.chdir(out)
    build_engine(Path(os.path.relpath(graph, out)), Path("deeper/model.engine"))
    assert (out / "deeper" / "model.engine").read_bytes().startswith(b"vtrt")


@pytest.mark.parametrize("numbers", [(0, 1, 1), (2, 1, 4), (1, 8, 4), (-1, 1, 1)])
def test_a_profile_out_of_order_is_refused(numbers):
    with pytest.raises(BuildError, match="in this order"):
        BatchProfile(*numbers)


def test_a_fixed_batch_wants_a_profile_that_says_so(conv_chain, saved, out):
    graph = saved(conv_chain(batch=4))
    with pytest.raises(BuildError, match=r"fixed batch of 4, the profile asks for 1 to 32.*Export"):
        build_engine(graph, out / "model.engine")
    assert os.listdir(out) == []
    build_engine(graph, out / "model.engine", BatchProfile(4, 4, 4))
    assert (out / "model.engine").exists()


def test_only_the_batch_may_be_dynamic(conv_chain, saved, out):
    with pytest.raises(BuildError, match=r"'input' has the shape \[-1, 3, -1, -1\].*fixed input size"):
        build_engine(saved(conv_chain(side="side")), out / "model.engine")


def test_a_batch_that_the_graph_fixes_on_its_way_is_refused(graph_of, saved, out):
    shape = numpy_helper.from_array(np.array([8, 768], np.int64), "shape")
    nodes = [helper.make_node("Reshape", ["input", "shape"], ["flat"], "reshape0")]
    graph = saved(graph_of(nodes, [shape], output_shape=["batch", 768]))
    with pytest.raises(BuildError, match=r"'flat' has the shape \[8, 768\] although the batch.*is dynamic"):
        build_engine(graph, out / "model.engine")


def test_the_parsers_refusal_names_the_node(graph_of, saved, out):
    nodes = [
        helper.make_node("Relu", ["input"], ["relu"], "relu0"),
        helper.make_node("Det", ["relu"], ["determinant"], "determinant0"),
    ]
    with pytest.raises(BuildError, match=r"parser refuses.*'determinant0' \(Det\): UNSUPPORTED_NODE"):
        build_engine(saved(graph_of(nodes, output_shape=["batch", 3])), out / "model.engine")


def test_a_build_that_returns_nothing_says_what_the_builder_said(graph_of, saved, out):
    # five images are added to a batch of eight, which only the shapes of the profile reveal
    five = numpy_helper.from_array(np.ones((5, 3, 16, 16), np.float32), "five")
    nodes = [
        helper.make_node("Add", ["input", "five"], ["sum"], "add0"),
        helper.make_node("ReduceMean", ["sum"], ["mean"], "mean0", axes=[0]),
        helper.make_node("Add", ["input", "mean"], ["shifted"], "add1"),
    ]
    model = graph_of(nodes, [five])
    with pytest.raises(BuildError, match=r"could not build this graph.*add0.*5 != 8"):
        build_engine(saved(model), out / "model.engine")
    assert os.listdir(out) == []


def test_a_failed_build_keeps_the_older_engine(conv_chain, saved, out):
    engine = out / "model.engine"
    engine.write_bytes(b"the engine of yesterday")
    with pytest.raises(BuildError, match="fixed batch"):
        build_engine(saved(conv_chain(batch=4)), engine)
    assert engine.read_bytes() == b"the engine of yesterday"
    assert os.listdir(out) == ["model.engine"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty-file"),
        (b"this is a text and no graph\n" * 20, "not-onnx"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "not-onnx"),
        (b"\x08\x08", "no-nodes"),  # decodes as a model that says nothing but its IR version
    ],
)
def test_a_file_that_is_no_graph_is_refused(content, words, tmp_path, out):
    graph = tmp_path / "model.onnx"
    graph.write_bytes(content)
    with pytest.raises(BuildError, match=rf"model\.onnx.*not fit to be built(?s:.)*{words}"):
        build_engine(graph, out / "model.engine")
    assert os.listdir(out) == []


def test_a_truncated_graph_is_refused(conv_chain, saved, out):
    graph = saved(conv_chain())
    graph.write_bytes(graph.read_bytes()[:-300])
    with pytest.raises(BuildError, match="not-onnx"):
        build_engine(graph, out / "model.engine")


def test_a_missing_graph_is_refused(tmp_path, out):
    with pytest.raises(BuildError, match=r"absent\.onnx: there is no such file"):
        build_engine(tmp_path / "absent.onnx", out / "model.engine")


def test_weights_beside_the_graph_are_found(conv_chain, tmp_path, out):
    graph = tmp_path / "graphs" / "model.onnx"
    graph.parent.mkdir()
    onnx.save(conv_chain(), graph, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert build_engine(graph, out / "model.engine").engine_bytes > 0
    (graph.parent / "weights.bin").unlink()
    with pytest.raises(BuildError, match=r"not-onnx(?s:.)*weights\.bin"):
        build_engine(graph, out / "model.engine")


def test_a_time_limit_must_be_positive(conv_chain, saved, out):
    with pytest.raises(BuildError, match="must be positive"):
        build_engine(saved(conv_chain()), out / "model.engine", time_limit_s=0)


def test_an_output_place_that_cannot_be_written_is_an_output_error(conv_chain, saved, out):
    (out / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"):
        build_engine(saved(conv_chain()), out / "file" / "model.engine")


def test_a_device_without_onnx_builds_with_a_note(conv_chain, saved, out, tmp_path):
    """TensorRT's own packages and posedge are all that a device has; numpy comes with the base install."""
    import numpy
    import tensorrt_rtx

    import posedge

    packages = tmp_path / "packages"
    packages.mkdir()
    site = Path(tensorrt_rtx.__file__).parent.parent
    for entry in [*site.glob("tensorrt_rtx*"), *Path(numpy.__file__).parent.parent.glob("numpy*")]:
        (packages / entry.name).symlink_to(entry)
    (packages / "posedge").symlink_to(Path(posedge.__file__).parent)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from posedge.engines import build_engine\n"
        "from posedge.progress import LineProgress\n"
        "build_engine(Path(sys.argv[1]), Path(sys.argv[2]), progress=LineProgress(sys.stdout))\n"
    )
    finished = subprocess.run(
        # -S: no site-packages, only what the directory holds
        [sys.executable, "-S", "-c", program, saved(conv_chain()), out / "model.engine"],
        env={"PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    assert "without a lint, because onnx is not installed" in finished.stdout
    assert "building model.engine: done" in finished.stdout
    assert (out / "model.engine").read_bytes().startswith(b"vtrt")
