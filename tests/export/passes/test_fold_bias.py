"""Constants behind a layer are its bias: the same numbers from fewer nodes."""

import numpy as np
import onnx
import pytest
from onnx import parser

from posedge.export.graphs import run_graph
from posedge.export.passes.base import relative_difference
from posedge.export.passes.fold_bias import FoldBias


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1, 1), (1, 1, 1, 1), (1,), ()])
@pytest.mark.parametrize("operator", ["Add", "Sub"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_constant_behind_a_convolution_is_its_bias(net, rewritten, constants, shape, operator, bias):
    network = net()
    conv = network.conv("input", 8, bias=bias)
    addend = network.random("b", *shape)
    total = network.op(operator, conv, addend, channels=8)
    result = rewritten(network, FoldBias(), network.op("Relu", total))
    assert operators(result) == ["Conv", "Relu"]
    assert result.graph.node[0].output[0] == total, "readers of the sum need not know"
    assert sorted(value.shape for value in constants(result).values()) == [(8,), (8, 3, 3, 3)]


@pytest.mark.parametrize("group", [1, 4])
def test_a_constant_before_the_operand_and_transposed_convolutions(net, rewritten, group):
    network = net(channels=8)
    up = network.transposed("input", 12, group=group, strides=[2, 2], pads=[1] * 4)
    result = rewritten(network, FoldBias(), network.op("Add", network.random("b", 12, 1, 1), up, channels=12))
    assert operators(result) == ["ConvTranspose"]


# a Gemm's attributes, and the shapes of its bias and of what is added
GEMMS = [("transB = 1", None, (5,)), ("beta = 0.5, transB = 1", (5,), (1, 5)), ("alpha = 2.0", (1, 1), ())]


@pytest.mark.parametrize(("values", "bias", "addend"), GEMMS)
def test_a_constant_behind_a_matrix_product_with_bias(net, rewritten, values, bias, addend):
    network = net()
    flat = network.op("Flatten", network.op("GlobalAveragePool", "input"))
    weights = network.random("w", *((5, 3) if "transB" in values else (3, 5)))
    inputs = [flat, weights] + ([] if bias is None else [network.random("c", *bias)])
    named = dict(part.split(" = ") for part in values.split(", "))
    gemm = network.op("Gemm", *inputs, **{k: int(v) if k == "transB" else float(v) for k, v in named.items()})
    total = network.op("Add", gemm, network.random("b", *addend))
    shape = network.const("shape", np.array([0, 5, 1, 1]))
    result = rewritten(network, FoldBias(), network.op("Reshape", total, shape))
    assert operators(result)[-2:] == ["Gemm", "Reshape"]


def test_sums_of_sums_become_one_bias(net, rewritten):
    network = net(whole=True)
    total = network.conv("input", 8)
    for index in range(3):
        total = network.op("Add", total, network.const(f"b{index}", np.full((8, 1, 1), index, np.float32)))
    assert operators(rewritten(network, FoldBias(), total)) == ["Conv"]


def test_a_constant_that_others_read_is_kept_for_them(net, rewritten, constants):
    network = net()
    shared = network.random("b", 8, 1, 1)
    first = network.op("Add", network.conv("input", 8), shared)
    second = network.op("Add", network.conv(first, 8), shared)
    result = rewritten(network, FoldBias(), network.op("Mul", second, shared))
    assert operators(result) == ["Conv", "Conv", "Mul"]
    np.testing.assert_array_equal(constants(result)["b"], constants(network.model())["b"])


# what must stay: body of a graph of two channels, with constants as Constant nodes
LEFT = [
    "a = Conv(x, w) y = Add(a, k) z = Relu(a)",  # the layer's output has another reader
    "z = Conv(x, w) y = Add(z, k)",  # it is an output itself
    "a = Conv(x, w) y = Sub(k, a) z = Relu(y)",  # the layer's sign would change
    "a = Conv(x, w) y = Add(a, x) z = Relu(y)",  # no constant
    "a = Conv(x, w) y = Add(a, row) z = Relu(y)",  # a number for each column
    "a = Relu(x) y = Add(a, k) z = Relu(y)",  # no layer before it
    "v = Neg(w) a = Conv(x, v) y = Add(a, k) z = Relu(y)",  # computed weights
]


@pytest.mark.parametrize("body", LEFT)
def test_what_is_no_bias_is_left_alone(body: str) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[n, 2, 2, 2] x)'
        "=> (float[n, 2, 2, 2] y, float[n, 2, 2, 2] z)"
        "<float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2, 1, 1] k = {5, 6}, float[2] row = {7, 8}>"
        f"{{ {body} }}"
    )
    before = model.SerializeToString()
    assert FoldBias().edit(model).SerializeToString() == before


def test_constants_of_constant_nodes_are_folded() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[n, 2, 2, 2] x) => (float[n, 2, 2, 2] y)'
        "<float[2, 2, 1, 1] w = {1, 2, 3, 4}>"
        "{ k = Constant <value = float[2, 1, 1] {5, 6}> () a = Conv(x, w) y = Add(a, k) }"
    )
    x = np.random.default_rng(0).normal(size=(2, 2, 2, 2)).astype(np.float32)
    expected = run_graph(model, x)["y"]
    heard: list[str] = []
    result = FoldBias(heard.append).edit(model)
    assert operators(result) == ["Conv"]
    assert heard == ["1 added constants are biases now"]
    np.testing.assert_allclose(run_graph(result, x)["y"], expected, rtol=1e-6)


def test_pp_tinypose_has_every_bias_in_its_convolution(tinypose) -> None:
    before, after = onnx.load(tinypose), FoldBias().edit(onnx.load(tinypose))
    assert operators(before).count("Add") - operators(after).count("Add") == 269
    assert all(len(node.input) == 3 for node in after.graph.node if node.op_type == "Conv")
    x = np.random.default_rng(0).normal(size=(2, 3, 256, 192)).astype(np.float32)
    for optimise in (False, True):
        expected, actual = (run_graph(graph, x, optimise=optimise)["heatmaps"] for graph in (before, after))
        assert relative_difference(expected, actual) < 1e-6
