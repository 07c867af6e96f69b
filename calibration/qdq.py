"""Q/DQ pairs in a float32 graph: the form of INT8 that TensorRT takes.

Weights become int8 initializers with a DequantizeLinear; activations pass a QuantizeLinear and a
DequantizeLinear. All scales are symmetric: zero point 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ..errors import CalibrationError
from .placement import Placement, QuantisedWeight
from .ranges import LARGEST_INT8, SMALLEST_AMAX
from .table import CalibrationTable
from .topology import Topology, node_id


@dataclass(frozen=True, eq=False)
class QuantisedArray:
    """values: int8, -127 to 127; scale: float32, one number or one for each index of the axis."""

    values: NDArray[np.int8]
    scale: NDArray[np.float32]


def insert_qdq(
    model: onnx.ModelProto,
    table: CalibrationTable,
    placement: Placement,
    weights: Mapping[str, QuantisedArray] = MappingProxyType({}),
) -> onnx.ModelProto:
    """A copy of ``model`` with Q/DQ at ``placement``, scales from ``table``; equal inputs give equal bytes.

    weights: constants that are rounded already, with scales on axis 0; the others are rounded to the nearest.

    Raises CalibrationError when the table lacks a tensor, when weights hold NaN or infinity, and when the
    result is not valid ONNX.
    """
    missing = [tensor for tensor in placement.activations if tensor not in table.tensors]
    if missing:
        raise CalibrationError(f"the calibration table has no range for {missing[0]!r}; calibrate again")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    editor = _QdqEditor(result, table, placement, weights)
    editor.rewrite()
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CalibrationError(f"the quantised graph is not valid ONNX: {error}") from error
    return result


def quantize_weights(weights: NDArray[np.float32], axis: int | None) -> QuantisedArray:
    """Symmetric int8 weights, each at most half a scale from the original.

    axis: one scale for each index of this dimension (shape (C,)); None for a single scale (shape ()).
    """
    others = tuple(i for i in range(weights.ndim) if i != axis)
    exact = weights.astype(np.float64)
    amax = np.abs(exact).max(axis=None if axis is None else others, initial=0.0)
    # a channel of zeros needs a positive scale too: TensorRT rejects any other
    scale = (np.maximum(amax, SMALLEST_AMAX) / LARGEST_INT8).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(weights.ndim)]
    levels = np.rint(exact / scale.astype(np.float64).reshape(shape if axis is not None else ()))
    return QuantisedArray(np.clip(levels, -LARGEST_INT8, LARGEST_INT8).astype(np.int8), scale)


def require_finite(name: str, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """``weights``; CalibrationError, which names them, when they hold NaN or infinity."""
    if not np.isfinite(weights).all():
        raise CalibrationError(f"the weights {name!r} hold NaN or infinity; check the checkpoint")
    return weights


class _QdqEditor:
    """Rewrites one graph; nodes keep their order, each Q/DQ pair comes just before its first reader."""

    def __init__(
        self,
        model: onnx.ModelProto,
        table: CalibrationTable,
        placement: Placement,
        weights: Mapping[str, QuantisedArray],
    ) -> None:
        self._graph = model.graph
        self._table = table
        self._rounded = weights
        self._topology = Topology(model)
        self._names = self._topology.names()
        self._inputs = {(site.node, site.index): site.tensor for site in placement.inputs}
        self._weights = {(site.node, site.index): site for site in placement.weights}
        self._nodes: list[onnx.NodeProto] = []
        # original tensor (with its axis) to its dequantised form
        self._activations_done: dict[str, str] = {}
        self._weights_done: dict[tuple[str, int | None], str] = {}

    def rewrite(self) -> None:
        for node in self._graph.node:
            name = node_id(node)
            for index in range(len(node.input)):
                if (name, index) in self._inputs:
                    node.input[index] = self._activation(self._inputs[name, index])
                elif (name, index) in self._weights:
                    node.input[index] = self._weight(self._weights[name, index])
            self._nodes.append(node)
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        self._drop_unread_constants()

    def _activation(self, tensor: str) -> str:
        """The name of ``tensor`` after Q and DQ, made at its first reader and shared by the others."""
        if tensor not in self._activations_done:
            scale = np.array(self._table.tensors[tensor].amax / LARGEST_INT8, np.float32)
            scale_name = self._constant(f"{tensor}/scale", scale)
            zero_name = self._constant(f"{tensor}/zero_point", np.zeros((), np.int8))
            quantized = self._fresh(f"{tensor}/quantized")
            dequantized = self._fresh(f"{tensor}/dequantized")
            self._node("QuantizeLinear", [tensor, scale_name, zero_name], quantized)
            self._node("DequantizeLinear", [quantized, scale_name, zero_name], dequantized)
            self._activations_done[tensor] = dequantized
        return self._activations_done[tensor]

    def _weight(self, site: QuantisedWeight) -> str:
        """The name of the constant after DQ."""
        key = (site.tensor, site.axis)
        if key not in self._weights_done:
            weights = self._topology.constant(site.tensor)
            assert weights is not None  # the plan quantises constants only
            array = self._rounded.get(site.tensor) or quantize_weights(
                require_finite(site.tensor, weights), site.axis
            )
            names = [
                self._constant(f"{site.tensor}/quantized", array.values),
                self._constant(f"{site.tensor}/scale", array.scale),
                self._constant(f"{site.tensor}/zero_point", np.zeros(array.scale.shape, np.int8)),
            ]
            dequantized = self._fresh(f"{site.tensor}/dequantized")
            axis = {} if site.axis is None else {"axis": site.axis}
            self._node("DequantizeLinear", names, dequantized, **axis)
            self._weights_done[key] = dequantized
        return self._weights_done[key]

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))

    def _constant(self, name: str, value: NDArray[np.float32] | NDArray[np.int8]) -> str:
        name = self._fresh(name)
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _fresh(self, name: str) -> str:
        unused = name
        while unused in self._names:
            unused += "_"
        self._names.add(unused)
        return unused

    def _drop_unread_constants(self) -> None:
        """Remove the float weights that nothing reads any more, or the file would hold both forms."""
        read = {tensor for node in self._graph.node for tensor in node.input}
        read.update(value.name for value in self._graph.output)
        replaced = {tensor for tensor, _ in self._weights_done if tensor not in read}
        for field in (self._graph.initializer, self._graph.input, self._graph.value_info):
            kept = [entry for entry in field if entry.name not in replaced]
            del field[:]
            field.extend(kept)
        nodes = [node for node in self._graph.node if not replaced.intersection(node.output)]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
