"""Bias correction: what rounded weights add to the mean of a convolution's outputs goes out of its bias.

A filter of few weights is rounded by about as much up as down, but not exactly, and activations behind a ReLU
are all of one sign: so each output channel is off by a constant, which the next layers carry on. With the
inputs' means that constant is known without another pass: the sum of a filter's rounding errors, each times
the mean of the channel that it reads (Nagel et al., "Data-free quantization through weight equalization and
bias correction", ICCV 2019, section 4.2). Their means are of normal distributions; these are observed.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from ..errors import CalibrationError
from ..export.passes.editing import Constants, drop_unread
from .channels import convolution_channels
from .placement import Placement
from .qdq import quantize_weights
from .statistics import TensorStatistics
from .topology import Topology, attributes, node_id

Corrections = Mapping[str, NDArray[np.float64]]
"""What is added to the bias (C,) of each layer, by its first output."""


def bias_corrections(
    model: onnx.ModelProto, placement: Placement, statistics: Mapping[str, TensorStatistics]
) -> dict[str, NDArray[np.float64]]:
    """The corrections of all convolutions in ``placement`` whose weights and bias are constants.

    model: the float32 graph that will be quantised, equalised if that is wanted; statistics: of its tensors.
    With them, and float32 inputs, the mean of a convolution's outputs with rounded weights is that with its
    own weights, but for outputs at the border, where padding counts as if it had the mean of the image.
    """
    topology = Topology(model)
    inputs = {site.node: site.tensor for site in placement.inputs if site.index == 0}
    corrections = {}
    for site in placement.weights:
        node = topology.producer(site.node)
        if node is None or node.op_type != "Conv" or site.node not in inputs:
            continue
        channels = convolution_channels(node, topology)
        weights = topology.constant(site.tensor)
        seen = statistics.get(inputs[site.node])
        if channels is None or weights is None or seen is None or len(seen.mean) != channels[0]:
            continue
        if not np.isfinite(weights).all():
            continue  # it is refused, by name, when it is quantised
        groups = int(attributes(node).get("group", 1))
        errors = _rounding(weights, site.axis).sum(axis=tuple(range(2, weights.ndim)))
        grouped = errors.reshape(groups, -1, errors.shape[1])
        moved = np.einsum("goi,gi->go", grouped, seen.mean.reshape(groups, -1)).reshape(-1)
        corrections[site.node] = -moved
    return corrections


def correct_biases(model: onnx.ModelProto, corrections: Corrections) -> onnx.ModelProto:
    """A copy of ``model`` with ``corrections`` added to the biases of its layers; nothing else is changed.

    A layer without a bias gets one, and each has its own. Raises CalibrationError when a correction does not
    fit the graph.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    topology = Topology(result)
    constants = Constants(result.graph)
    replaced = set()
    for node in result.graph.node:
        correction = corrections.get(node_id(node))
        if correction is None:
            continue
        channels = convolution_channels(node, topology) if node.op_type == "Conv" else None
        if channels is None or correction.shape != (channels[1],):
            raise CalibrationError(
                f"the bias correction of {node_id(node)!r} does not fit the graph; calibrate again"
            )
        old = topology.constant(node.input[2]) if len(node.input) > 2 else None
        bias = correction + (0 if old is None else old.astype(np.float64))
        replaced.update(node.input[2:])
        del node.input[2:]
        node.input.append(constants.add(f"{node_id(node)}/bias", bias.astype(np.float32)))
    drop_unread(result.graph, replaced)
    return result


def _rounding(weights: NDArray[np.float32], axis: int | None) -> NDArray[np.float64]:
    """What rounding adds to each weight."""
    array = quantize_weights(weights, axis)
    scale = array.scale.astype(np.float64)
    if axis is not None:
        scale = scale.reshape([-1 if index == axis else 1 for index in range(weights.ndim)])
    return array.values * scale - weights
