"""What counts as the same computation, and that a pass which changes anything else is still proven."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from posedge.errors import GraphError
from posedge.export.passes.base import GraphPass, apply_passes
from posedge.export.passes.computation import computation


def network() -> ModelProto:
    """Conv, Sub of two branches, Relu."""
    weights = np.random.default_rng(0).standard_normal((2, 4, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "left", dilations=[1, 1]),
        helper.make_node("Conv", ["x", "w1"], ["b"], "right"),
        helper.make_node("Sub", ["a", "b"], ["c"], "difference"),
        helper.make_node("Relu", ["c"], ["y"], "relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 4, 4])],
        [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rename(model: ModelProto) -> None:
    names = {"a": "left_out", "w0": "left.weight", "c": "sum"}
    for node in model.graph.node:
        node.name += "_renamed"
        node.doc_string = "a note"
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    model.graph.initializer[0].name = "left.weight"
    model.graph.value_info.add(name="sum")
    model.metadata_props.add(key="note", value="text")


def test_names_and_notes_do_not_count() -> None:
    renamed = network()
    rename(renamed)
    assert computation(renamed) == computation(network())


def nothing(model: ModelProto) -> None:
    pass


def swap_inputs(model: ModelProto) -> None:
    model.graph.node[2].input[:] = ["b", "a"]


def change_weight(model: ModelProto) -> None:
    weight = numpy_helper.to_array(model.graph.initializer[1]).copy()
    weight[3, 2, 0, 0] = np.nextafter(weight[3, 2, 0, 0], np.float32(9))
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(weight, "w1"))


def change_attribute(model: ModelProto) -> None:
    model.graph.node[0].attribute[0].ints[:] = [2, 1]


def change_operator(model: ModelProto) -> None:
    model.graph.node[2].op_type = "Add"


def change_wiring(model: ModelProto) -> None:
    model.graph.node[3].input[0] = "a"


def lose_a_definition(model: ModelProto) -> None:
    """A renaming that forgets a consumer."""
    model.graph.node[0].output[0] = "renamed"


def change_opset(model: ModelProto) -> None:
    model.opset_import[0].version = 16


def change_shape(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


CHANGES = [
    *(swap_inputs, change_weight, change_attribute, change_operator),
    *(change_wiring, lose_a_definition, change_opset, change_shape),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_decides_the_outputs_counts(change: Callable[[ModelProto], None]) -> None:
    changed = network()
    change(changed)
    assert computation(changed) != computation(network())


class Edit(GraphPass):
    def __init__(self, change: Callable[[ModelProto], None]) -> None:
        self._change = change

    def edit(self, model: ModelProto) -> ModelProto:
        self._change(model)
        return model


@pytest.mark.parametrize("change", [swap_inputs, change_operator, change_wiring, lose_a_definition])
def test_a_pass_that_changes_the_outputs_is_caught_behind_one_that_does_not(
    change: Callable[[ModelProto], None],
) -> None:
    batch = np.random.default_rng(1).standard_normal((2, 3, 4, 4)).astype(np.float32)
    with pytest.raises(GraphError, match=r"pass Edit \(after Edit\) failed"):
        apply_passes(network(), [Edit(nothing), Edit(change)], batch)
    assert apply_passes(network(), [Edit(nothing)], batch) == network()
