"""From what was seen of a tensor to the largest magnitude that INT8 shall represent, its amax.

A method is a function from statistics to Ranges; METHODS names them for the command line.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import CalibrationError
from .observers import TensorStatistics

# 127 steps of the smallest normal float32: below it a scale would be zero or lose its precision
SMALLEST_AMAX = 127 * float(np.finfo(np.float32).tiny)


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

    Where that falls into the first bin, nearly all values are zero or tiny and the few others are the
    signal: those tensors get the largest |value|.

    Raises CalibrationError unless 0 < percent <= 100.
    """
    if not 0 < percent <= 100:
        raise CalibrationError(f"the percentile is {percent}; it must lie above 0 and not above 100")

    def amax(seen: TensorStatistics) -> float:
        wanted = seen.count * (percent / 100)
        index = int(np.searchsorted(np.cumsum(seen.histogram), wanted))
        if index == 0:
            return seen.largest
        return min((index + 1) * seen.bin_width, seen.largest)

    return _ranges(f"percentile {percent:g}", statistics, amax)


METHODS: dict[str, Callable[[Mapping[str, TensorStatistics]], Ranges]] = {
    "minmax": minmax,
    "percentile": percentile,
}


def _ranges(
    method: str,
    statistics: Mapping[str, TensorStatistics],
    amax: Callable[[TensorStatistics], float],
) -> Ranges:
    found = {tensor: amax(seen) for tensor, seen in statistics.items()}
    excluded = {
        tensor: "it was zero on every crop" if statistics[tensor].largest == 0 else "its values are too small"
        for tensor, value in found.items()
        if value < SMALLEST_AMAX
    }
    return Ranges(method, {tensor: found[tensor] for tensor in found if tensor not in excluded}, excluded)
