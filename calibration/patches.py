"""What the filters of a convolution see: means and second moments of the patches they are multiplied with.

With them the error that rounded weights make at the convolution's output is known without running it:
rounding errors that cancel on real patches cost nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from .topology import Topology, attributes

# A moment matrix is quadratic in the size of a patch. Beyond this size rounding errors average out anyway.
LARGEST_PATCH = 1152

# Places per crop at which patches are taken: neighbours are much alike.
_PLACES = 64
_PLACES_PER_VALUE = 8  # one more place for so many values of a patch, or large matrices would stay singular


@dataclass(frozen=True, eq=False)
class PatchMoments:
    """Patches of one convolution in G groups of D values each, in the order of its weights.

    mean: float64 (G, D). covariance: float64 (G, D, D).
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    def scaled(self, factors: NDArray[np.float64]) -> "PatchMoments":
        """The moments after the input's channels were multiplied by ``factors`` (C,)."""
        groups, size = self.mean.shape
        channels = factors.reshape(groups, -1)
        values = np.repeat(channels, size // channels.shape[1], 1)
        return PatchMoments(self.mean * values, self.covariance * values[:, :, None] * values[:, None, :])


class PatchObserver:
    """Gathers the moments of one convolution's patches, batch by batch, in constant memory."""

    def __init__(self, node: onnx.NodeProto, weights: tuple[int, ...]) -> None:
        self.tensor = node.input[0]
        values = attributes(node)
        self._groups = int(values.get("group", 1))
        self._kernel = weights[2:]
        rank = len(self._kernel)
        self._strides = values.get("strides", [1] * rank)
        self._dilations = values.get("dilations", [1] * rank)
        pads = values.get("pads", [0] * 2 * rank)
        self._pads = [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
        size = int(np.prod(weights[1:]))
        self._places = max(_PLACES, size // _PLACES_PER_VALUE)
        self._rng = np.random.default_rng(0)
        self._count = 0
        self._sums = np.zeros((self._groups, size))
        self._products = np.zeros((self._groups, size, size), np.float32)

    def update(self, values: NDArray[np.float32]) -> None:
        """Take in what the convolution reads, float32 (N, C, H, W)."""
        patches = self._patches(values)
        self._count += patches.shape[1]
        self._sums += patches.sum(1, np.float64)
        self._products += np.matmul(patches.transpose(0, 2, 1), patches)

    def result(self) -> PatchMoments:
        """The moments of all patches so far; of one at least."""
        mean = self._sums / self._count
        products = self._products.astype(np.float64) / self._count
        return PatchMoments(mean, products - mean[:, :, None] * mean[:, None, :])

    def _patches(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Patches (G, N * places, D) at places drawn for each batch anew."""
        if any(side for pair in self._pads for side in pair):
            values = np.pad(values, self._pads)
        reach = [
            dilation * (size - 1) + 1 for dilation, size in zip(self._dilations, self._kernel, strict=True)
        ]
        sides = [
            (side - length) // stride + 1
            for side, length, stride in zip(values.shape[2:], reach, self._strides, strict=True)
        ]
        total = int(np.prod(sides))
        chosen = self._rng.permutation(total)[: self._places]
        corners = np.unravel_index(chosen, sides)
        offsets = np.indices(self._kernel).reshape(len(self._kernel), -1)
        index = (
            corner[:, None] * stride + offset[None] * dilation
            for corner, stride, offset, dilation in zip(
                corners, self._strides, offsets, self._dilations, strict=True
            )
        )
        everything = slice(None)
        selection = (everything, everything, *index)
        taken = values[selection]  # (N, C, places, kernel)
        batch, channels, places, area = taken.shape
        grouped = taken.reshape(batch, self._groups, channels // self._groups, places, area)
        ordered = grouped.transpose(1, 0, 3, 2, 4)
        return np.ascontiguousarray(ordered).reshape(self._groups, batch * places, -1)


def patch_observers(topology: Topology, layers: Iterable[str]) -> dict[str, PatchObserver]:
    """An observer for each convolution among ``layers`` whose patches are not too large.

    Weights that two layers share are left out: what suits one need not suit the other.
    """
    observers = {}
    for name in layers:
        node = topology.producer(name)
        if node is None or node.op_type != "Conv" or len(topology.readers(node.input[1])) > 1:
            continue
        weights = topology.constant(node.input[1])
        automatic = attributes(node).get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
        if weights is not None and not automatic and np.prod(weights.shape[1:]) <= LARGEST_PATCH:
            observers[name] = PatchObserver(node, weights.shape)
    return observers
