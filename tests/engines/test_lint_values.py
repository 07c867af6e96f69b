"""The lint's rules on values that are not finite, on other domains and on functions."""

import numpy as np
import onnx
import onnx.inliner
import pytest
from onnx import TensorProto, helper, numpy_helper

from posedge.engines.lint import lint


def codes(model: onnx.ModelProto) -> list[str]:
    return [finding.code for finding in lint(model)]


def replace(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    """Give the constant of that name other values."""
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_weights_that_are_not_finite(value, precision, conv_chain):
    model = conv_chain(precision)
    values = numpy_helper.to_array(model.graph.initializer[2]).copy()
    values[0, 0, 0, :2] = value
    replace(model, "weight2", values)
    (finding,) = lint(model)
    assert (finding.code, finding.node) == ("non-finite-weights", "weight2")
    assert finding.message.startswith("2 of 576 values")


def test_an_infinite_bound_of_a_clip_is_legitimate(graph_of):
    bounds = [
        numpy_helper.from_array(np.array(0, np.float32), "low"),
        numpy_helper.from_array(np.array(np.inf, np.float32), "high"),
    ]
    nodes = [helper.make_node("Clip", ["input", "low", "high"], ["clipped"], "clip0")]
    assert lint(graph_of(nodes, bounds)) == []
    assert codes(
        graph_of(nodes, [bounds[0], numpy_helper.from_array(np.array(np.nan, np.float32), "high")])
    ) == ["non-finite-weights"]


@pytest.mark.parametrize(
    "held",
    [
        {"value_float": np.nan},
        {"value_floats": [np.nan]},
        {"value": numpy_helper.from_array(np.float32([np.nan]))},
    ],
)
def test_a_constant_node_that_is_not_finite(held, graph_of):
    nodes = [
        helper.make_node("Constant", [], ["k"], "constant0", **held),
        helper.make_node("Max", ["input", "k"], ["y"], "max0"),
    ]
    (finding,) = lint(graph_of(nodes))
    assert (finding.code, finding.node) == ("non-finite-weights", "k")


@pytest.mark.parametrize(
    ("operator", "held"),
    [("LeakyRelu", {"alpha": np.nan}), ("Resize", {"cubic_coeff_a": np.nan})],
)
def test_an_attribute_that_is_nan(operator, held, graph_of):
    inputs = ["input", "", "scales"] if operator == "Resize" else ["input"]
    scales = numpy_helper.from_array(np.ones(4, np.float32), "scales")
    (finding,) = lint(graph_of([helper.make_node(operator, inputs, ["y"], "node0", **held)], [scales]))
    assert (finding.code, finding.node) == ("non-finite-weights", "node0")


@pytest.mark.parametrize("through", [[], ["Identity"], ["Cast", "Identity"]])
def test_an_infinity_in_a_product(through, graph_of):
    nodes, name = [], "k"
    for operator in through:
        more = {"to": TensorProto.FLOAT} if operator == "Cast" else {}
        nodes.append(helper.make_node(operator, [name], [f"{name}_"], f"{operator}0", **more))
        name += "_"
    nodes.append(helper.make_node("Mul", ["input", name], ["y"], "mul0"))
    (finding,) = lint(graph_of(nodes, [numpy_helper.from_array(np.array(np.inf, np.float32), "k")]))
    assert (finding.code, finding.node) == ("non-finite-weights", "k")


def test_data_of_a_node_that_do_not_fill_their_shape(graph_of):
    value = numpy_helper.from_array(np.ones(4, np.float32))
    value.raw_data = value.raw_data[:-4]
    nodes = [
        helper.make_node("Constant", [], ["k"], "constant0", value=value),
        helper.make_node("Mul", ["input", "k"], ["y"], "mul0"),
    ]
    (finding,) = lint(graph_of(nodes))
    assert (finding.code, finding.node) == ("tensor-data", "constant0")


def in_other_domain(model: onnx.ModelProto, *operators: str) -> onnx.ModelProto:
    """These operators become onnxruntime's own of the same name."""
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    for node in model.graph.node:
        if node.op_type in operators:
            node.domain = "com.microsoft"
    return model


@pytest.mark.parametrize("operator", ["QuantizeLinear", "DequantizeLinear", "Conv"])
def test_operators_of_other_domains_that_are_called_as_onnxs(operator, conv_chain):
    model = in_other_domain(conv_chain("int8", layers=1), operator)
    found = lint(model)
    assert {finding.code for finding in found} == {"other-domain"}
    assert [finding.node for finding in found] == [n.name for n in model.graph.node if n.domain]
    assert f"the {operator} of com.microsoft" in found[0].message


def test_an_operator_that_onnx_does_not_have_is_left_to_the_parser(graph_of):
    model = graph_of([helper.make_node("Plugin", ["input"], ["y"], "plugin0", domain="com.microsoft")])
    assert lint(in_other_domain(model)) == []


def test_functions_of_the_models_own(graph_of):
    """Inside may be what is refused outside, here activations in uint8."""
    nodes = [
        helper.make_node("QuantizeLinear", ["a", "s"], ["q"], "quantize0"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["b"], "dequantize0"),
    ]
    function = helper.make_function("local", "F", ["a", "s"], ["b"], nodes, [helper.make_opsetid("", 17)])
    call = helper.make_node("F", ["input", "scale"], ["y"], "call", domain="local")
    model = graph_of([call], [numpy_helper.from_array(np.array(0.05, np.float32), "scale")])
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.functions.append(function)
    (finding,) = lint(model)
    assert (finding.code, finding.node) == ("local-function", "F")
    inlined = onnx.inliner.inline_local_functions(model)  # as the cure says
    assert codes(inlined) == ["uint8-activation"]
