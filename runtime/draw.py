"""Skeletons and boxes drawn into an image with numpy alone."""

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

# COCO's 17 joints: nose, then left and right eye, ear, shoulder, elbow, wrist, hip, knee, ankle
COCO_LIMBS = (
    (0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10),
    (5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16),
)  # fmt: skip

_LEFT = (255, 128, 0)  # BGR
_RIGHT = (0, 96, 255)
_CENTRE = (0, 220, 90)
_BOX = (255, 255, 255)
_OUTLINE = (0, 0, 0)


def draw_poses(
    image: NDArray[np.uint8],
    keypoints: NDArray[np.floating],
    scores: NDArray[np.floating],
    boxes: NDArray[np.floating] | None = None,
    threshold: float = 0.3,
) -> NDArray[np.uint8]:
    """Return a copy of ``image`` with skeletons drawn into it.

    image: uint8 (height, width, 3) BGR.
    keypoints: (N, K, 2), x and y in pixels; scores: (N, K). A joint is drawn when its score reaches
        ``threshold`` and its position is finite; a limb when both its joints are. Parts outside the image
        are left out. COCO's 17 joints get limbs, any other number is drawn as dots.
    boxes: (N, 4) xyxy in pixels, outlined when given.

    Left is blue, right is orange, the middle green, as the person sees it. Raises DataError when the shapes
    do not fit one another.
    """
    _check(image, keypoints, scores, boxes)
    canvas = image.astype(np.float32)
    for box in () if boxes is None else boxes:
        _draw_box(canvas, box)
    for points, confidences in zip(keypoints.astype(np.float64), scores, strict=True):
        _draw_pose(canvas, points, (confidences >= threshold) & np.isfinite(points).all(axis=1))
    return np.rint(canvas).astype(np.uint8)


def _check(
    image: NDArray[np.uint8],
    keypoints: NDArray[np.floating],
    scores: NDArray[np.floating],
    boxes: NDArray[np.floating] | None,
) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"an image is uint8 (height, width, 3), not {image.dtype} {image.shape}")
    if keypoints.ndim != 3 or keypoints.shape[2] != 2 or scores.shape != keypoints.shape[:2]:
        raise DataError(
            f"keypoints are (N, K, 2) and scores (N, K), not {keypoints.shape} and {scores.shape}"
        )
    if boxes is not None and boxes.shape != (len(keypoints), 4):
        raise DataError(f"boxes are (N, 4), one per person: {boxes.shape} with {len(keypoints)} persons")


def _draw_pose(canvas: NDArray[np.float32], points: NDArray[np.float64], seen: NDArray[np.bool_]) -> None:
    if not seen.any():
        return
    extent = float(np.ptp(points[seen], axis=0).max())
    width = float(np.clip(0.015 * extent, 1.5, 6.0))
    limbs = COCO_LIMBS if len(points) == 17 else ()
    for start, end in limbs:
        if seen[start] and seen[end]:
            _draw_segment(canvas, points[start], points[end], width, _colour(start, end))
    for joint in np.flatnonzero(seen):
        _draw_segment(canvas, points[joint], points[joint], 2.0 * width + 2.0, _OUTLINE)
        _draw_segment(canvas, points[joint], points[joint], 2.0 * width, _colour(int(joint), int(joint)))


def _colour(start: int, end: int) -> tuple[int, int, int]:
    """In COCO's order left joints are odd, right ones even, and the nose is 0."""
    if 0 in (start, end) or start % 2 != end % 2:
        return _CENTRE
    return _LEFT if start % 2 else _RIGHT


def _draw_box(canvas: NDArray[np.float32], box: NDArray[np.floating]) -> None:
    if not np.isfinite(box).all():
        return
    x1, y1, x2, y2 = (float(side) for side in box)
    corners = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], np.float64)
    for index in range(4):
        _draw_segment(canvas, corners[index - 1], corners[index], 1.5, _BOX)


def _draw_segment(
    canvas: NDArray[np.float32],
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    width: float,
    colour: tuple[int, int, int],
) -> None:
    """Blend a round-ended segment into ``canvas``; a pixel is covered by its distance to the segment."""
    height, columns = canvas.shape[:2]
    reach = width / 2 + 1
    low = np.floor(np.minimum(start, end) - reach)
    high = np.ceil(np.maximum(start, end) + reach) + 1
    left, top = (int(side) for side in np.clip(low, 0, (columns, height)))
    right, bottom = (int(side) for side in np.clip(high, 0, (columns, height)))
    if left >= right or top >= bottom:
        return
    x = np.arange(left, right) - start[0]
    y = np.arange(top, bottom)[:, None] - start[1]
    along = end - start
    length = max(float(along @ along), 1e-12)
    position = np.clip((x * along[0] + y * along[1]) / length, 0, 1)
    distance = np.hypot(x - position * along[0], y - position * along[1])
    coverage = np.clip(width / 2 + 0.5 - distance, 0, 1).astype(np.float32)[..., None]
    patch = canvas[top:bottom, left:right]
    patch += coverage * (np.array(colour, np.float32) - patch)
