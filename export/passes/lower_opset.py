"""Write a graph of opset 18 in opset 17."""

from typing import Any

import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from ...errors import GraphError
from ..graphs import opset_of
from .base import GraphPass
from .shapes import inferred_shapes

# The newest opset that the parser of TensorRT 8.6 (JetPack 6.0) knows; newer ones read it too.
OPSET = 17
# IR versions 9 and 10 add nothing but float8 and int4 types and node metadata, and older onnxruntimes
# refuse them.
IR_VERSION = 8

_NEWER_OPSET = 18
_NEW_RESIZE_ATTRIBUTES = ("antialias", "axes", "keep_aspect_ratio_policy")


class LowerOpset(GraphPass):
    """torch's exporter writes opset 18 whatever it is asked for; this gives each operator its form of 17.

    An operator whose definition did not change between the two is left alone. onnx's own version converter
    has no way back for Split and Resize, which every zoo model has.
    """

    def edit(self, model: ModelProto) -> ModelProto:
        opset = opset_of(model)
        if opset not in (OPSET, _NEWER_OPSET):
            raise GraphError(f"the graph is written in opset {opset}; {OPSET} or {_NEWER_OPSET} was expected")
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        if opset == _NEWER_OPSET:
            shapes = inferred_shapes(model)
            for index, node in enumerate(model.graph.node):
                if node.domain in ("", "ai.onnx") and _changed(node):
                    _lower(node, index, shapes, constants)
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid("", OPSET))
        model.ir_version = IR_VERSION
        return model


def _changed(node: NodeProto) -> bool:
    return onnx.defs.get_schema(node.op_type, _NEWER_OPSET).since_version == _NEWER_OPSET


def _lower(
    node: NodeProto,
    index: int,
    shapes: dict[str, list[int | str] | None],
    constants: dict[str, onnx.TensorProto],
) -> None:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Split":
        # without sizes, opset 17 splits evenly into as many parts as there are outputs
        even = "num_outputs" not in attributes or _splits_evenly(node, attributes, shapes)
        if not even:
            raise GraphError(f"node {node.name!r} splits unevenly by count, which opset {OPSET} cannot say")
        _set_attributes(node, {key: value for key, value in attributes.items() if key != "num_outputs"})
    elif node.op_type == "Resize":
        if attributes.get("antialias", 0) or "axes" in attributes:
            raise GraphError(f"node {node.name!r}: Resize with antialias or axes is not in opset {OPSET}")
        _set_attributes(node, {key: v for key, v in attributes.items() if key not in _NEW_RESIZE_ATTRIBUTES})
    elif node.op_type.startswith("Reduce"):
        _lower_reduction(node, attributes, constants)
    elif node.op_type == "Pad" and len(node.input) < 4:
        pass  # 18 only added the fourth input
    else:
        raise GraphError(f"node {node.name!r} ({node.op_type}, number {index}) has no form in opset {OPSET}")


def _splits_evenly(
    node: NodeProto, attributes: dict[str, Any], shapes: dict[str, list[int | str] | None]
) -> bool:
    parts = [shapes.get(name) for name in node.output]
    sizes = {part[attributes.get("axis", 0)] if part else "" for part in parts}
    known = all(isinstance(size, int) for size in sizes)
    return known and len(sizes) == 1 and len(node.output) == attributes["num_outputs"]


def _lower_reduction(
    node: NodeProto, attributes: dict[str, Any], constants: dict[str, onnx.TensorProto]
) -> None:
    """Axes were an attribute, and are an input since 18."""
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in constants:
            raise GraphError(f"node {node.name!r}: opset {OPSET} cannot reduce axes that are computed")
        attributes["axes"] = numpy_helper.to_array(constants[node.input[1]]).tolist()
    elif attributes.get("noop_with_empty_axes", 0):
        raise GraphError(f"node {node.name!r}: a reduction of no axes is not in opset {OPSET}")
    attributes.pop("noop_with_empty_axes", None)
    del node.input[1:]
    _set_attributes(node, attributes)


def _set_attributes(node: NodeProto, attributes: dict[str, Any]) -> None:
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
