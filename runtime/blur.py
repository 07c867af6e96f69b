"""The blurs of the heatmap decoders, in numpy alone: separable, outside a map is zero."""

import numpy as np
from numpy.typing import NDArray

# maps whose sums of neighbours stay in a core's cache while they are blurred
_CACHED_MAPS = 16


def gaussian_band(side: int, size: int) -> NDArray[np.float32]:
    """The matrix (side, side) that blurs a line of pixels with a Gaussian of an odd size."""
    reach = size // 2
    weights = gaussian_weights(size)
    band = sum(weight * np.eye(side, k=k - reach) for k, weight in enumerate(weights))
    return np.asarray(band, np.float32)


def gaussian_weights(size: int) -> NDArray[np.float64]:
    """The weights (size,) of a Gaussian of an odd size; their sum is 1.

    Its sigma is the one that OpenCV's GaussianBlur derives from a size when it is given none.
    """
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    distance = np.arange(size) - size // 2
    weights = np.exp(-(distance**2) / (2 * sigma**2))
    return np.asarray(weights / weights.sum())


def binomial_blur(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maps (M, h, w) blurred with [1, 4, 6, 4, 1] / 16 in both directions; outside a map is zero.

    Four sums of neighbours make the five weights. On the flattened padded map a neighbour is one or one row
    further on, so that every sum is one pass over memory; what runs over a row's end stays in the padding.
    """
    count, height, width = maps.shape
    blurred = np.empty_like(maps)
    shape = (min(count, _CACHED_MAPS), height + 4, width + 4)
    padded, spare = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for start in range(0, count, _CACHED_MAPS):
        part = maps[start : start + _CACHED_MAPS]
        frame = padded[: len(part)]
        frame[...] = 0
        frame[:, 2:-2, 2:-2] = part
        sums, other = frame.reshape(-1), spare.reshape(-1)
        size = sums.size
        for stride in 4 * [1] + 4 * [width + 4]:
            size -= stride
            np.add(sums[:size], sums[stride : stride + size], out=other[:size])
            sums, other = other, sums
        # after eight exchanges the sums are back in the frame
        np.multiply(frame[:, :height, :width], 1 / 256, out=blurred[start : start + len(part)])
    return blurred
