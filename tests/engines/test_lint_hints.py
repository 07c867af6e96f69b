"""Hints: each on a graph that deserves it; none of them keeps a graph from being built."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from posedge.engines.lint import hints, lint


def quantised(body: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    """A graph on 16 channels; names ending in q are what Q and DQ make of the rest of the name."""
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> net (float[n, 16, 8, 8] x) => (float[n, c, h, w] y) '
        f"<float s = {{0.05}}, int8 z = {{0}}> {{ {body} }}"
    )
    for name, shape in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.full(shape, 0.05, np.float32), name))
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}{index}"
    scales = [tensor for tensor in model.graph.initializer if tensor.name in ("s", "z")]
    assert all(not tensor.dims for tensor in scales)
    assert lint(model) == []
    return model


X = "xi = QuantizeLinear(x, s, z) xq = DequantizeLinear(xi, s, z)"
W = "wi = QuantizeLinear(w, s, z) wq = DequantizeLinear(wi, s, z)"


@pytest.mark.parametrize(
    ("body", "shape", "expected"),
    [
        (f"{X} {W} y = Conv(xq, wq)", (16, 16, 1, 1), []),
        (f"{X} {W} y = Conv <group = 4> (xq, wq)", (16, 4, 1, 1), []),
        (f"{X} {W} y = Conv <group = 16> (xq, wq)", (16, 1, 1, 1), []),
        (f"{X} {W} y = Conv <group = 8> (xq, wq)", (16, 2, 1, 1), ["group-size"]),
        (f"{X} {W} y = ConvTranspose(xq, wq)", (16, 16, 2, 2), ["transposed-in-float"]),
        (f"{X} y = Conv(xq, w)", (16, 16, 1, 1), ["half-quantised"]),
        (f"{W} y = Conv(x, wq)", (16, 16, 1, 1), ["half-quantised"]),
        (
            f"{X} {W} c = Conv(xq, wq) i = QuantizeLinear(c, s, z) d = DequantizeLinear(i, s, z) y = Relu(d)",
            (16, 16, 1, 1),
            ["quantised-before-activation"],
        ),
    ],
)
def test_what_costs_speed_is_named(body: str, shape: tuple[int, ...], expected: list[str]) -> None:
    assert [finding.code for finding in hints(quantised(body, w=shape))] == ["refit", *expected]


def test_a_graph_of_very_many_nodes(graph_of) -> None:
    names = ["input", *(f"r{index}" for index in range(15_001))]
    nodes = [helper.make_node("Relu", [a], [b], b) for a, b in itertools.pairwise(names)]
    assert [hint.code for hint in hints(graph_of(nodes))] == ["many-nodes"]
    assert hints(graph_of(nodes[:100])) == []


def test_a_float_graph_needs_no_hints(conv_chain) -> None:
    assert hints(conv_chain()) == []
    assert hints(conv_chain("fp16")) == []


def test_a_hint_names_the_layer(conv_chain) -> None:
    model = conv_chain("int8", layers=1)
    (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
    weight = numpy_helper.from_array(np.zeros((8, 3, 3, 3), np.float32), "float_weight")
    model.graph.initializer.append(weight)
    conv.input[1] = "float_weight"
    (_, finding) = hints(model)
    assert (finding.code, finding.node) == ("half-quantised", "conv0")
