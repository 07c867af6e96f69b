"""From what was seen of a tensor to the largest magnitude that INT8 shall represent, its amax.

A method is a function from statistics to Ranges; METHOD_NAMES are those of the command line. Exact zeros have
no say in any of them: INT8 represents zero without an error at every scale.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError
from .statistics import CHANNEL_BINS, TENSOR_BINS, Histogram, TensorStatistics

LARGEST_INT8 = 127

# 127 steps of the smallest normal float32: below it a scale would be zero or lose its precision
SMALLEST_AMAX = LARGEST_INT8 * float(np.finfo(np.float32).tiny)

# ranges that "mse" tries, as shares of the largest magnitude
_SHARES = np.linspace(0.05, 1.0, 96)

# ranges that "entropy" tries, in histogram bins: from one bin a level to all of them
_FEWEST_BINS = LARGEST_INT8 + 1
_BIN_STEP = 16


@dataclass(frozen=True)
class Ranges:
    """The result of a range method.

    method: its name with its parameter, such as "percentile 99.99".
    amax: tensor to its largest represented magnitude, positive.
    excluded: tensor to the reason for which it has no range; layers that read it stay in float.
    """

    method: str
    amax: Mapping[str, float]
    excluded: Mapping[str, str]


def minmax(statistics: Mapping[str, TensorStatistics]) -> Ranges:
    """The largest |value|: nothing is clipped, and one outlier decides the resolution of all others."""
    return _ranges("minmax", statistics, lambda seen: seen.largest)


def percentile(statistics: Mapping[str, TensorStatistics], percent: float = 99.99) -> Ranges:
    """The magnitude that ``percent`` of the values do not exceed, to within a histogram bin above it.

    Where so many values are zero, the few others are the signal: those tensors get the largest |value|.

    Raises CalibrationError unless 0 < percent <= 100.
    """
    if not 0 < percent <= 100:
        raise CalibrationError(f"the percentile is {percent}; it must lie above 0 and not above 100")

    def amax(seen: Histogram) -> float:
        wanted = (seen.counts.sum() + seen.zeros) * (percent / 100)
        if wanted <= seen.zeros:
            return seen.largest
        index = int(np.searchsorted(seen.zeros + np.cumsum(seen.counts), wanted))
        return min((index + 1) * seen.bin_width, seen.largest)

    return _ranges(f"percentile {percent:g}", statistics, amax)


def mse(statistics: Mapping[str, TensorStatistics]) -> Ranges:
    """The range with the smallest mean squared error of what INT8 makes of the values."""

    def amax(seen: Histogram) -> float:
        values = (np.arange(TENSOR_BINS) + 0.5) * seen.bin_width
        ranges = _SHARES * seen.largest
        steps = ranges[:, None] / LARGEST_INT8
        rounded = np.minimum(np.rint(values / steps), LARGEST_INT8) * steps
        return float(ranges[np.argmin(np.square(values - rounded) @ seen.counts)])

    return _ranges("mse", statistics, amax)


def entropy(statistics: Mapping[str, TensorStatistics]) -> Ranges:
    """The range whose INT8 levels tell most about the distribution (Kullback-Leibler divergence).

    After Migacz, "8-bit Inference with TensorRT", GTC 2017.
    """

    def amax(seen: Histogram) -> float:
        used = min(int(np.ceil(seen.largest / seen.bin_width)), TENSOR_BINS)
        sizes = [*range(_FEWEST_BINS, used, _BIN_STEP), used]
        best = min(sizes, key=lambda size: _divergence(seen.counts, size))
        return float(min(best * seen.bin_width, seen.largest))

    return _ranges("entropy", statistics, amax)


def greedy(
    statistics: Mapping[str, TensorStatistics], influences: Mapping[str, NDArray[np.float64]]
) -> Ranges:
    """Of the ranges of all other methods, tensor by tensor the one whose error does least at the readers.

    influences: of each channel (C,) of a tensor, as ``factors.reader_influence`` gives them; a tensor without
        any keeps its range by mean squared error.
    """
    candidates = [method(statistics) for method in METHODS.values()]
    fallback = mse(statistics)

    def best(tensor: str) -> float:
        if tensor not in influences:
            return fallback.amax[tensor]
        seen, influence = statistics[tensor], influences[tensor]
        return min(
            (ranges.amax[tensor] for ranges in candidates),
            key=lambda amax: float(_channel_errors(seen, amax) @ influence),
        )

    return Ranges("greedy", {tensor: best(tensor) for tensor in fallback.amax}, fallback.excluded)


def _channel_errors(seen: TensorStatistics, amax: float) -> NDArray[np.float64]:
    """The squared error (C,) that INT8 of this range adds to each channel's values, on average."""
    middles = (np.arange(CHANNEL_BINS) + 0.5) / CHANNEL_BINS * seen.limit[:, None]
    step = amax / LARGEST_INT8
    rounded = np.minimum(np.rint(middles / step), LARGEST_INT8) * step
    # rounding within a bin that is wider than a step is spread evenly
    errors = np.maximum(np.square(middles - rounded), np.where(middles < amax, step**2 / 12, 0))
    found: NDArray[np.float64] = (errors * seen.histogram).sum(1) / seen.count
    return found


METHODS: dict[str, Callable[[Mapping[str, TensorStatistics]], Ranges]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}
GREEDY = "greedy"
METHOD_NAMES = (*METHODS, GREEDY)


def choose_ranges(
    method: str,
    statistics: Mapping[str, TensorStatistics],
    influences: Callable[[], Mapping[str, NDArray[np.float64]]],
) -> Ranges:
    """Ranges by one of METHOD_NAMES; ``influences`` is asked for by "greedy" alone."""
    return greedy(statistics, influences()) if method == GREEDY else METHODS[method](statistics)


def _divergence(counts: NDArray[np.float64], size: int) -> float:
    """What is lost when the first ``size`` bins become INT8 levels and the others are clipped to the last."""
    clipped = counts[:size].copy()
    clipped[-1] += counts[size:].sum()
    level = np.arange(size) * (LARGEST_INT8 + 1) // size
    filled = counts[:size] > 0
    sums = np.bincount(level, counts[:size], LARGEST_INT8 + 1)
    shares = np.maximum(np.bincount(level, filled, LARGEST_INT8 + 1), 1)
    spread = np.where(filled, (sums / shares)[level], 0.0)
    if not spread.sum():
        return float("inf")
    present = clipped > 0
    real, coded = clipped / clipped.sum(), np.maximum(spread / spread.sum(), 1e-12)
    return float(np.sum(real[present] * np.log(real[present] / coded[present])))


def _ranges(
    method: str, statistics: Mapping[str, TensorStatistics], amax: Callable[[Histogram], float]
) -> Ranges:
    found: dict[str, float] = {}
    excluded: dict[str, str] = {}
    for tensor, seen in statistics.items():
        if seen.largest < SMALLEST_AMAX:
            excluded[tensor] = (
                "it was zero on every crop" if seen.largest == 0 else "its values are too small"
            )
        else:
            found[tensor] = max(amax(seen.merged()), SMALLEST_AMAX)
    return Ranges(method, found, excluded)
