"""Mends: the finding is gone, and what the graph computes is the same to the last bit."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from posedge.engines.lint import lint, mend
from posedge.export.graphs import run_graph

X = np.random.default_rng(3).normal(size=(2, 3, 16, 16)).astype(np.float32)


def replace(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def node_named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (node,) = (node for node in model.graph.node if node.name == name)
    return node


def output(model: onnx.ModelProto) -> np.ndarray:
    (result,) = run_graph(model, X, optimise=False).values()
    return result


def assert_mended(model: onnx.ModelProto, *codes: str) -> onnx.ModelProto:
    """Mend ``model``, whose findings are ``codes``; it computes what it did and is itself left as it was."""
    assert [finding.code for finding in lint(model)] == list(codes)
    before = model.SerializeToString()
    result, mended = mend(model)
    assert model.SerializeToString() == before
    assert [finding.code for finding in mended] == list(codes)
    assert lint(result) == []
    np.testing.assert_array_equal(output(result), output(model))
    return result


def test_a_sound_graph_is_left_alone(conv_chain):
    model = conv_chain("int8")
    result, mended = mend(model)
    assert (result.SerializeToString(), mended) == (model.SerializeToString(), [])


def test_scales_of_one_number_become_scalars(conv_chain):
    model = conv_chain("int8", layers=2)
    replace(model, "scale", np.array([0.05], np.float32))
    replace(model, "zero", np.array([0], np.int8))
    result = assert_mended(model, *["activation-scale-shape"] * 4)
    assert [1] not in [list(tensor.dims) for tensor in result.graph.initializer]


def test_a_list_of_one_number_in_a_constant_node_becomes_a_scalar(conv_chain):
    model = conv_chain("int8", layers=1)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["list"], "constant0", value_floats=[0.05]))
    node_named(model, "quantize0").input[1] = "list"
    replace(model, "zero", np.array([0], np.int8))
    node_named(model, "dequantize0").input[1] = "list"
    assert_mended(model, *["activation-scale-shape"] * 2)


def test_scales_by_channel_are_not_mended(conv_chain):
    model = conv_chain("int8", layers=1)
    replace(model, "scale", np.full(3, 0.05, np.float32))
    replace(model, "zero", np.zeros(3, np.int8))
    result, mended = mend(model)
    assert mended == []
    assert lint(result) == lint(model) != []


def test_a_bias_of_int32_becomes_float(conv_chain):
    model = conv_chain("int8", layers=1)
    bias = np.arange(-4, 4, dtype=np.int32) * 1000
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(bias, "bias"),
            numpy_helper.from_array(np.linspace(1e-4, 5e-4, 8, dtype=np.float32), "bias_scale"),
        ]
    )
    node = helper.make_node("DequantizeLinear", ["bias", "bias_scale"], ["b"], "dequantize_bias", axis=0)
    model.graph.node.insert(0, node)
    node_named(model, "conv0").input.append("b")
    result = assert_mended(model, "int32-bias")
    assert not {"bias", "bias_scale"} & {tensor.name for tensor in result.graph.initializer}


def test_a_quantised_scalar_becomes_a_constant(quantised_scalar):
    result = assert_mended(quantised_scalar, "quantised-scalar")
    assert [node.op_type for node in result.graph.node] == ["Mul"]


def test_a_scale_of_zero_over_weights_of_zero(conv_chain):
    model = conv_chain("int8", layers=1)
    weights = numpy_helper.to_array(model.graph.initializer[4]).copy()
    weights[7] = 0
    replace(model, "weight0", weights)
    replace(model, "weight_scale", np.array([0.01] * 7 + [0], np.float32))
    assert_mended(model, "scale")


def test_a_scale_of_zero_over_other_weights_is_not_mended(conv_chain):
    model = conv_chain("int8", layers=1)
    replace(model, "weight_scale", np.array([0.01] * 7 + [0], np.float32))
    assert [finding.code for finding in lint(mend(model)[0])] == ["scale"]


def test_a_node_without_outputs_goes(conv_chain):
    model = conv_chain()
    model.graph.node.append(helper.make_node("Relu", ["input"], [], "culprit"))
    result, mended = mend(model)
    assert [finding.node for finding in mended] == ["culprit"]
    assert result.SerializeToString() == conv_chain().SerializeToString()


def test_half_weights_of_float_layers_become_float(conv_chain):
    model = conv_chain()
    for name in ("weight0", "weight1"):
        values = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        replace(model, name, numpy_helper.to_array(values).astype(np.float16))
    result, mended = mend(model)
    assert {finding.node for finding in mended} == {"conv0", "conv1"}
    assert lint(result) == []
    for name in ("weight0", "weight1"):
        half = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        replace(model, name, numpy_helper.to_array(half).astype(np.float32))
    np.testing.assert_array_equal(output(result), output(model))


def test_a_double_that_is_only_cast_becomes_float(graph_of):
    constants = [numpy_helper.from_array(np.array(0.1), "tenth")]
    nodes = [
        helper.make_node("Cast", ["tenth"], ["narrow"], "cast0", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["input", "narrow"], ["y"], "mul0"),
    ]
    result = assert_mended(graph_of(nodes, constants), "double-tensor")
    assert {tensor.data_type for tensor in result.graph.initializer} == {TensorProto.FLOAT}


@pytest.mark.parametrize("values", [np.array(0, np.uint8), np.array(128, np.uint8)])
def test_unsigned_activations_are_not_mended(values, conv_chain):
    model = conv_chain("int8", layers=1)
    replace(model, "zero", values)
    result, mended = mend(model)
    assert mended == []
    assert lint(result) == lint(model) != []


def test_one_mend_may_uncover_the_next(conv_chain):
    """A graph with a node without outputs is looked at no further until that is gone."""
    model = conv_chain("int8", layers=1)
    replace(model, "scale", np.array([0.05], np.float32))
    replace(model, "zero", np.array([0], np.int8))
    model.graph.node.append(helper.make_node("Relu", ["input"], [], "culprit"))
    result, mended = mend(model)
    assert [finding.code for finding in mended] == [
        "node-without-outputs",
        *["activation-scale-shape"] * 2,
    ]
    assert lint(result) == []
