"""What was seen of one tensor, channel by channel: all that the range methods need, gathered in one pass.

Every channel has a histogram of its own, so that the tensor's histogram under any factors on its channels
follows from it: equalisation needs no second pass.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError

CHANNEL_BINS = 256
TENSOR_BINS = 2048

# below this magnitude bins stop shrinking, so that bins / range stays within float32
_SMALLEST_EXPONENT = -100


@dataclass(frozen=True, eq=False)
class Histogram:
    """Magnitudes of a whole tensor.

    counts: float64 (TENSOR_BINS,) in equal bins from 0 to ``limit``; exact zeros are in none of them.
    zeros: how many values are exactly zero.
    largest: the largest magnitude, at most ``limit``; 0.0 where all values are zero.
    """

    counts: NDArray[np.float64]
    zeros: float
    limit: float
    largest: float

    @property
    def bin_width(self) -> float:
        """Width of a bin in the tensor's unit."""
        return self.limit / len(self.counts)


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """What was seen of a tensor with C channels, which are axis 1; C is 1 without such an axis.

    minimum, maximum: float32 (C,), of all values.
    mean, deviation: float64 (C,), of all values.
    count: values in a channel; ``zeros`` (C,) of them are exactly zero.
    histogram: uint32 (C, CHANNEL_BINS), how many magnitudes above zero fall into each of the equal bins
        from 0 to the channel's ``limit``.
    limit: float64 (C,), a power of two above every magnitude of the channel; 0.0 where all values are zero.
    """

    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    count: int
    zeros: NDArray[np.int64]
    histogram: NDArray[np.uint32]
    limit: NDArray[np.float64]

    @property
    def channel_largest(self) -> NDArray[np.float32]:
        """The largest magnitude of each channel, (C,)."""
        return np.maximum(-self.minimum, self.maximum)

    @property
    def channels_constant(self) -> bool:
        """Whether no channel ever changed; what the channels hold may differ."""
        return bool((self.minimum == self.maximum).all())

    @property
    def constant(self) -> float | None:
        """The one value that was ever seen; None where there are several."""
        lowest, highest = float(self.minimum.min()), float(self.maximum.max())
        return lowest if lowest == highest else None

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return float(self.channel_largest.max())

    def channel_percentile(self, percent: float) -> NDArray[np.float32]:
        """The magnitude (C,) that ``percent`` of a channel's values other than zero do not exceed, to within
        a bin of its histogram above it; 0 where all are zero."""
        cumulated = np.cumsum(self.histogram, 1, dtype=np.int64)
        wanted = cumulated[:, -1:] * (percent / 100)
        above = (cumulated < wanted).sum(1) + 1
        sizes: NDArray[np.float64] = np.minimum(above * self.limit / CHANNEL_BINS, self.channel_largest)
        return sizes.astype(np.float32)

    def scaled(self, factors: NDArray[np.float64] | float = 1.0) -> "TensorStatistics":
        """The statistics of the tensor with its channels multiplied by positive ``factors`` (C,)."""
        return TensorStatistics(
            (self.minimum * factors).astype(np.float32),
            (self.maximum * factors).astype(np.float32),
            self.mean * factors,
            self.deviation * factors,
            self.count,
            self.zeros,
            self.histogram,
            self.limit * factors,
        )

    def merged(self) -> Histogram:
        """One histogram of all channels; values are taken as spread evenly within a bin of their channel."""
        largest = self.largest
        if largest == 0:
            return Histogram(np.zeros(TENSOR_BINS), float(self.zeros.sum()), 0.0, 0.0)
        limit = 2.0 ** int(np.frexp(largest)[1])
        edges = np.arange(TENSOR_BINS + 1) * (limit / TENSOR_BINS)
        shares = np.arange(CHANNEL_BINS + 1) / CHANNEL_BINS
        below = np.zeros(TENSOR_BINS + 1)
        for histogram, reach, most in zip(self.histogram, self.limit, self.channel_largest, strict=True):
            if most > 0:
                cumulated = np.concatenate(([0], np.cumsum(histogram, dtype=np.int64)))
                below += np.interp(edges, np.minimum(shares * reach, most), cumulated)
        return Histogram(np.diff(below), float(self.zeros.sum()), limit, largest)


