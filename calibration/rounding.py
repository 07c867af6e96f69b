"""Weights in INT8 whose rounding errors cancel at the convolution's output, and the biases that go with them.

The nearest step keeps each weight's own error small, and the sum over a patch large: the values of a patch
are alike, so errors of one sign add up. What counts is the error of the output on real patches,
(w - q)' C (w - q) for a filter w, its rounded form q and the covariance C of the patches (Nagel et al., "Up or
down? Adaptive rounding", ICML 2020; Frantar et al., "GPTQ", ICLR 2023). It falls with every weight that is
moved to the best of its levels while the others stay, and that is repeated. The mean of the error goes into
the bias.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ..progress import SILENT, Progress
from .patches import PatchMoments
from .placement import Placement
from .qdq import QuantisedArray, quantize_weights, require_finite
from .ranges import LARGEST_INT8
from .topology import Topology, node_id

# no sweep over all weights of a layer after so many, or after one that moves none
_SWEEPS = 6

# added to the covariance's diagonal, as a share of its mean: patches are a sample
_DAMPING = 1e-2


@dataclass(frozen=True, eq=False)
class RoundedFilters:
    """weights: as ``quantize_weights`` gives them, with other levels.

    bias_change: float32 (O,), to be added to the bias.
    error, nearest_error: the variance of the output's error on the patches, summed over the outputs, with
        these levels and with the nearest ones; the former is never the larger.
    """

    weights: QuantisedArray
    bias_change: NDArray[np.float32]
    error: float
    nearest_error: float


@dataclass(frozen=True, eq=False)
class RoundedGraph:
    """A float32 graph with corrected biases, and the INT8 form of its rounded weights by their names."""

    model: onnx.ModelProto
    weights: dict[str, QuantisedArray]


def round_layers(
    model: onnx.ModelProto,
    placement: Placement,
    moments: Mapping[str, PatchMoments],
    progress: Progress = SILENT,
) -> RoundedGraph:
    """Round the weights of every convolution of ``placement`` whose ``moments`` are known; ``model`` stays.

    Raises CalibrationError when weights hold NaN or infinity.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    topology = Topology(model)
    nodes = {node_id(node): node for node in result.graph.node}
    layers = [site for site in placement.weights if site.node in moments]
    rounded: dict[str, QuantisedArray] = {}
    with progress.task("rounding weights", len(layers)) as task:
        for done, site in enumerate(layers, 1):
            weights = topology.constant(site.tensor)
            assert weights is not None  # the plan quantises constants only
            found = round_filters(require_finite(site.tensor, weights), moments[site.node])
            rounded[site.tensor] = found.weights
            _add_to_bias(result, nodes[site.node], topology, found.bias_change)
            task.update(done)
    return RoundedGraph(result, rounded)


def _add_to_bias(
    model: onnx.ModelProto, node: onnx.NodeProto, topology: Topology, change: NDArray[np.float32]
) -> None:
    """Give ``node`` a bias of its own; where its bias is computed it keeps it."""
    bias = topology.constant(node.input[2]) if len(node.input) > 2 else np.zeros_like(change)
    if bias is None or not change.any():
        return
    name = f"{node_id(node)}/bias_rounded"
    model.graph.initializer.append(numpy_helper.from_array(bias + change, name))
    del node.input[2:]
    node.input.append(name)


def round_filters(weights: NDArray[np.float32], moments: PatchMoments) -> RoundedFilters:
    """Choose the levels of a convolution's weights, float32 (O, I, ...), one scale for each output."""
    nearest = quantize_weights(weights, 0)
    groups, size = moments.mean.shape
    exact = weights.astype(np.float64).reshape(groups, -1, size)
    steps = nearest.scale.astype(np.float64).reshape(groups, -1, 1)
    levels = nearest.values.astype(np.float64).reshape(exact.shape)
    covariance = moments.covariance.copy()
    diagonal = np.arange(size)
    damping = covariance[:, diagonal, diagonal].mean(1, keepdims=True) * _DAMPING
    covariance[:, diagonal, diagonal] += np.maximum(damping, np.finfo(np.float32).tiny)
    before = _output_error(exact - levels * steps, covariance)
    errors = _descend(exact, steps, levels, covariance)
    means = np.einsum("god,gd->go", errors, moments.mean)
    return RoundedFilters(
        QuantisedArray(levels.reshape(weights.shape).astype(np.int8), nearest.scale),
        means.reshape(-1).astype(np.float32),
        _output_error(errors, covariance),
        before,
    )


def _descend(
    exact: NDArray[np.float64],
    steps: NDArray[np.float64],
    levels: NDArray[np.float64],
    covariance: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Move ``levels`` (G, O, D) in place; returns the weights' errors (G, O, D)."""
    errors = exact - levels * steps
    width = steps[..., 0]
    for _ in range(_SWEEPS):
        moved = 0
        for index in range(exact.shape[2]):
            # the level at which the output's error has its minimum over this weight alone
            pull = np.matmul(errors, covariance[:, :, index, None])[..., 0]
            wanted = levels[..., index] + pull / (covariance[:, None, index, index] * width)
            found = np.clip(np.rint(wanted), -LARGEST_INT8, LARGEST_INT8)
            change = found - levels[..., index]
            if change.any():
                moved += np.count_nonzero(change)
                levels[..., index] = found
                errors[..., index] -= change * width
        if not moved:
            break
    return errors


def _output_error(errors: NDArray[np.float64], covariance: NDArray[np.float64]) -> float:
    return float(np.sum(np.matmul(errors, covariance) * errors))
