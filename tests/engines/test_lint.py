"""Each rule of the lint on a graph that breaks it and on one that does not."""

import ast
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import posedge.engines.lint
from posedge.engines.lint import lint, lint_file


def codes(model: onnx.ModelProto) -> list[str]:
    return [finding.code for finding in lint(model)]


def replace(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    """Give the constant of that name other values."""
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def node_named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (node,) = (node for node in model.graph.node if node.name == name)
    return node


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_sound_graph_has_no_findings(precision, conv_chain):
    assert lint(conv_chain(precision)) == []


@pytest.mark.parametrize(
    ("opset", "expected"), [(8, ["opset"]), (9, []), (17, []), (25, []), (26, ["opset"]), (99, ["opset"])]
)
def test_opsets_outside_the_parsers_range(opset, expected, graph_of):
    model = graph_of([helper.make_node("Relu", ["input"], ["relu"], "relu0")])
    model.opset_import[0].version = opset
    model.ir_version = 10
    assert codes(model) == expected


def test_ir_versions_that_are_not_known(conv_chain):
    model = conv_chain()
    model.ir_version = 99
    assert codes(model) == ["ir-version"]


def test_two_inputs(conv_chain):
    model = conv_chain()
    model.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [1]))
    (finding,) = lint(model)
    assert finding.code == "inputs"
    assert "input, second" in finding.message


def test_a_weight_that_is_listed_as_an_input_is_none(conv_chain):
    model = conv_chain()
    model.graph.input.append(helper.make_tensor_value_info("weight0", TensorProto.FLOAT, [8, 3, 3, 3]))
    assert lint(model) == []


def test_an_empty_graph():
    model = helper.make_model(helper.make_graph([], "g", [], []), opset_imports=[helper.make_opsetid("", 17)])
    assert set(codes(model)) == {"inputs", "outputs", "no-nodes"}


@pytest.mark.parametrize("outputs", [[], [""]])
def test_a_node_without_outputs(outputs, conv_chain):
    model = conv_chain()
    model.graph.node.append(helper.make_node("Relu", ["input"], outputs, "culprit"))
    (finding,) = lint(model)
    assert (finding.code, finding.node) == ("node-without-outputs", "culprit")


def test_what_the_checker_refuses(conv_chain):
    model = conv_chain()
    node_named(model, "conv1").input[0] = "from nowhere"
    (finding,) = lint(model)
    assert finding.code == "invalid-onnx"
    assert "from nowhere" in finding.message


def test_a_name_that_is_not_utf8(conv_chain, tmp_path):
    content = conv_chain().SerializeToString()
    assert content.count(b"conv1") == 1
    (tmp_path / "model.onnx").write_bytes(content.replace(b"conv1", b"con\xff1"))
    (finding,) = lint_file(tmp_path / "model.onnx")
    assert finding.code == "invalid-onnx"
    assert "not UTF-8" in finding.message


def test_a_domain_that_is_not_imported(conv_chain):
    model = conv_chain()
    model.graph.node[0].domain = "elsewhere"
    (finding,) = lint(model)
    assert finding.code == "invalid-onnx"
    assert "elsewhere" in finding.message


def test_weights_in_another_type_than_their_input(conv_chain):
    model = conv_chain()
    replace(model, "weight1", np.zeros((8, 8, 3, 3), np.float16))
    (finding,) = lint(model)
    assert (finding.code, finding.node) == ("weight-type", "conv1")
    assert "its input is float and its weight 'weight1' is float16" in finding.message


def test_data_that_do_not_fill_their_shape(conv_chain):
    model = conv_chain()
    model.graph.initializer[1].raw_data = model.graph.initializer[1].raw_data[:-4]
    (finding,) = lint(model)
    assert (finding.code, finding.node) == ("tensor-data", "weight1")


def test_integer_operators(graph_of):
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["input"], ["q", "s", "z"], "dynamic0"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"], "dequantize0"),
    ]
    assert codes(graph_of(nodes)) == ["integer-operator", "computed-scale"]


@pytest.mark.parametrize("scale", [0.0, -0.1, np.nan, np.inf])
def test_scales_that_are_not_positive(scale, conv_chain):
    model = conv_chain("int8", layers=1)
    replace(model, "scale", np.array(scale, np.float32))
    assert {"scale"} <= set(codes(model)) <= {"scale", "non-finite-weights"}


