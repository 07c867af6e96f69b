"""By which factors the channels of a graph are scaled: those at which INT8 is predicted to do least harm.

Rounding to INT8 adds a noise of about a twelfth of a squared step, and a step is the largest magnitude of a
whole tensor (for weights, of a whole filter) over 127. What the noise does is measured where it arrives: at
the output of each convolution, relative to the energy of that output. The sum over all convolutions is a
convex function of the factors' logarithms: each term is a product of powers of factors, or the largest of
several (a geometric program; Boyd et al., "A tutorial on geometric programming", 2007).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from .channels import PINNED, ChannelClasses, Classes, convolution_channels
from .placement import Placement
from .statistics import TensorStatistics
from .topology import attributes

Factors = NDArray[np.float64]
"""Positive, one for each channel, or for each class of channels."""

# How large a channel is: nearly all of its values, for the last of them differ from crop to crop.
SIZE_PERCENT = 99.9

# A channel smaller than this share of its tensor's largest counts as if it had that size: what little was
# seen of it says little of other crops.
_SMALLEST_SHARE = 1e-3

# An output with less energy than this share of the convolution's loudest is no more important than that.
_QUIETEST_SHARE = 1e-6

# The largest of several magnitudes is taken as their norm of this order, which has a gradient.
_ORDER = 12

# Adam (Kingma and Ba, ICLR 2015) with a step that falls along a cosine; the gradient is of the logarithm
_ROUNDS = 150
_STEP = 0.1


@dataclass(frozen=True, eq=False)
class _Activation:
    """classes, size (C,) and influence (C,): the relative noise at the readers for a unit of squared step."""

    classes: Classes
    size: NDArray[np.float64]
    influence: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Filters:
    """Weights of one convolution in groups: (G, output, input).

    classes, energy: (G, input), of the input channels; energy is the mean square times the filter's area.
    powers: magnitudes over the largest of their filter, to the power of _ORDER.
    influence: (G, output), that largest squared over the energy of the output.
    """

    classes: Classes
    energy: NDArray[np.float64]
    powers: NDArray[np.float64]
    influence: NDArray[np.float64]


def channel_factors(
    model: onnx.ModelProto, placement: Placement, statistics: Mapping[str, TensorStatistics]
) -> dict[str, Factors]:
    """The factor (C,) of each channel of the tensors in ``statistics``, those that ``placement`` quantises.

    Channels that cannot be scaled, such as those of the graph's input, have 1. The same input gives the same
    factors.
    """
    classes = ChannelClasses(model)
    activations, filters = _terms(classes, placement, statistics)
    logarithms = _minimum(classes.count, activations, filters)
    found = {tensor: classes.of_channels(tensor, len(seen.limit)) for tensor, seen in statistics.items()}
    return {
        tensor: np.ones(len(statistics[tensor].limit)) if of is None else np.exp(logarithms[of])
        for tensor, of in found.items()
    }


def reader_influence(
    model: onnx.ModelProto, placement: Placement, statistics: Mapping[str, TensorStatistics]
) -> dict[str, NDArray[np.float64]]:
    """What a squared error on each channel (C,) of the tensors that ``placement`` quantises does at their
    readers, relative to the energy of the readers' outputs and summed over them. Silent tensors are left out.
    """
    classes = ChannelClasses(model)
    influences: dict[str, NDArray[np.float64]] = {}
    for site in placement.inputs:
        seen = statistics[site.tensor]
        if seen.largest == 0:
            continue
        unclassed = np.zeros(len(seen.limit), np.int64)
        influence, _ = _at_reader(classes, site.node, unclassed, seen)
        influences[site.tensor] = influences.get(site.tensor, np.zeros(len(influence))) + influence
    return influences


def _terms(
    classes: ChannelClasses, placement: Placement, statistics: Mapping[str, TensorStatistics]
) -> tuple[list[_Activation], list[_Filters]]:
    activations: dict[str, _Activation] = {}
    filters: list[_Filters] = []
    for site in placement.inputs:
        seen = statistics[site.tensor]
        of = classes.of_channels(site.tensor, len(seen.limit))
        if of is None or seen.largest == 0:
            continue
        if site.tensor not in activations:
            size = seen.channel_percentile(SIZE_PERCENT).astype(np.float64)
            size = np.maximum(size, size.max() * _SMALLEST_SHARE)
            activations[site.tensor] = _Activation(of, size, np.zeros(len(size)))
        influence, found = _at_reader(classes, site.node, of, seen)
        filters += [] if found is None else [found]
        rounded = 1 - seen.zeros / seen.count  # zero is exact in INT8
        activations[site.tensor].influence[:] += influence * rounded
    return list(activations.values()), filters


def _at_reader(
    classes: ChannelClasses, reader: str, of: Classes, seen: TensorStatistics
) -> tuple[NDArray[np.float64], _Filters | None]:
    """What noise on each channel of a tensor does to the outputs of ``reader``, and its weights' term."""
    energy = seen.mean**2 + seen.deviation**2
    node = classes.topology.producer(reader)
    if node is not None and node.op_type == "Conv" and convolution_channels(node, classes.topology):
        return _filters(classes, node, of, energy)
    # an addition, or a matrix product: what is added to a channel counts as it is
    return 1 / (len(energy) * (energy + energy.mean() / 100)), None


