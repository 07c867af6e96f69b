"""Engines of TensorRT-RTX are inspected beside the graphs that they were built from."""

import json
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from posedge.engines import BatchProfile, BuildResult, build_engine
from posedge.engines.flavours import flavour_named, installed_version
from posedge.engines.inspection import EngineFile, inspect_variant, summarise
from posedge.engines.inspection.graph_summary import shares
from posedge.engines.inspection.inspector_child import ask_inspector
from posedge.engines.inspection.rtx_text import read_rtx_engine
from posedge.runtime.target import Target

TENSORRT = Target("tensorrt", "10.3.0", (87,), gpu="Orin", machine=platform.machine())
MACS = [8 * channels * 9 * 256 for channels in (3, 8, 8)]


def node_named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (node,) = (node for node in model.graph.node if node.name == name)
    return node


def engine_file(path: Path, built: BuildResult) -> EngineFile:
    return EngineFile(path.name, path.read_bytes(), Target(built.flavour, built.version))


def half_quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The second convolution gets its activation in float: half of what was to be INT8 is not."""
    node_named(model, "conv1").input[0] = "r0"
    return model


@pytest.mark.parametrize(("precision", "asked"), [("fp32", "FP32"), ("fp16", "FP16"), ("int8", "INT8")])
def test_the_summary_of_a_graph(
    precision: str, asked: str, conv_chain: Callable[..., onnx.ModelProto]
) -> None:
    summary = summarise(conv_chain(precision))
    kind = "float16" if precision == "fp16" else "float"
    assert (summary.opset, summary.ir_version) == (17, 8)
    assert summary.inputs == (f"input {kind} [batch, 3, 16, 16]",)
    assert summary.outputs == (f"r2 {kind} [batch, 8, 16, 16]",)
    assert summary.operators["Conv"] == 3
    assert [layer.macs for layer in summary.layers] == MACS
    assert {layer.asked for layer in summary.layers} == {asked}
    weights = sum(8 * channels * 9 for channels in (3, 8, 8))
    assert summary.parameters == weights + (18 if precision == "int8" else 0)


def test_a_layer_of_a_quantised_and_a_float_input_asks_for_float(conv_chain) -> None:
    asked = [layer.asked for layer in summarise(half_quantised(conv_chain("int8"))).layers]
    assert asked == ["INT8", "FP32", "INT8"]


def test_shares_count_what_is_not_known() -> None:
    assert shares([("INT8", 3), (None, 1), ("FP32", None)]) == {"FP32": 0, "INT8": 0.75, "not known": 0.25}
    assert shares([]) == {}


def test_a_variant_without_an_engine(conv_chain) -> None:
    report = inspect_variant("int8", conv_chain("int8"))
    assert report.asked_shares == {"INT8": 1}
    assert report.got_shares == {"not known": 1}
    assert (report.unknown, report.lost) == (3, ())
    assert "no engine" in report.source


def test_an_engine_of_an_unknown_library_is_not_guessed_at(conv_chain) -> None:
    engine = EngineFile("engine", b"vtrt" + bytes(100), Target("something", "3.2"))
    report = inspect_variant("fp32", conv_chain(), engine)
    assert report.source == "not known: something 3.2 built the engine"


needs_rtx = pytest.mark.skipif(
    not (installed_version(flavour_named("tensorrt_rtx")) or "").startswith("1.7.1."),
    reason="the text of TensorRT-RTX 1.7.1 is known",
)


@needs_rtx
@pytest.mark.parametrize(
    ("precision", "got", "batch"),
    [("fp32", "FP32", "n"), ("fp16", "FP16", "n"), ("int8", "INT8", "n"), ("int8", "INT8", 2)],
)
def test_engines_compute_what_their_graphs_ask_for(
    precision, got, batch, conv_chain, saved, out: Path
) -> None:
    graph = saved(conv_chain(precision, batch=batch))
    profile = None if batch == "n" else BatchProfile(batch, batch, batch)
    built = build_engine(graph, out / "engine", profile, flavour="tensorrt_rtx")
    report = inspect_variant(precision, onnx.load(graph), engine_file(out / "engine", built))
    assert [(layer.node, layer.got) for layer in report.layers] == [(f"conv{i}", got) for i in range(3)]
    assert report.got_shares == {got: 1}
    assert (report.lost, report.unknown) == ((), 0)
    assert report.engine_bytes == built.engine_bytes
    assert all((layer.weight_bytes or 0) >= 8 * 9 for layer in report.layers)
    assert "undocumented" in report.source
    if precision != "int8":
        assert report.layers[0].fused == ("relu0",)


@needs_rtx
def test_a_layer_that_was_asked_for_int8_and_is_float_is_named(conv_chain, saved, out: Path) -> None:
    """TensorRT-RTX has no ConvTranspose in INT8, whatever the graph says."""
    model = conv_chain("int8")
    node_named(model, "conv1").op_type = "ConvTranspose"
    for name, value in (("one_scale", np.float32(0.01)), ("one_zero", np.int8(0))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    node_named(model, "dequantize_weight1").input[1:] = ["one_scale", "one_zero"]
    graph = saved(model)
    built = build_engine(graph, out / "engine", flavour="tensorrt_rtx")
    report = inspect_variant("int8", model, engine_file(out / "engine", built))
    assert [(layer.node, layer.asked, layer.got) for layer in report.lost] == [("conv1", "INT8", "FP32")]
    assert report.got_shares["FP32"] == pytest.approx(MACS[1] / sum(MACS))


@needs_rtx
def test_the_text_of_another_version_is_not_read(conv_chain, saved, out: Path) -> None:
    build_engine(saved(conv_chain()), out / "engine", flavour="tensorrt_rtx")
    engine = (out / "engine").read_bytes()
    assert read_rtx_engine(engine).layers
    for other in ((1, 7, 0), (1, 7, 2), (1, 8, 1)):
        reading = read_rtx_engine(engine[:24] + bytes(other) + engine[27:])
        assert reading.layers is None
        dotted = ".".join(map(str, other))
        assert reading.source.startswith(f"not known: TensorRT-RTX {dotted} wrote it")


@pytest.mark.parametrize("engine", [b"", b"vtrt", bytes(200), b"vtrt" + bytes(20) + b"\1\7\1" + bytes(100)])
def test_what_is_no_engine_is_not_known(engine: bytes) -> None:
    reading = read_rtx_engine(engine)
    assert reading.layers is None
    assert reading.source.startswith("not known: ")


STAND_IN = """
import os

