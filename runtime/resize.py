"""Pillow's bilinear resize of a part of an image, to the byte, in numpy alone.

Classifiers are trained and published with it. Unlike OpenCV's it looks, when it shrinks an image, at all
pixels that an output pixel covers: a triangle as wide as two of its steps. Rows come first, rounded to bytes,
then columns, in integers of 22 fractional bits (``Resample.c``). Where Pillow 13 begins with the columns, in
images of some shapes, it differs by a grey level; the published figures are older.
"""

import numpy as np
from numpy.typing import NDArray

_FRACTION_BITS = 22


def resize_part(
    image: NDArray[np.uint8], size_wh: tuple[int, int], corner_xy: tuple[int, int], part_wh: tuple[int, int]
) -> NDArray[np.uint8]:
    """The rectangle of ``part_wh`` pixels at ``corner_xy`` of ``image`` (H, W, C) resized to ``size_wh``.

    It has to lie inside the resized image. Nothing else of that is computed.
    """
    columns, column_weights = _taps(image.shape[1], size_wh[0], corner_xy[0], part_wh[0])
    rows, row_weights = _taps(image.shape[0], size_wh[1], corner_xy[1], part_wh[1])
    left, top = columns.min(), rows.min()
    seen = image[top : rows.max() + 1, left : columns.max() + 1]
    # what is gathered lies together in memory: columns of the image for the first step, rows for the second
    narrow = _weighted(np.ascontiguousarray(seen.transpose(1, 0, 2)), columns - left, column_weights)
    return _weighted(np.ascontiguousarray(narrow.transpose(1, 0, 2)), rows - top, row_weights)


def _weighted(
    lines: NDArray[np.uint8], taps: NDArray[np.intp], weights: NDArray[np.int32]
) -> NDArray[np.uint8]:
    """Weighted sums (taps.shape[1], ...) of lines (L, ...), rounded."""
    sums = np.full((taps.shape[1], *lines.shape[1:]), 1 << (_FRACTION_BITS - 1), np.int32)
    product = np.empty_like(sums)
    for indices, factors in zip(taps, weights, strict=True):
        np.multiply(lines[indices], factors[:, None, None], out=product)
        sums += product
    sums >>= _FRACTION_BITS
    return sums.clip(0, 255, out=sums).astype(np.uint8)


def _taps(inside: int, outside: int, start: int, count: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Indices and weights (taps, count) of the pixels that make output pixels ``start`` and after.

    A side of ``inside`` pixels becomes one of ``outside``. Weights are in units of 2**-22; those of taps
    beyond the image are zero.
    """
    step = inside / outside
    reach = max(step, 1.0)
    centre = (np.arange(start, start + count) + 0.5) * step
    first = np.maximum((centre - reach + 0.5).astype(np.intp), 0)
    end = np.minimum((centre + reach + 0.5).astype(np.intp), inside)
    taps = first + np.arange((end - first).max())[:, None]
    weights = np.maximum(1 - np.abs((taps - centre + 0.5) / reach), 0)
    weights[taps >= end] = 0
    weights /= weights.sum(axis=0)
    fixed = (weights * (1 << _FRACTION_BITS) + 0.5).astype(np.int32)
    return np.minimum(taps, inside - 1), fixed
