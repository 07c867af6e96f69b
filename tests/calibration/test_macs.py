"""Multiply-accumulates of a graph are those of the network it came from, and the share in INT8 is counted."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser

from posedge.calibration.calibrate import calibrate
from posedge.calibration.macs import int8_share, layer_macs
from posedge.calibration.recipe import Recipe
from posedge.export.macs import count_cost
from posedge.export.zoo import build_model, find_entry

IMAGE = "n, 8, 12, 10"


def network(body: str, shapes: dict[str, tuple[int, ...]], inputs: str = IMAGE) -> onnx.ModelProto:
    outputs = ", ".join("ncdefg"[: inputs.count(",") + 1])
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net '
        f"(float[{inputs}] x) => (float[{outputs}] y) {{ {body} }}"
    )
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        value = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


STRIDED = "strides = [2, 2]"


@pytest.mark.parametrize(
    ("body", "shapes", "inputs", "expected"),
    [
        ("y = Conv(x, w)", {"w": (4, 8, 3, 3)}, IMAGE, 4 * 8 * 9 * 10 * 8),
        (f"y = Conv <{STRIDED}, pads = [1, 1, 1, 1]> (x, w)", {"w": (4, 8, 3, 3)}, IMAGE, 4 * 8 * 9 * 6 * 5),
        ("y = Conv <group = 8> (x, w, b)", {"w": (16, 1, 3, 3), "b": (16,)}, IMAGE, 16 * 9 * 10 * 8),
        (f"y = ConvTranspose <{STRIDED}> (x, w)", {"w": (8, 5, 4, 4)}, IMAGE, 8 * 5 * 16 * 12 * 10),
        ("y = Gemm(x, w)", {"w": (30, 7)}, "n, 30", 30 * 7),
        ("y = Gemm <transB = 1> (x, w)", {"w": (7, 30)}, "n, 30", 30 * 7),
        ("y = MatMul(x, w)", {"w": (30, 7)}, "n, 17, 30", 17 * 30 * 7),
    ],
)
def test_each_kind_of_layer(body: str, shapes: dict, inputs: str, expected: int) -> None:
    assert layer_macs(network(body, shapes, inputs)) == {"y": expected}


def test_layers_go_by_their_first_output_and_others_have_none() -> None:
    model = network(
        "a = Conv(x, w) r = Relu(a) b = Conv(r, v) y = Add(b, b)", {"w": (4, 8, 1, 1), "v": (2, 4, 1, 1)}
    )
    assert layer_macs(model) == {"a": 4 * 8 * 120, "b": 2 * 4 * 120}


def test_a_layer_without_a_known_size_is_left_out() -> None:
    model = network("a = Conv(x, w) y = Conv(a, v)", {"w": (4, 8, 1, 1), "v": (2, 4, 1, 1)}, "n, 8, h, 10")
    assert layer_macs(model) == {}
    assert int8_share(model) == 0


@pytest.mark.parametrize("name", ["rsn_18_256x192", "pose_resnext_50_256x192"])
def test_a_graph_has_the_cost_of_its_network(name: str, tmp_path: Path) -> None:
    """Of RSN-18 the deployed part only; of a ResNeXt with grouped and transposed convolutions."""
    spec = find_entry(name).spec
    with torch.device("meta"):
        cost = count_cost(build_model(name).eval(), spec.input_wh)
    width, height = spec.input_wh
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            build_model(name).eval(),
            (torch.zeros(1, 3, height, width),),
            str(tmp_path / "net.onnx"),
            dynamo=False,
            input_names=["input"],
            dynamic_axes={"input": {0: "n"}},
            opset_version=17,
        )
    assert sum(layer_macs(onnx.load(tmp_path / "net.onnx")).values()) == cost.deployed_macs


def test_the_share_in_int8_is_that_of_the_convolutions_with_int8_on_both_inputs(tmp_path: Path) -> None:
    shapes = {"w": (8, 8, 3, 3), "v": (24, 8, 1, 1), "u": (24, 4, 2, 2)}
    body = "a = Conv <pads = [1, 1, 1, 1]> (x, w) r = Relu(a) b = Conv(r, v) s = Relu(b)"
    model = network(f"{body} y = ConvTranspose <strides = [2, 2]> (s, u)", shapes)
    onnx.save(model, tmp_path / "net.onnx")
    crops = [np.random.default_rng(0).normal(size=(2, 8, 12, 10)).astype(np.float32)]
    found = calibrate(tmp_path / "net.onnx", crops, Recipe(rounded=False, target="tensorrt"))
    work = {"a": 8 * 8 * 9, "b": 24 * 8, "y": 24 * 4 * 4}
    assert layer_macs(found.model) == {name: count * 120 for name, count in work.items()}
    assert int8_share(model) == 0
    for kept in ([], ["a"], ["b", "y"], ["a", "b"]):
        quantised = found.quantized(kept)
        expected = 1 - sum(work[name] for name in kept) / sum(work.values())
        assert int8_share(quantised) == pytest.approx(expected, abs=1e-12)
        assert int8_share(quantised, layer_macs(model)) == pytest.approx(expected, abs=1e-12)


def test_int8_on_one_input_alone_does_not_count() -> None:
    """Neither a float weight beside an INT8 activation nor the other way round runs in INT8."""
    pair = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"
    weights = {"w": (4, 8, 1, 1), "s": ()}
    for body in (
        f"{pair} y = Conv(d, w)",
        "p = QuantizeLinear(w, s, z) d = DequantizeLinear(p, s, z) y = Conv(x, d)",
    ):
        model = network(body, weights)
        model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), "z"))
        assert list(layer_macs(model).values()) == [4 * 8 * 120]
        assert int8_share(model) == 0
