"""The rules look into the graphs inside nodes: If, Loop."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from posedge.engines.lint import lint, mend

SHAPE: list[int | str] = ["batch", 3, 16, 16]


def tensor(name: str, value: object, kind: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, kind), name)


def body(name: str, nodes: list[onnx.NodeProto], *constants: onnx.TensorProto) -> onnx.GraphProto:
    """A graph without inputs; its output is the last node's."""
    output = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, SHAPE)
    return helper.make_graph(nodes, name, [], [output], constants)


def choice(graph_of, then: onnx.GraphProto, *constants: onnx.TensorProto) -> onnx.ModelProto:
    """An If of a constant; else the input goes through a Relu."""
    other = body("other", [helper.make_node("Relu", ["input"], ["t"], "relu0")])
    node = helper.make_node("If", ["yes"], ["y"], "if0", then_branch=then, else_branch=other)
    return graph_of([node], [tensor("yes", True, np.bool_), *constants])


def scaled(*constants: onnx.TensorProto) -> onnx.GraphProto:
    """A branch that multiplies the input, which it reads from outside, by ``k``."""
    return body("scaled", [helper.make_node("Mul", ["input", "k"], ["t"], "mul0")], *constants)


def found(model: onnx.ModelProto) -> list[tuple[str, str]]:
    return [(finding.code, finding.node) for finding in lint(model)]


def test_a_branch_that_reads_the_input_from_outside(graph_of):
    assert lint(choice(graph_of, scaled(tensor("k", 2)))) == []


def test_an_output_of_which_no_branch_reads_the_input(graph_of):
    branches = {
        f"{name}_branch": body(name, [helper.make_node("Identity", ["image"], ["t"], name)])
        for name in ("then", "else")
    }
    model = graph_of(
        [helper.make_node("If", ["yes"], ["y"], "if0", **branches)],
        [tensor("yes", True, np.bool_), tensor("image", np.zeros((1, 3, 16, 16)))],
        output_shape=[1, 3, 16, 16],
    )
    assert found(model) == [("constant-output", "y")]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_of_a_branch_that_are_not_finite(value, graph_of):
    assert found(choice(graph_of, scaled(tensor("k", value)))) == [("non-finite-weights", "k")]


def test_an_infinity_that_a_branch_multiplies_with_is_found_outside(graph_of):
    model = choice(graph_of, scaled(), tensor("k", np.inf))
    assert found(model) == [("non-finite-weights", "k")]


def test_quantisation_in_a_branch_is_not_mended_and_does_not_say_so(graph_of):
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"], "quantize0"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["t"], "dequantize0"),
    ]
    unsigned = body("then", nodes, tensor("scale", 0.1), tensor("zero", 0, np.uint8))
    assert {finding.code for finding in lint(choice(graph_of, unsigned))} == {"uint8-activation"}
    vectors = (tensor("scale", [0.1]), tensor("zero", [0], np.int8))  # from outside
    model = choice(graph_of, body("then", nodes), *vectors)
    assert [finding.code for finding in lint(model)] == ["activation-scale-shape"] * 2
    assert not any("--mend" in finding.cure for finding in lint(model))
    assert mend(model)[1] == []


def test_branches_may_use_the_same_names(graph_of):
    """Types and constants are those of the branch: one is sound, the other has int64."""
    wide = body(
        "wide",
        [
            helper.make_node("Cast", ["input"], ["a"], "cast0", to=TensorProto.INT64),
            helper.make_node("Cast", ["a"], ["t"], "cast1", to=TensorProto.FLOAT),
        ],
    )
    narrow = body(
        "narrow", [helper.make_node("Relu", ["input"], ["a"]), helper.make_node("Relu", ["a"], ["t"])]
    )
    node = helper.make_node("If", ["yes"], ["y"], "if0", then_branch=narrow, else_branch=wide)
    model = graph_of([node], [tensor("yes", True, np.bool_)])
    assert found(model) == [("int64-tensor", "cast0")]


def test_the_counter_of_a_loop_does_not_depend_on_the_images(graph_of):
    state = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("before", "after")]
    go, on = (helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "on"))
    count = helper.make_tensor_value_info("count", TensorProto.INT64, [])
    nodes = [
        helper.make_node("Identity", ["go"], ["on"], "identity0"),
        helper.make_node("Mul", ["before", "k"], ["after"], "mul0"),
    ]
    step = helper.make_graph(nodes, "step", [count, go, state[0]], [on, state[1]])
    loop = helper.make_node("Loop", ["three", "yes", "input"], ["y"], "loop0", body=step)
    constants = [tensor("three", 3, np.int64), tensor("yes", True, np.bool_)]
    assert lint(graph_of([loop], [*constants, tensor("k", 2)])) == []
    assert found(graph_of([loop], [*constants, tensor("k", np.nan)])) == [("non-finite-weights", "k")]


def test_a_node_without_outputs_in_a_branch(graph_of):
    model = choice(graph_of, scaled(tensor("k", 2)))
    model.graph.node[0].attribute[0].g.node.append(helper.make_node("Relu", ["input"], [], "culprit"))
    (finding,) = lint(model)
    assert (finding.code, finding.node) == ("node-without-outputs", "culprit")
    assert "--mend" not in finding.cure


def test_a_mend_leaves_what_a_branch_reads(graph_of):
    """The stored number is folded into a constant; a branch reads it too, as int8."""
    nodes = [
        helper.make_node("Cast", ["stored"], ["k"], "cast0", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["input", "k"], ["t"], "mul0"),
    ]
    model = choice(graph_of, body("then", nodes), tensor("stored", 40, np.int8), tensor("scale", 0.05))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["stored", "scale"], ["d"], "dq0"))
    model.graph.node.append(helper.make_node("Mul", ["y", "d"], ["z"], "mul1"))
    model.graph.output[0].name = "z"
    result, mended = mend(model)
    assert [finding.code for finding in mended] == ["quantised-scalar"]
    assert lint(result) == []
