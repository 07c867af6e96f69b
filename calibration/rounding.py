"""Weights in INT8 whose rounding errors cancel at the convolution's output, and the biases that go with them.

The nearest step keeps each weight's own error small, and the sum over a patch large: the values of a patch
are alike, so errors of one sign add up. What counts is the error of the output on real patches,
(w - q)' C (w - q) for a filter w, its rounded form q and the covariance C of the patches (Nagel et al., "Up
or down? Adaptive rounding", ICML 2020; Frantar et al., "GPTQ", ICLR 2023). It falls with every weight that is
moved to the best of its levels while the others stay, and that is repeated. The mean of the error goes into
the bias.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from ..progress import SILENT, Progress
from .patches import PatchMoments
from .placement import Placement
from .qdq import QuantisedArray, quantize_weights, require_finite
from .ranges import LARGEST_INT8
from .topology import Topology

# no sweep over all weights of a layer after so many, or after one that moves none
_SWEEPS = 6

# weights whose pulls are found by one product
_BLOCK = 32

# added to the covariance's diagonal, as a share of its mean: patches are a sample
_DAMPING = 1e-2


@dataclass(frozen=True, eq=False)
class RoundedFilters:
    """weights: as ``quantize_weights`` gives them, with other levels.

    bias_change: float64 (O,), to be added to the bias.
    """

    weights: QuantisedArray
    bias_change: NDArray[np.float64]
    _errors: NDArray[np.float64]
    _nearest_errors: NDArray[np.float64]
    _covariance: NDArray[np.float64]

    @property
    def error(self) -> float:
        """The variance of the output's error on the patches, summed over the outputs; never larger than
        ``nearest_error``."""
        return _output_error(self._errors, self._covariance)

    @property
    def nearest_error(self) -> float:
        """The same with the nearest levels."""
        return _output_error(self._nearest_errors, self._covariance)


@dataclass(frozen=True, eq=False)
class RoundedLayers:
    """INT8 weights by the name of the constant, and what is to be added to the biases of the layers."""

    weights: dict[str, QuantisedArray]
    bias_changes: dict[str, NDArray[np.float64]]


NOT_ROUNDED = RoundedLayers({}, {})


def round_layers(
    model: onnx.ModelProto,
    placement: Placement,
    moments: Mapping[str, PatchMoments],
    progress: Progress = SILENT,
) -> RoundedLayers:
    """Round the weights of every convolution of ``placement`` whose ``moments`` are known.

    Raises CalibrationError when weights hold NaN or infinity.
    """
    topology = Topology(model)
    sites = [site for site in placement.weights if site.node in moments]
    weights: dict[str, QuantisedArray] = {}
    bias_changes: dict[str, NDArray[np.float64]] = {}
    if not sites:
        return RoundedLayers(weights, bias_changes)
    with progress.task("rounding weights", len(sites)) as task:
        for done, site in enumerate(sites, 1):
            exact = topology.constant(site.tensor)
            assert exact is not None  # the plan quantises constants only
            found = round_filters(require_finite(site.tensor, exact), moments[site.node])
            weights[site.tensor] = found.weights
            bias_changes[site.node] = found.bias_change
            task.update(done)
    return RoundedLayers(weights, bias_changes)


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
    nearest_errors = exact - levels * steps
    errors = _descend(exact, steps, levels, covariance)
    means = np.einsum("god,gd->go", errors, moments.mean)
    return RoundedFilters(
        QuantisedArray(levels.reshape(weights.shape).astype(np.int8), nearest.scale),
        means.reshape(-1),
        errors,
        nearest_errors,
        covariance,
    )


def _descend(
    exact: NDArray[np.float64],
    steps: NDArray[np.float64],
    levels: NDArray[np.float64],
    covariance: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Move ``levels`` (G, O, D) in place; returns the weights' errors (G, O, D).

    Weights are taken one after the other. What the errors of all weights do to a block of them is one product
    of matrices; within the block it follows each move.
    """
    errors = exact - levels * steps
    width = steps[..., 0]
    size = exact.shape[2]
    for _ in range(_SWEEPS):
        moved = 0
        for begin in range(0, size, _BLOCK):
            block = slice(begin, begin + _BLOCK)
            among = covariance[:, block, block]
            # (G, block, O): what is read together lies together
            pulls = np.ascontiguousarray(np.matmul(errors, covariance[:, :, block]).transpose(0, 2, 1))
            rows = np.ascontiguousarray(levels[..., block].transpose(0, 2, 1))
            before = moved
            for index in range(rows.shape[1]):
                # the level at which the output's error has its minimum over this weight alone
                wanted = rows[:, index] + pulls[:, index] / (among[:, index, index, None] * width)
                found = np.rint(wanted).clip(-LARGEST_INT8, LARGEST_INT8)
                change = found - rows[:, index]
                if change.any():
                    moved += np.count_nonzero(change)
                    rows[:, index] = found
                    later = slice(index + 1, None)
                    pulls[:, later] -= among[:, index, later, None] * (change * width)[:, None]
            if moved > before:
                levels[..., block] = rows.transpose(0, 2, 1)
                errors[..., block] = exact[..., block] - levels[..., block] * steps
        if not moved:
            break
    return errors


def _output_error(errors: NDArray[np.float64], covariance: NDArray[np.float64]) -> float:
    return float(np.sum(np.matmul(errors, covariance) * errors))