def test_one_bad_scale_among_a_weights_channels(conv_chain):
    model = conv_chain("int8", layers=1)
    replace(model, "weight_scale", np.array([0.01] * 7 + [0], np.float32))
    (finding,) = lint(model)
    assert (finding.code, finding.node) == ("scale", "dequantize_weight0")


def test_zero_points_that_are_not_zero(conv_chain):
    model = conv_chain("int8", layers=1)
    replace(model, "zero", np.array(3, np.int8))
    assert [(f.code, f.node) for f in lint(model)] == [
        ("zero-point", "quantize0"),
        ("zero-point", "dequantize0"),
    ]


def test_unsigned_activations(conv_chain):
    model = conv_chain("int8", layers=1)
    replace(model, "zero", np.array(0, np.uint8))
    assert codes(model) == ["uint8-activation"] * 2


def test_unsigned_weights(conv_chain):
    model = conv_chain("int8", layers=1)
    replace(model, "weight0", np.ones((8, 3, 3, 3), np.uint8))
    replace(model, "weight_zero", np.zeros(8, np.uint8))
    (finding,) = lint(model)
    assert (finding.code, finding.node) == ("quantised-type", "dequantize_weight0")
    assert "uint8" in finding.message


def test_a_missing_zero_point_means_uint8(conv_chain):
    model = conv_chain("int8", layers=1)
    del node_named(model, "quantize0").input[2]
    del node_named(model, "dequantize0").input[2]
    (finding,) = lint(model)
    assert (finding.code, finding.node) == ("uint8-activation", "quantize0")


def test_a_quantised_bias(conv_chain):
    model = conv_chain("int8", layers=1)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.zeros(8, np.int32), "bias"),
            numpy_helper.from_array(np.full(8, 0.0005, np.float32), "bias_scale"),
        ]
    )
    dequantize = helper.make_node(
        "DequantizeLinear", ["bias", "bias_scale"], ["b"], "dequantize_bias", axis=0
    )
    model.graph.node.insert(0, dequantize)
    node_named(model, "conv0").input.append("b")
    (finding,) = lint(model)
    assert (finding.code, finding.node) == ("int32-bias", "dequantize_bias")
    assert "int32" in finding.message


@pytest.mark.parametrize("shape", [(1,), (3,)])
def test_activation_scales_must_have_rank_0(shape, conv_chain):
    model = conv_chain("int8", layers=1)
    replace(model, "scale", np.full(shape, 0.05, np.float32))
    replace(model, "zero", np.zeros(shape, np.int8))
    assert codes(model) == ["activation-scale-shape"] * 2


def test_a_convolutions_weights_are_quantised_along_axis_0(conv_chain):
    model = conv_chain("int8", layers=2)
    # the second Conv has 8 channels on both axes, so that only the attribute is wrong
    node_named(model, "dequantize_weight1").attribute[0].i = 1
    (finding,) = lint(model)
    assert (finding.code, finding.node) == ("weight-axis", "dequantize_weight1")
    node_named(model, "dequantize_weight1").attribute[0].i = -4
    assert lint(model) == []


@pytest.mark.parametrize("axis", [0, 1])
def test_a_transposed_convolution_has_one_scale(axis, conv_chain):
    model = conv_chain("int8", layers=2)
    node_named(model, "conv1").op_type = "ConvTranspose"
    node_named(model, "dequantize_weight1").attribute[0].i = axis
    (finding,) = lint(model)
    assert (finding.code, finding.node) == ("transposed-weight-axis", "dequantize_weight1")
    replace(model, "weight_scale", np.array(0.01, np.float32))
    replace(model, "weight_zero", np.array(0, np.int8))
    assert lint(model) == []


def test_a_quantised_scalar(quantised_scalar):
    (finding,) = lint(quantised_scalar)
    assert (finding.code, finding.node) == ("quantised-scalar", "dequantize0")


def test_constants_may_come_from_nodes(conv_chain):
    """Some exporters write scales as Constant nodes instead of initializers."""
    model = conv_chain("int8", layers=1)
    scale = helper.make_node(
        "Constant", [], ["other"], "constant0", value=numpy_helper.from_array(np.array(0.05, np.float32))
    )
    model.graph.node.insert(0, scale)
    node_named(model, "quantize0").input[1] = "other"
    node_named(model, "dequantize0").input[1] = "other"
    assert lint(model) == []


