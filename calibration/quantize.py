"""From a float32 graph and crops to an INT8 graph with explicit Q/DQ, the form that TensorRT takes.

Weights become int8 initializers with a DequantizeLinear; activations pass a QuantizeLinear and a
DequantizeLinear. All scales are symmetric: zero point 0.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ..errors import CalibrationError
from ..export.graphs import load_graph, opset_of, save_graph
from ..files import sha256_file
from ..progress import SILENT, Progress
from .equalize import SIZE_PERCENT, equalize
from .observers import Batch, observe
from .placement import Placement, QuantisedWeight, plan
from .ranges import LARGEST_INT8, METHODS, SMALLEST_AMAX
from .statistics import TensorStatistics
from .table import CalibrationTable, TensorRange
from .topology import Topology, node_id

# per-channel scales came with this version of QuantizeLinear
OLDEST_OPSET = 13


@dataclass(frozen=True, eq=False)
class QuantisedArray:
    """values: int8, -127 to 127; scale: float32, one number or one for each index of the axis."""

    values: NDArray[np.int8]
    scale: NDArray[np.float32]


def quantize(
    graph: Path,
    batches: Iterable[Batch],
    output: Path,
    method: str = "mse",
    images_sha256: str | None = None,
    progress: Progress = SILENT,
    crops: int | None = None,
    equalized: bool = True,
) -> CalibrationTable:
    """Calibrate the float32 graph with ``batches``, write its INT8 form to ``output``, return the table.

    batches: float32 (N, 3, H, W) each, as the model is fed, or ``datasets.batches(...)``.
    method: a key of ``ranges.METHODS``.
    images_sha256: ``CocoPersons.image_list_sha256`` of the crops, noted in the table.
    crops: how many crops will come, for the progress display.
    equalized: scale the channels of the graph to equal ranges first (``equalize.py``).

    Raises GraphError when ``graph`` is no usable ONNX file, CalibrationError when it cannot be quantised,
    OutputError when ``output`` cannot be written.
    """
    table = calibrate(graph, batches, method, images_sha256, progress, crops, equalized)
    write_quantized(graph, table, output)
    return table


def calibrate(
    graph: Path,
    batches: Iterable[Batch],
    method: str = "mse",
    images_sha256: str | None = None,
    progress: Progress = SILENT,
    crops: int | None = None,
    equalized: bool = True,
) -> CalibrationTable:
    """The calibration table of ``quantize``, without a graph being written."""
    if method not in METHODS:
        raise CalibrationError(f"unknown calibration method {method!r}; there are {', '.join(METHODS)}")
    model = load_graph(graph)
    placement = plan_quantization(model, graph)
    seen = observe(model, batches, placement.activations, progress, crops)
    statistics: Mapping[str, TensorStatistics] = seen.tensors
    sizes: dict[str, NDArray[np.float32]] = {}
    if equalized:
        sizes = {tensor: found.channel_percentile(SIZE_PERCENT) for tensor, found in statistics.items()}
        factors = equalize(model, sizes).factors
        statistics = {
            tensor: found.scaled(factors(tensor, len(found.limit))) for tensor, found in statistics.items()
        }
    ranges = METHODS[method](statistics)
    return CalibrationTable(
        sha256_file(graph),
        images_sha256,
        ranges.method,
        seen.crops,
        {tensor: _tensor_range(statistics[tensor], amax) for tensor, amax in ranges.amax.items()},
        dict(ranges.excluded),
        {tensor: tuple(map(float, size)) for tensor, size in sizes.items()},
    )


def _tensor_range(seen: TensorStatistics, amax: float) -> TensorRange:
    return TensorRange(float(seen.minimum.min()), float(seen.maximum.max()), amax)


def write_quantized(graph: Path, table: CalibrationTable, output: Path) -> Placement:
    """Write the INT8 form of ``graph`` by the ranges in ``table``; return what was quantised.

    Raises CalibrationError when the table belongs to another graph.
    """
    table.require_graph(graph)
    model = load_graph(graph)
    if table.channel_sizes:
        sizes = {tensor: np.array(size, np.float32) for tensor, size in table.channel_sizes.items()}
        model = equalize(model, sizes).model
    placement = plan_quantization(model, graph).without(table.excluded)
    save_graph(insert_qdq(model, table, placement), output)
    return placement


def plan_quantization(model: onnx.ModelProto, graph: Path) -> Placement:
    """``placement.plan`` for a graph that can be quantised at all; CalibrationError says why it cannot."""
    operators = {node.op_type for node in model.graph.node}
    if operators & {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger"}:
        raise CalibrationError(f"{graph}: the graph is quantised already; give its float32 form")
    opset = opset_of(model)
    if opset < OLDEST_OPSET:
        raise CalibrationError(
            f"{graph}: its opset is {opset}; scales for each channel need {OLDEST_OPSET} or later. "
            "Export it again, or convert it with onnx.version_converter."
        )
    placement = plan(model)
    if not placement.inputs:
        reasons = "; ".join(f"{layer.node}: {layer.reason}" for layer in placement.float_layers[:3])
        raise CalibrationError(f"{graph}: no layer of it can be quantised ({reasons or 'it has none'})")
    return placement


def insert_qdq(model: onnx.ModelProto, table: CalibrationTable, placement: Placement) -> onnx.ModelProto:
    """A copy of ``model`` with Q/DQ at ``placement``, scales from ``table``; equal inputs give equal bytes.

    Raises CalibrationError when the table lacks a tensor, when weights hold NaN or infinity, and when the
    result is not valid ONNX.
    """
    missing = [tensor for tensor in placement.activations if tensor not in table.tensors]
    if missing:
        raise CalibrationError(f"the calibration table has no range for {missing[0]!r}; calibrate again")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    editor = _QdqEditor(result, table, placement)
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


class _QdqEditor:
    """Rewrites one graph; nodes keep their order, each Q/DQ pair comes just before its first reader."""

    def __init__(self, model: onnx.ModelProto, table: CalibrationTable, placement: Placement) -> None:
        self._graph = model.graph
        self._table = table
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
            if not np.isfinite(weights).all():
                raise CalibrationError(
                    f"the weights {site.tensor!r} hold NaN or infinity; check the checkpoint"
                )
            array = quantize_weights(weights, site.axis)
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
