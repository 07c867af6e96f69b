"""Small graphs of every precision, written by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Graph = Callable[..., onnx.ModelProto]


def chain(
    precision: str = "fp32", layers: int = 3, batch: int | str = "batch", side: int | str = 16
) -> onnx.ModelProto:
    """``layers`` times Conv and Relu on 8 channels; "int8" has Q/DQ on both inputs of every Conv."""
    kind = np.float16 if precision == "fp16" else np.float32
    element = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT
    rng = np.random.default_rng(0)
    nodes, constants = [], []
    if precision == "int8":
        constants += [
            numpy_helper.from_array(np.array(0.05, np.float32), "scale"),
            numpy_helper.from_array(np.array(0, np.int8), "zero"),
            numpy_helper.from_array(np.full(8, 0.01, np.float32), "weight_scale"),
            numpy_helper.from_array(np.zeros(8, np.int8), "weight_zero"),
        ]
    source, channels = "input", 3
    for index in range(layers):
        weight = rng.standard_normal((8, channels, 3, 3)) / 9
        inputs = [source, f"weight{index}"]
        if precision == "int8":
            constants.append(
                numpy_helper.from_array(np.round(weight / 0.01).clip(-127, 127).astype(np.int8), inputs[1])
            )
            nodes += [
                helper.make_node(
                    "QuantizeLinear", [source, "scale", "zero"], [f"q{index}"], f"quantize{index}"
                ),
                helper.make_node(
                    "DequantizeLinear", [f"q{index}", "scale", "zero"], [f"x{index}"], f"dequantize{index}"
                ),
                helper.make_node(
                    "DequantizeLinear",
                    [inputs[1], "weight_scale", "weight_zero"],
                    [f"w{index}"],
                    f"dequantize_weight{index}",
                    axis=0,
                ),
            ]
            inputs = [f"x{index}", f"w{index}"]
        else:
            constants.append(numpy_helper.from_array(weight.astype(kind), inputs[1]))
        nodes += [
            helper.make_node("Conv", inputs, [f"c{index}"], f"conv{index}", pads=[1] * 4),
            helper.make_node("Relu", [f"c{index}"], [f"r{index}"], f"relu{index}"),
        ]
        source, channels = f"r{index}", 8
    return model(nodes, constants, element, [batch, 3, side, side], [batch, 8, side, side])


def model(
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto] = [],  # noqa: B006  # never changed
    element: int = TensorProto.FLOAT,
    input_shape: list[int | str] = ["batch", 3, 16, 16],  # noqa: B006
    output_shape: list[int | str] = ["batch", "c", "h", "w"],  # noqa: B006
) -> onnx.ModelProto:
    """A graph from ``input`` to the first output of the last node."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input", element, input_shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], element, output_shape)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def conv_chain() -> Graph:
    return chain


@pytest.fixture
def graph_of() -> Graph:
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    """Writes a model to a directory of its own, so that the output directory can be looked through."""

    def save(model: onnx.ModelProto) -> Path:
        path = tmp_path / "graphs" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        onnx.save(model, path)
        return path

    return save


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty directory for engines."""
    path = tmp_path / "out"
    path.mkdir()
    return path


STAND_INS = Path(__file__).parent / "standins"  # a package ``tensorrt``


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a TensorRT on the import path that has the names of one version and records what it is asked."""

    def install(
        version: str,
        names: str | None = None,
        gpu: bool = True,
        device: str = "here",
        dla_cores: int = 0,
        **more: object,
    ) -> None:
        setting = {
            "version": version,
            "names": names or ".".join(version.split(".")[:2]),
            "gpu": gpu,
            "device": device,
            "dla_cores": dla_cores,
            **more,
        }
        monkeypatch.setenv("TENSORRT_STAND_IN", json.dumps(setting))
        monkeypatch.syspath_prepend(STAND_INS)

    return install
