"""What is behind the figures, and the things that stand in front of them."""

import cv2
import numpy as np
from numpy.typing import NDArray

from .canvas import OBSTACLE, Canvas, Colour, Image, capsule, ellipse

_FLOOR = (0.55, 0.8)  # where the horizon may be, as a part of the height


def paint_background(rng: np.random.Generator, image: Image) -> None:
    """Fill ``image`` (H, W, 3) with a wall or sky, a floor, a texture and clutter."""
    horizon = int(image.shape[0] * rng.uniform(*_FLOOR))
    _gradient(rng, image[:horizon])
    _gradient(rng, image[horizon:])
    kind = rng.integers(5)
    if kind == 0:
        _boards(rng, image[:horizon])
    elif kind == 1:
        _bricks(rng, image[:horizon])
    elif kind == 2:
        _blotches(rng, image)
    elif kind == 3:
        _tiles(rng, image[horizon:])
    for _ in range(int(rng.integers(2, 9))):
        _clutter(rng, image, horizon)


def paint_obstacle(rng: np.random.Generator, canvas: Canvas, box: NDArray[np.float64]) -> None:
    """Put a crate, a ball, a bush or a pole in front of the lower part of ``box`` (xyxy)."""
    left, top, right, bottom = (float(value) for value in box)
    height = bottom - top
    x = rng.uniform(left, right)
    colour = _colour(rng)
    kind = rng.integers(4)
    if kind == 0:
        half, tall = height * rng.uniform(0.08, 0.2), height * rng.uniform(0.12, 0.3)
        crate = np.array(
            [[x - half, bottom - tall], [x + half, bottom - tall], [x + half, bottom], [x - half, bottom]]
        )
        canvas.fill(crate, colour, OBSTACLE, None, 2.0)
        brace = capsule(crate[0], crate[2], 2.0, 2.0)
        canvas.fill(brace, (colour[0] * 0.6, colour[1] * 0.6, colour[2] * 0.6), OBSTACLE)
    elif kind == 1:
        radius = height * rng.uniform(0.06, 0.13)
        canvas.fill(ellipse(np.array([x, bottom - radius]), (radius, radius)), colour, OBSTACLE, None, 2.0)
    elif kind == 2:
        green = (rng.uniform(20, 80), rng.uniform(90, 170), rng.uniform(30, 90))
        for _ in range(6):
            centre = np.array([x + height * rng.normal(0, 0.08), bottom - height * rng.uniform(0, 0.15)])
            canvas.fill(ellipse(centre, (height * 0.08, height * 0.06)), green, OBSTACLE, None, 1.0)
    else:
        thick = height * rng.uniform(0.012, 0.03)
        canvas.fill(
            capsule(np.array([x, -9.0]), np.array([x, bottom]), thick, thick), colour, OBSTACLE, None, 1.0
        )


def _colour(rng: np.random.Generator, low: float = 30, high: float = 235) -> Colour:
    grey = rng.uniform(low, high)
    tint = rng.normal(0, 35, 3)
    blue, green, red = (float(np.clip(grey + value, 0, 255)) for value in tint)
    return (blue, green, red)


def _gradient(rng: np.random.Generator, region: Image) -> None:
    start, end = np.array(_colour(rng, 60)), np.array(_colour(rng, 60))
    end = start + (end - start) * rng.uniform(0, 0.6)
    share = np.linspace(0, 1, region.shape[0])[:, None]
    region[:] = (start * (1 - share) + end * share).astype(np.uint8)[:, None]


