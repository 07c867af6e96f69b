"""A graph without its large weights, for those who look at its wiring and would copy them."""

from collections.abc import Sequence
from typing import Any

from onnx import ModelProto, helper

_LARGE = 4096  # bytes; larger ones are weights, smaller ones may be shapes that inference has to know


def without_weights(model: ModelProto) -> ModelProto:
    """A copy of ``model`` whose large weights are inputs of the same type and shape instead."""
    light = ModelProto()
    _copy_fields(model, light, without="graph")
    _copy_fields(model.graph, light.graph, without="initializer")
    declared = {value.name for value in light.graph.input}
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) <= _LARGE:
            light.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            light.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return light


def _copy_fields(source: Any, target: Any, without: str) -> None:
    for field, value in source.ListFields():
        if field.name == without:
            continue
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            getattr(target, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)