__version__ = "10.3.0"
INSPECTOR = %r

class ILogger:
    def __init__(self): pass

class LayerInformationFormat:
    JSON = "JSON"

class Runtime:
    def __init__(self, logger): self.logger = logger
    def deserialize_cuda_engine(self, data):
        print("a library may print what it likes")  # to standard output, as some do
        print("loaded", file=open(os.environ["STAND_IN_LOADED"], "a"))
        if data == b"crash": os.abort()
        return Engine() if data == b"engine" else None

class Engine:
    def create_engine_inspector(self): return self
    def get_engine_information(self, format):
        assert format == "JSON"
        return INSPECTOR
"""


# a driver with one GPU, of SM 87
DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int length, int device) { name[0] = 'O'; name[1] = 0; return 0; }
int cuDeviceTotalMem_v2(unsigned long *bytes, int device) { *bytes = 1ul << 33; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute - 75 ? 7 : 8; return 0; }
"""


@pytest.fixture
def gpu_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the driver, for child processes."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    folder = tmp_path / "driver"
    folder.mkdir()
    command = ["gcc", "-w", "-shared", "-fPIC", "-x", "c", "-", "-o", str(folder / "libcuda.so.1")]
    subprocess.run(command, input=DRIVER.encode(), check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))


@pytest.fixture
def tensorrt_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for TensorRT 10.3, whose inspector says of ``conv_chain`` that conv1 is not in INT8.

    It has no metadata, as a system package may not. The file that is returned exists once it loaded one.
    """
    loaded = tmp_path / "loaded"
    monkeypatch.setenv("STAND_IN_LOADED", str(loaded))
    kinds = {"conv0": "Int8", "conv1": "Half", "conv2": "Int8"}
    layers = [
        {
            "Name": f"{name} + relu{name[-1]}",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", "Format/Datatype": kind}],
            "Weights": {"Type": kind, "Count": 72},
            "Metadata": f"[ONNX Layer: {name}]\x1e[ONNX Layer: relu{name[-1]}]",
        }
        for name, kind in kinds.items()
    ]
    package = tmp_path / "packages" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN % json.dumps({"Layers": layers, "Bindings": ["x", "y"]}))
    monkeypatch.syspath_prepend(package.parent)
    return loaded


@pytest.mark.usefixtures("tensorrt_here", "gpu_here")
def test_a_tensorrt_engine_is_told_of_by_its_inspector(conv_chain) -> None:
    report = inspect_variant("int8", conv_chain("int8"), EngineFile("engine", b"engine", TENSORRT))
    assert report.source == "the engine inspector of tensorrt"
    assert [layer.got for layer in report.layers] == ["INT8", "FP16", "INT8"]
    assert [layer.node for layer in report.lost] == ["conv1"]
    assert [layer.fused for layer in report.layers] == [("relu0",), ("relu1",), ("relu2",)]
    assert report.got_shares["FP16"] == pytest.approx(MACS[1] / sum(MACS))
    assert report.operations == {"CaskConvolution": 3}


@pytest.mark.usefixtures("tensorrt_here", "gpu_here")
@pytest.mark.parametrize(("content", "words"), [(b"other", "needs the GPU"), (b"crash", "exit status -6")])
def test_an_engine_that_cannot_be_loaded_is_not_known(content, words, conv_chain) -> None:
    report = inspect_variant("int8", conv_chain("int8"), EngineFile("engine", content, TENSORRT))
    assert report.source.startswith("not known: ")
    assert words in report.source
    assert report.got_shares == {"not known": 1}


@pytest.mark.usefixtures("gpu_here")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"machine": "riscv64"}, "it was built on another architecture (built: tensorrt 10.3"),
        ({"sms": (86,)}, "it was built for other GPUs"),
        ({"version": "10.4.0"}, "an engine runs only with the version of the library that built it"),
    ],
)
def test_an_engine_for_another_device_or_version_is_not_loaded(
    changes, words, conv_chain, tensorrt_here: Path
) -> None:
    other = replace(TENSORRT, **changes)
    report = inspect_variant("int8", conv_chain("int8"), EngineFile("engine", b"engine", other))
    assert report.source.startswith(f"not known: {words}")
    assert report.got_shares == {"not known": 1}
    assert not tensorrt_here.exists()
    inspect_variant("int8", conv_chain("int8"), EngineFile("engine", b"engine", TENSORRT))
    assert tensorrt_here.exists()


def test_the_inspector_answers_from_a_process_of_its_own() -> None:
    """Whatever is here, a library or none, a GPU or none: garbage has no layers and nothing crashes."""
    for name in ("tensorrt", "tensorrt_rtx"):
        reading = ask_inspector(bytes(100), Target(name, "10.3.0"))
        assert reading.layers is None
        assert reading.source.startswith("not known: ")
        assert "\n" not in reading.source
