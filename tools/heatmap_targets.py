"""Heatmaps that a network is fitted to: what mmpose's MegviiHeatmap and MSRAHeatmap encode.

Both put a bump that depends only on the joint's cell into a map of zeros, and both are separable, so a map is
the outer product of two rows of a small table.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def megvii_targets(
    keypoints: NDArray[np.floating],
    labelled: NDArray[np.bool_],
    input_wh: tuple[int, int],
    heatmap_wh: tuple[int, int],
    kernel: int,
    peak: float = 255.0,
) -> tuple[Array, Array]:
    """An impulse in the joint's cell, blurred with OpenCV's Gaussian of side ``kernel``, scaled to ``peak``.

    keypoints: (N, K, 2) pixels of the input. labelled: (N, K).
    Returns heatmaps (N, K, h, w) and weights (N, K), 0 for a joint that is not labelled or lies outside.
    """
    cells, inside = _cells(keypoints, input_wh, heatmap_wh, 0.0)
    weights = labelled & inside
    tables = [_blurred_impulses(size, kernel) for size in heatmap_wh]
    return _outer(tables, cells, weights, heatmap_wh, peak), weights.astype(np.float32)


def msra_targets(
    keypoints: NDArray[np.floating],
    labelled: NDArray[np.bool_],
    input_wh: tuple[int, int],
    heatmap_wh: tuple[int, int],
    sigma: float,
    peak: float = 1.0,
) -> tuple[Array, Array]:
    """A Gaussian about the joint's nearest cell, cut off at three sigma; arguments as ``megvii_targets``.

    A joint outside the map whose Gaussian reaches into it counts as labelled.
    """
    radius = int(sigma * 3)
    cells, _ = _cells(keypoints, input_wh, heatmap_wh, 0.5)
    reach = (cells + radius >= 0) & (cells - radius < np.array(heatmap_wh))
    weights = labelled & reach.all(-1)
    tables = [_gaussians(size, sigma, radius) for size in heatmap_wh]
    # the tables have rows for cells up to ``radius`` outside the map
    limit = np.array(heatmap_wh) + 2 * radius - 1
    rows = np.clip(cells + radius, 0, limit)
    return _outer(tables, rows, weights, heatmap_wh, peak), weights.astype(np.float32)


def _cells(
    keypoints: NDArray[np.floating], input_wh: tuple[int, int], heatmap_wh: tuple[int, int], rounding: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The cell of each joint, (N, K, 2), and whether it is in the map."""
    stride = np.array(input_wh) / np.array(heatmap_wh)
    cells = (keypoints / stride + rounding).astype(np.int64)  # toward zero, as mmpose rounds
    inside = ((cells >= 0) & (cells < np.array(heatmap_wh))).all(-1)
    return cells, inside


def _blurred_impulses(size: int, kernel: int) -> Array:
    """Row i is an impulse at i after the blur, its value at i being 1; the border is mirrored."""
    impulses = np.eye(size, dtype=np.float32)
    blurred = cv2.GaussianBlur(impulses, (kernel, 1), 0)
    return np.asarray(blurred / np.diag(blurred)[:, None], np.float32)


def _gaussians(size: int, sigma: float, radius: int) -> Array:
    """Row i is a Gaussian about i - radius, zero farther than ``radius`` from it."""
    distance = np.arange(size)[None] - (np.arange(size + 2 * radius)[:, None] - radius)
    values = np.exp(-(distance**2) / (2 * sigma**2)) * (np.abs(distance) <= radius)
    return values.astype(np.float32)


def _outer(
    tables: list[Array],
    rows: NDArray[np.int64],
    weights: NDArray[np.bool_],
    heatmap_wh: tuple[int, int],
    peak: float,
) -> Array:
    used = np.where(weights[..., None], rows, 0)
    across = tables[0][used[..., 0]] * (weights[..., None] * np.float32(peak))
    down = tables[1][used[..., 1]]
    return np.asarray(down[..., :, None] * across[..., None, :], np.float32)