def test_a_weight_without_values(graph_of):
    weight = numpy_helper.from_array(np.zeros((0, 3, 3, 3), np.float32), "weight")
    (finding,) = lint(graph_of([helper.make_node("Conv", ["input", "weight"], ["y"], "conv0")], [weight]))
    assert (finding.code, finding.node) == ("empty-tensor", "weight")


def test_an_input_without_values(graph_of):
    nodes = [helper.make_node("Relu", ["input"], ["y"], "relu0")]
    (finding,) = lint(graph_of(nodes, input_shape=[1, 0, 16, 16], output_shape=[1, 0, 16, 16]))
    assert (finding.code, finding.node) == ("empty-tensor", "input")


def test_an_output_that_depends_on_no_input(conv_chain):
    model = conv_chain()
    model.graph.output.append(helper.make_tensor_value_info("weight0", TensorProto.FLOAT, [8, 3, 3, 3]))
    (finding,) = lint(model)
    assert (finding.code, finding.node) == ("constant-output", "weight0")


def test_a_double_constant(graph_of):
    constants = [numpy_helper.from_array(np.array(2.0), "two")]
    nodes = [
        helper.make_node("Cast", ["input"], ["wide"], "widen", to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["wide", "two"], ["doubled"], "mul0"),
        helper.make_node("Cast", ["doubled"], ["narrow"], "narrow0", to=TensorProto.FLOAT),
    ]
    found = lint(graph_of(nodes, constants))
    assert {finding.code for finding in found} == {"double-tensor"}
    assert [finding.node for finding in found] == ["two", "widen", "mul0"]


def test_a_double_input(graph_of):
    nodes = [helper.make_node("Cast", ["input"], ["x"], "cast0", to=TensorProto.FLOAT)]
    (finding,) = lint(graph_of(nodes, element=TensorProto.DOUBLE, output_shape=["batch", 3, 16, 16]))
    assert (finding.code, finding.node) == ("double-tensor", "input") or finding.code == "invalid-onnx"


def test_int64_that_depends_on_the_images(graph_of):
    nodes = [
        helper.make_node("ArgMax", ["input"], ["place"], "argmax0", axis=1),
        helper.make_node("Cast", ["place"], ["x"], "cast0", to=TensorProto.FLOAT),
    ]
    (finding,) = lint(graph_of(nodes))
    assert (finding.code, finding.node) == ("int64-tensor", "argmax0")


def test_int64_shapes_are_legitimate(graph_of):
    constants = [numpy_helper.from_array(np.array([0], np.int64), "first")]
    nodes = [
        helper.make_node("Shape", ["input"], ["shape"], "shape0"),
        helper.make_node("Gather", ["shape", "first"], ["batch"], "gather0"),
        helper.make_node("Concat", ["batch", "rest"], ["target"], "concat0", axis=0),
        helper.make_node("Reshape", ["input", "target"], ["x"], "reshape0"),
    ]
    constants.append(numpy_helper.from_array(np.array([3, 256, 1], np.int64), "rest"))
    assert lint(graph_of(nodes, constants)) == []


def test_a_finding_says_where_what_and_how_to_cure_it(conv_chain):
    model = conv_chain("int8", layers=1)
    replace(model, "scale", np.array(0, np.float32))
    text = str(lint(model)[0])
    assert text == (
        "scale at 'quantize0': a scale must be positive and finite. Quantise the graph again (posedge deploy)"
    )


def test_a_missing_file_is_a_finding(tmp_path):
    assert [finding.code for finding in lint_file(tmp_path / "absent.onnx")] == ["not-onnx"]


def test_every_code_is_in_the_documentation():
    package = Path(posedge.engines.lint.__file__).parent
    calls = [
        node
        for path in package.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding"
    ]
    codes = {call.args[0].value for call in calls}
    page = (Path(__file__).resolve().parents[2] / "docs" / "engines.md").read_text()
    rows = "\n".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    assert len(codes) > 20
    assert codes <= set(re.findall(r"`([a-z0-9-]+)`", rows))


def test_a_node_without_a_name_is_called_after_its_output(conv_chain):
    model = conv_chain("int8", layers=1)
    replace(model, "zero", np.array(3, np.int8))
    for node in model.graph.node:
        node.name = ""
    assert [finding.node for finding in lint(model)] == ["q0", "x0"]
