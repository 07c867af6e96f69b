"""What float16 cannot hold: the layers that stay in float32 in a float16 graph, each with its reason.

float16 ends at 65504, and below 6.1e-5 (2 ** -14) its numbers lose digits, down to 6e-8. Weights are read
from the graph, activations are observed on crops.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from .observers import Batch, observe
from .placement import FloatLayer
from .statistics import TensorStatistics
from .topology import Topology, node_id

LARGEST_HALF = float(np.finfo(np.float16).max)
SMALLEST_NORMAL = float(np.finfo(np.float16).tiny)

# Activations of other images reach further than those that were observed.
MARGIN = 8

# Below this largest magnitude the steps of subnormal numbers are as coarse as those of the largest value.
# In a larger tensor the small values are lost beside the large ones, whatever their digits.
_SMALL = 4 * SMALLEST_NORMAL

# operators whose outputs hold values of their first input, or of all of them, and nothing else
_MOVES = {
    "Concat",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
}


def layers_beyond_float16(
    model: onnx.ModelProto, statistics: Mapping[str, TensorStatistics] | None = None
) -> tuple[FloatLayer, ...]:
    """The layers of a float32 graph that read or make values that float16 cannot hold, in the graph's order.

    These are finite constants beyond 65504, and activations that come within ``MARGIN`` of it in
    ``statistics``; and tensors of which more than half of the values that are not zero are subnormal in
    float16, while none is large enough to make the others negligible. Without ``statistics`` only constants
    are looked at.
    """
    topology, floats = Topology(model), _float_shapes(model) if statistics else {}
    seen = statistics or {}
    faults: dict[str, str] = {}
    for tensor in topology.inputs:
        if tensor in seen and (fault := _activation_fault(seen[tensor])):
            faults[tensor] = f"{tensor!r} {fault}"
    layers = []
    for node in topology.nodes:
        if node.op_type == "Constant":
            continue
        activations = [faults[tensor] for tensor in node.input if tensor in faults]
        constants = [fault for tensor in node.input if (fault := _constant_fault(tensor, topology))]
        for tensor in node.output:
            if tensor in seen:
                if fault := _activation_fault(seen[tensor]):
                    faults[tensor] = f"{tensor!r} {fault}"
            elif node.op_type in _MOVES and activations + constants:
                faults[tensor] = (activations + constants)[0]
            elif activations and tensor in floats:  # it was not observed: the worst is assumed
                faults[tensor] = activations[0]
        made = [faults[tensor] for tensor in node.output if tensor in faults]
        if reasons := constants + activations + made:
            layers.append(FloatLayer(node_id(node), node.op_type, reasons[0]))
    return tuple(layers)


def observe_floats(model: onnx.ModelProto, batches: Iterable[Batch]) -> dict[str, TensorStatistics]:
    """Statistics of the graph's activations, other than those that only move another's values.

    Left out are tensors whose axis 1 has no fixed length, such as those with the batch there, and those to
    which an infinite constant (a mask) is added. Raises CalibrationError as ``observers.observe`` does.
    """
    topology, floats = Topology(model), _float_shapes(model)
    wanted = [
        tensor
        for node in topology.nodes
        if node.op_type not in _MOVES | {"Constant"} and not _reads_infinity(node, topology)
        for tensor in node.output
        if len(floats.get(tensor, ())) > 1 and floats[tensor][1] is not None
    ]
    return observe(model, batches, [*topology.inputs, *wanted]).tensors


def _float_shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """The shapes of computed tensors that are known to be float32; () where the shape is unknown."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: tuple(
            axis.dim_value if axis.HasField("dim_value") else None
            for axis in value.type.tensor_type.shape.dim
        )
        for value in (*inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }


def _activation_fault(seen: TensorStatistics) -> str | None:
    """What is wrong with an activation in float16, or None."""
    if seen.largest >= LARGEST_HALF / MARGIN:
        return f"reaches {seen.largest:.3g} on the crops; float16 ends at {LARGEST_HALF:g}"
    if 0 < seen.largest < _SMALL:
        histogram = seen.merged()
        below = np.arange(1, len(histogram.counts) + 1) * histogram.bin_width <= SMALLEST_NORMAL
        if histogram.counts[below].sum() > histogram.counts.sum() / 2:
            return f"stays below {seen.largest:.1e} on the crops, where float16 lacks digits"
    return None


def _constant_fault(tensor: str, topology: Topology) -> str | None:
    """What is wrong with a float32 constant in float16, or None."""
    value = topology.constant(tensor)
    if value is None or value.dtype != np.float32 or not value.size:
        return None
    magnitudes: NDArray[Any] = np.abs(value[np.isfinite(value)])
    largest = float(magnitudes.max(initial=0))
    with np.errstate(over="ignore"):
        overflows = bool(np.isinf(np.float16(largest)))
    if overflows:
        return f"the constant {tensor!r} holds {largest:g}; float16 ends at {LARGEST_HALF:g}"
    present = magnitudes[magnitudes > 0]
    if 0 < largest < _SMALL and np.count_nonzero(present < SMALLEST_NORMAL) > present.size / 2:
        return f"the constant {tensor!r} stays below {largest:.1e}, where float16 lacks digits"
    return None


def _reads_infinity(node: onnx.NodeProto, topology: Topology) -> bool:
    constants = [topology.constant(tensor) for tensor in node.input]
    return any(
        value is not None and value.dtype == np.float32 and np.isinf(value).any() for value in constants
    )