def _filters(
    classes: ChannelClasses, node: onnx.NodeProto, of: Classes, energy: NDArray[np.float64]
) -> tuple[NDArray[np.float64], _Filters]:
    """What noise on a convolution's input channels does to its outputs, and its weights' term."""
    weights = classes.topology.constant(node.input[1])
    assert weights is not None  # it has channels
    groups = int(attributes(node).get("group", 1))
    outputs, inputs = len(weights), weights.shape[1]
    flat = np.abs(weights.astype(np.float64)).reshape(groups, outputs // groups, inputs, -1)
    squares, magnitudes, area = np.square(flat).sum(3), flat.max(3), flat.shape[3]
    arriving = energy.reshape(groups, inputs)
    loudness = np.einsum("goi,gi->go", squares, arriving)
    # every output counts the same, and every convolution too
    share = 1 / (np.maximum(loudness, max(loudness.max() * _QUIETEST_SHARE, 1e-300)) * outputs)
    largest = magnitudes.max(2, keepdims=True)
    powers = np.divide(magnitudes, largest, where=largest > 0, out=np.zeros_like(magnitudes)) ** _ORDER
    found = _Filters(of.reshape(groups, inputs), arriving * area, powers, largest[..., 0] ** 2 * share)
    return np.einsum("goi,go->gi", squares, share).reshape(-1), found


def _minimum(count: int, activations: list[_Activation], filters: list[_Filters]) -> NDArray[np.float64]:
    """Logarithms (count,) of the factors with the least predicted noise."""
    best = logarithms = np.zeros(count)
    least = np.inf
    first, second = np.zeros(count), np.zeros(count)
    for index in range(_ROUNDS):
        noise, gradient = _noise(logarithms, activations, filters)
        gradient[PINNED] = 0
        if noise < least:
            least, best = noise, logarithms
        if not noise:
            break
        gradient /= noise
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        mean, square = first / (1 - 0.9 ** (index + 1)), second / (1 - 0.99 ** (index + 1))
        step = _STEP * (1 + np.cos(np.pi * index / _ROUNDS)) / 2
        logarithms = logarithms - step * mean / (np.sqrt(square) + 1e-8)
    return best


def _noise(
    logarithms: NDArray[np.float64], activations: list[_Activation], filters: list[_Filters]
) -> tuple[float, NDArray[np.float64]]:
    """The predicted noise in units of a squared step of 1 / 127, and its gradient (count,)."""
    total, gradient = 0.0, np.zeros_like(logarithms)
    for tensor in activations:
        factors = np.exp(logarithms[tensor.classes])
        norm, shares = _norm(factors * tensor.size)
        noise = tensor.influence * np.square(norm / factors)
        total += noise.sum()
        np.add.at(gradient, tensor.classes, 2 * (noise.sum() * shares - noise))
    for weights in filters:
        ours = logarithms[weights.classes]
        # a filter's largest weight after its inputs were divided by their factors
        centre = ours.mean(1, keepdims=True)
        powers = np.exp(-_ORDER * (ours - centre))
        sums = np.maximum(np.matmul(weights.powers, powers[..., None])[..., 0], 1e-300)
        largest = np.exp(-2 * centre) * sums ** (2 / _ORDER) * weights.influence
        energy = np.exp(2 * ours) * weights.energy
        filter_noise, group_energy = largest.sum(1, keepdims=True), energy.sum(1, keepdims=True)
        total += (filter_noise * group_energy).sum()
        pulls = powers * np.matmul((largest / sums)[:, None, :], weights.powers)[:, 0]
        np.add.at(gradient, weights.classes, 2 * (energy * filter_noise - pulls * group_energy))
    return total, gradient


def _norm(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """The norm of order _ORDER of positive numbers, and the share of each in it."""
    largest = values.max()
    powers = (values / largest) ** _ORDER
    return float(largest * powers.sum() ** (1 / _ORDER)), powers / powers.sum()