def _near(rng: np.random.Generator, region: Image, spread: float = 30) -> Colour:
    """A colour near that of the middle of ``region``."""
    base = region[region.shape[0] // 2, region.shape[1] // 2]
    shift = rng.normal(0, spread)
    blue, green, red = (float(np.clip(float(value) + shift, 0, 255)) for value in base)
    return (blue, green, red)


def _boards(rng: np.random.Generator, region: Image) -> None:
    colour = _near(rng, region)
    step = int(rng.integers(14, 60))
    for x in range(int(rng.integers(step)), region.shape[1], step):
        cv2.line(region, (x, 0), (x, region.shape[0]), colour, int(rng.integers(1, max(step // 3, 2))))


def _bricks(rng: np.random.Generator, region: Image) -> None:
    colour = _near(rng, region)
    tall, wide = int(rng.integers(10, 24)), int(rng.integers(24, 60))
    for row, y in enumerate(range(0, region.shape[0], tall)):
        cv2.line(region, (0, y), (region.shape[1], y), colour, 1)
        for x in range((row % 2) * wide // 2, region.shape[1], wide):
            cv2.line(region, (x, y), (x, y + tall), colour, 1)


def _tiles(rng: np.random.Generator, region: Image) -> None:
    colour = _near(rng, region)
    middle = region.shape[1] // 2
    for x in range(-2 * region.shape[1], 3 * region.shape[1], int(rng.integers(40, 120))):
        cv2.line(region, (middle + (x - middle) // 3, 0), (x, region.shape[0]), colour, 1, cv2.LINE_AA)
    y = 3.0
    while y < region.shape[0]:
        cv2.line(region, (0, int(y)), (region.shape[1], int(y)), colour, 1)
        y *= 1.6


def _blotches(rng: np.random.Generator, image: Image) -> None:
    tint = 0.4 * rng.standard_normal((9, 12, 3)) + 0.6 * rng.standard_normal((9, 12, 1))
    coarse = (tint * rng.uniform(8, 26)).astype(np.float32)
    smooth = cv2.resize(coarse, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_CUBIC)
    np.copyto(image, cv2.add(image, smooth, dtype=cv2.CV_8U))


def _clutter(rng: np.random.Generator, image: Image, horizon: int) -> None:
    """A picture on the wall, a ball, a pole, a tree, a hill or a thing that looks like a limb."""
    height, width = image.shape[:2]
    x, y = int(rng.integers(width)), int(rng.integers(horizon))
    size = int(rng.integers(12, 70))
    colour, line = _colour(rng), _colour(rng)
    kind = rng.integers(6)
    if kind == 0:
        cv2.rectangle(image, (x, y), (x + size, y + int(size * rng.uniform(0.5, 1.5))), colour, -1)
        cv2.rectangle(image, (x, y), (x + size, y + int(size * rng.uniform(0.5, 1.5))), line, 2)
    elif kind == 1:
        cv2.circle(image, (x, int(rng.integers(height))), size // 2, colour, -1, cv2.LINE_AA)
    elif kind == 2:
        cv2.line(image, (x, 0), (x, horizon + size // 2), colour, max(size // 10, 2), cv2.LINE_AA)
    elif kind == 3:
        trunk, top = horizon + size // 3, horizon - size
        cv2.line(image, (x, trunk), (x, top), (40, 70, 100), max(size // 7, 2), cv2.LINE_AA)
        green = (40, int(rng.integers(90, 160)), int(rng.integers(30, 90)))
        cv2.circle(image, (x, top), size // 2, green, -1, cv2.LINE_AA)
        cv2.circle(image, (x + size // 4, top + size // 4), size // 3, green, -1, cv2.LINE_AA)
    elif kind == 4:
        cv2.ellipse(image, (x, horizon), (size * 2, size), 0, 180, 360, colour, -1, cv2.LINE_AA)
    else:
        angle, thick = rng.uniform(0, 2 * np.pi), size * rng.uniform(0.08, 0.2)
        start = np.array([float(x), float(y)])
        end = start + np.array([np.cos(angle), np.sin(angle)]) * size
        corners = np.round(capsule(start, end, thick, thick * 0.8) * 16).astype(np.int32)
        cv2.fillPoly(image, [corners], colour, cv2.LINE_AA, 4)
        cv2.polylines(image, [corners], True, line, 1, cv2.LINE_AA, 4)