class Observer:
    """Gathers the statistics of one tensor, batch by batch, in constant memory.

    The histogram of a channel reaches to the power of two just above its largest magnitude so far. When it
    must grow, neighbouring bins are merged, which is exact: the result does not depend on the order of the
    batches, but for the rounding of means.
    """

    def __init__(self) -> None:
        self._count = 0
        self._sums = np.zeros((2, 0))
        self._minimum = self._maximum = np.zeros(0, np.float32)
        self._zeros = self._exponents = np.zeros(0, np.int64)
        self._histogram = np.zeros((0, CHANNEL_BINS), np.uint32)

    def update(self, values: NDArray[np.float32] | NDArray[np.float16]) -> None:
        """Take in values of any shape. Raises CalibrationError at NaN and infinity, and where the number of
        channels is another than before."""
        if values.size == 0:
            return
        channels = values.shape[1] if values.ndim > 1 else 1
        batch = len(values) if values.ndim > 1 else 1
        parts = np.asarray(values, np.float32).reshape(batch, channels, -1)
        minimum, maximum = parts.min((0, 2)), parts.max((0, 2))
        if not (np.isfinite(minimum).all() and np.isfinite(maximum).all()):
            raise CalibrationError("it holds NaN or infinity")
        if not self._count:
            self._begin(channels)
        elif channels != len(self._zeros):
            raise CalibrationError(f"it has {channels} channels now and had {len(self._zeros)}")
        self._minimum = np.minimum(self._minimum, minimum)
        self._maximum = np.maximum(self._maximum, maximum)
        self._count += parts.size // channels
        self._sums += parts.sum((0, 2), np.float64), np.einsum("ncx,ncx->c", parts, parts, dtype=np.float64)
        self._zeros += parts.size // channels - np.count_nonzero(parts, (0, 2))
        self._grow(np.maximum(-minimum, maximum))
        # powers of two, so the products are exact and a value's bin does not depend on the batch
        places = np.abs(parts)
        places *= np.ldexp(np.float32(CHANNEL_BINS), -self._exponents)[:, None].astype(np.float32)
        bins = places.astype(np.int32)
        bins += (np.arange(channels, dtype=np.int32) * CHANNEL_BINS)[:, None]
        counts = np.bincount(bins.reshape(-1), minlength=channels * CHANNEL_BINS)
        self._histogram += counts.reshape(channels, CHANNEL_BINS).astype(np.uint32)

    def result(self) -> TensorStatistics:
        """The statistics so far. Raises CalibrationError when nothing was seen."""
        if self._count == 0:
            raise CalibrationError("no value of it was observed")
        histogram = self._histogram.copy()
        histogram[:, 0] -= self._zeros.astype(np.uint32)
        mean, square = self._sums / self._count
        silent = (self._minimum == 0) & (self._maximum == 0)
        return TensorStatistics(
            self._minimum.copy(),
            self._maximum.copy(),
            mean,
            np.sqrt(np.maximum(square - mean**2, 0.0)),
            self._count,
            self._zeros.copy(),
            histogram,
            np.where(silent, 0.0, np.ldexp(1.0, self._exponents)),
        )

    def _begin(self, channels: int) -> None:
        self._sums = np.zeros((2, channels))
        self._minimum = np.full(channels, np.inf, np.float32)
        self._maximum = np.full(channels, -np.inf, np.float32)
        self._zeros = np.zeros(channels, np.int64)
        self._exponents = np.full(channels, _SMALLEST_EXPONENT, np.int64)
        self._histogram = np.zeros((channels, CHANNEL_BINS), np.uint32)

    def _grow(self, largest: NDArray[np.float32]) -> None:
        """Widen the channels' ranges to hold magnitudes up to ``largest`` (C,)."""
        wanted = np.maximum(np.where(largest > 0, np.frexp(largest)[1], _SMALLEST_EXPONENT), self._exponents)
        steps = wanted - self._exponents
        for step in np.unique(steps[steps > 0]):
            rows = steps == step
            merge = 2 ** min(int(step), CHANNEL_BINS.bit_length() - 1)
            sums = self._histogram[rows].reshape(int(rows.sum()), -1, merge).sum(2, dtype=np.uint32)
            self._histogram[rows] = 0
            self._histogram[rows, : sums.shape[1]] = sums
        self._exponents = wanted
