"""From a float32 graph and crops to an INT8 graph: the order in which the parts of calibration work.

Statistics of one pass over the crops; factors that equalise the channels; ranges; Q/DQ at the placement.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx

from ..errors import CalibrationError
from ..export.graphs import load_graph, opset_of, save_graph
from ..files import sha256_file
from ..progress import SILENT, Progress
from .equalize import equalize
from .factors import Factors, channel_factors
from .observers import Batch, few_crops_note, observe
from .placement import Placement, plan
from .qdq import insert_qdq
from .ranges import METHODS
from .statistics import TensorStatistics
from .table import CalibrationTable, TensorRange

# per-channel scales came with this version of QuantizeLinear
OLDEST_OPSET = 13


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
    equalized: scale the channels of the graph first, so that INT8 suits them (``factors.py``).

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
    if note := few_crops_note(seen.crops):
        progress.note(note)
    statistics: Mapping[str, TensorStatistics] = seen.tensors
    factors: dict[str, Factors] = {}
    if equalized:
        factors = channel_factors(model, placement, statistics)
        statistics = {tensor: found.scaled(factors[tensor]) for tensor, found in statistics.items()}
    ranges = METHODS[method](statistics)
    if not ranges.amax:
        tensor, reason = next(iter(ranges.excluded.items()))
        raise CalibrationError(
            f"{graph}: no tensor of it can be calibrated ({tensor!r}: {reason}). Are the images blank? "
            "Check them, and the spec's mean and std."
        )
    return CalibrationTable(
        sha256_file(graph),
        images_sha256,
        ranges.method,
        seen.crops,
        {tensor: _tensor_range(statistics[tensor], amax) for tensor, amax in ranges.amax.items()},
        dict(ranges.excluded),
        {tensor: tuple(map(float, channels)) for tensor, channels in factors.items()},
    )


def _tensor_range(seen: TensorStatistics, amax: float) -> TensorRange:
    return TensorRange(float(seen.minimum.min()), float(seen.maximum.max()), amax)


def write_quantized(graph: Path, table: CalibrationTable, output: Path) -> Placement:
    """Write the INT8 form of ``graph`` by the ranges in ``table``; return what was quantised.

    Raises CalibrationError when the table belongs to another graph.
    """
    table.require_graph(graph)
    model = load_graph(graph)
    if table.channel_factors:
        factors = {tensor: np.array(channels) for tensor, channels in table.channel_factors.items()}
        model = equalize(model, factors)
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
