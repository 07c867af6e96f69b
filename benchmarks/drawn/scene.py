"""Whole pictures: a background, one to four figures, things in front of them, light and noise."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from . import head, paint
from .background import paint_background, paint_obstacle
from .canvas import OBSTACLE, Canvas, Image
from .clothes import sample_clothes
from .figure import Figure, sample_figure
from .paint import FigurePainter

_COUNT_CHANCES = (0.35, 0.35, 0.2, 0.1)  # of 1, 2, 3 and 4 figures
_MOST_OVERLAP = 0.25  # of the smaller of two boxes; more hides too many joints
_PLACEMENTS = 8
HIDDEN, VISIBLE = 1, 2  # COCO's flags; 0 is a joint that is not labelled


@dataclass(frozen=True)
class FigureAnnotation:
    """What COCO says of a person.

    keypoints: (17, 3) float64: x, y in pixels and the flag; a joint outside the picture, or of a face that
        is turned away, is (0, 0, 0).
    box_xywh: around the figure, clipped to the picture, in pixels.
    area: pixels of the figure inside the picture.
    """

    keypoints: NDArray[np.float64]
    box_xywh: tuple[float, float, float, float]
    area: float


@dataclass(frozen=True)
class _Placed:
    figure: Figure
    offset: NDArray[np.float64]  # from the figure's pixels to the picture's
    box: NDArray[np.float64]  # xyxy around joints, hands and feet


def sample_scene(seed: int | tuple[int, ...]) -> tuple[Image, list[FigureAnnotation]]:
    """The picture that belongs to ``seed`` and its figures: (H, W, 3) uint8 BGR, and annotations.

    The same seed gives the same bytes with the same versions of numpy and OpenCV.
    """
    rng = np.random.default_rng(seed)
    count = int(rng.choice(4, p=_COUNT_CHANCES)) + 1
    height = int(rng.integers(320, 381))
    width = int(rng.integers(320, 481)) if count < 3 else int(rng.integers(420, 481))
    canvas = Canvas(
        image=np.zeros((height, width, 3), np.uint8),
        owner=np.zeros((height, width), np.uint8),
        silhouette=np.zeros((height, width), np.uint8),
    )
    paint_background(rng, canvas.image)

    placed = _place_figures(rng, count, width, height)
    placed.sort(key=lambda item: float(item.box[3]))  # who stands lower stands nearer
    silhouettes = []
    for number, item in enumerate(placed):
        figure = _moved(item.figure, item.offset)
        canvas.silhouette = np.zeros((height, width), np.uint8)
        if figure.pose == "sit":
            _paint_seat(rng, canvas, figure)
        FigurePainter(canvas, figure, sample_clothes(rng), number).paint()
        silhouettes.append((figure, canvas.silhouette))
    if rng.random() < 0.3:
        feet = placed[int(rng.integers(len(placed)))].box
        paint_obstacle(rng, canvas, feet)
    _light(rng, canvas.image)
    annotations = [
        _annotate(figure, number, silhouette, canvas.owner)
        for number, (figure, silhouette) in enumerate(silhouettes)
        if silhouette.any()
    ]
    return canvas.image, annotations


def _extent(figure: Figure) -> NDArray[np.float64]:
    points = np.concatenate([figure.joints, figure.hands, figure.toes])[:, :2]
    margin = figure.build.head * 0.5
    top = figure.head_centre[:2] - figure.build.head * 1.1
    return np.concatenate([np.minimum(points.min(0) - margin, top), points.max(0) + margin])


def _place_figures(rng: np.random.Generator, count: int, width: int, height: int) -> list[_Placed]:
    """Figures side by side in random order, of which few overlap much and some leave the frame."""
    slots = rng.permutation(count)
    placed: list[_Placed] = []
    for slot in slots:
        tallest = min(height * 0.92, 300) * (1.0 if count < 3 else 0.8)
        size = float(rng.uniform(0.45 if count > 1 else 0.55, 1.0)) * tallest
        figure = sample_figure(rng, max(size, 110.0))
        extent = _extent(figure)
        best: tuple[float, _Placed] | None = None
        for _ in range(_PLACEMENTS):
            offset = _sample_offset(rng, extent, (int(slot), count), width, height)
            box = extent + np.tile(offset, 2)
            overlap = max((_overlap(box, other.box) for other in placed), default=0.0)
            if best is None or overlap < best[0]:
                best = (overlap, _Placed(figure, offset, box))
            if overlap <= _MOST_OVERLAP:
                break
        assert best is not None
        if best[0] <= 2 * _MOST_OVERLAP or not placed:
            placed.append(best[1])
    return placed


def _sample_offset(
    rng: np.random.Generator, extent: NDArray[np.float64], slot: tuple[int, int], width: int, height: int
) -> NDArray[np.float64]:
    index, count = slot
    room = width / count
    x = room * (index + 0.5 + rng.uniform(-0.25, 0.25)) - (extent[0] + extent[2]) / 2
    figure_height = extent[3] - extent[1]
    spare = height - 4 - figure_height
    bottom = height - 2 - max(spare, 0.0) * rng.uniform(0, 0.5)
    y = bottom - extent[3]
    if rng.random() < 0.12:  # cut by the frame
        y += figure_height * rng.uniform(0.1, 0.35)
        return np.array([x, y])
    slack = width - (extent[2] - extent[0])
    if slack > 0:
        x = float(np.clip(x, -extent[0], width - extent[2]))
    return np.array([x, y])


def _overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Shared area as a part of the smaller box's."""
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    if (sides <= 0).any():
        return 0.0
    areas = [float(np.prod(box[2:] - box[:2])) for box in (first, second)]
    return float(np.prod(sides)) / min(areas)


def _moved(figure: Figure, offset: NDArray[np.float64]) -> Figure:
    step = np.array([offset[0], offset[1], 0.0])
    return Figure(
        joints=figure.joints + step,
        neck=figure.neck + step,
        pelvis=figure.pelvis + step,
        head_centre=figure.head_centre + step,
        hands=figure.hands + step,
        toes=figure.toes + step,
        body=figure.body,
        head=figure.head,
        build=figure.build,
        pose=figure.pose,
    )


def _paint_seat(rng: np.random.Generator, canvas: Canvas, figure: Figure) -> None:
    """A box to sit on, from under the hips to the floor."""
    build = figure.build
    half = build.shoulders * rng.uniform(1.1, 1.5)
    top = figure.pelvis[1] + build.leg_radius * 0.9
    floor = max(float(figure.joints[15:, 1].max()), top + build.shank * 0.6) + build.foot * 0.2
    left, right = figure.pelvis[0] - half, figure.pelvis[0] + half
    colour = tuple(float(value) for value in rng.uniform(40, 200, 3))
    corners = np.array([[left, top], [right, top], [right, floor], [left, floor]])
    canvas.fill(corners, (colour[0], colour[1], colour[2]), OBSTACLE, None, 2.0)


def _light(rng: np.random.Generator, image: Image) -> None:
    """Exposure, colour cast, a slope of light across the picture, noise and a little blur, in place."""
    height, width = image.shape[:2]
    if rng.random() < 0.3:
        cv2.GaussianBlur(image, (3, 3), float(rng.uniform(0.3, 0.8)), dst=image)
    slope = rng.uniform(-0.15, 0.15, 2)
    gain = rng.uniform(0.8, 1.12)
    x = np.linspace(-slope[0], slope[0], width, dtype=np.float32)
    y = np.linspace(-slope[1], slope[1], height, dtype=np.float32)
    light = (gain + x + y[:, None]).astype(np.float32)
    cast = rng.uniform(0.93, 1.07, 3)
    strength = rng.uniform(1, 7)
    tile = (rng.standard_normal((96, 96, 3), dtype=np.float32) * strength).astype(np.float32)
    rows, columns = -(-height // 96), -(-width // 96)
    noise = np.tile(tile, (rows, columns, 1))[:height, :width]
    scaled = cv2.multiply(image, cv2.merge([light * channel for channel in cast]), dtype=cv2.CV_32F)
    np.copyto(image, cv2.add(scaled, noise, dtype=cv2.CV_8U))


def _annotate(figure: Figure, number: int, silhouette: Image, owner: Image) -> FigureAnnotation:
    height, width = owner.shape
    keypoints = np.zeros((17, 3))
    for joint in range(17):
        x, y = figure.joints[joint, :2]
        if not (0 <= x <= width - 1 and 0 <= y <= height - 1) or _turned_away(figure, joint):
            continue
        seen = _owners(owner, x, y) & _own_parts(figure, joint, number)
        keypoints[joint] = (round(float(x), 2), round(float(y), 2), VISIBLE if seen else HIDDEN)
    left, top, box_width, box_height = cv2.boundingRect(silhouette)
    box = (float(left), float(top), float(box_width), float(box_height))
    return FigureAnnotation(keypoints, box, float(cv2.countNonZero(silhouette)))


def _turned_away(figure: Figure, joint: int) -> bool:
    """Nobody can label the features of a face that looks away."""
    depth = (figure.joints[joint, 2] - figure.head_centre[2]) / figure.build.head
    limits = (-0.1, 0.05, 0.05, -0.5, -0.5)
    return joint < 5 and bool(depth <= limits[joint])


def _owners(owner: Image, x: float, y: float) -> set[int]:
    column, row = round(x), round(y)
    return set(np.unique(owner[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]).tolist())


def _own_parts(figure: Figure, joint: int, number: int) -> set[int]:
    """Owner numbers that show ``joint``."""
    side = (joint - 1) % 2  # left joints have odd numbers
    if joint < 5:
        parts = {head.HEAD}
    elif joint < 7:
        near = figure.joints[joint, 2] >= figure.neck[2] - figure.build.shoulders * 0.4
        parts = {paint.UPPER_ARM[side]} | ({paint.TORSO} if near else set())
    elif joint < 9:
        parts = {paint.UPPER_ARM[side], paint.FOREARM[side]}
    elif joint < 11:
        parts = {paint.FOREARM[side]}
    elif joint < 13:
        near = figure.joints[joint, 2] >= figure.pelvis[2] - figure.build.hips * 0.4
        parts = {paint.THIGH[side]} | ({paint.TORSO, paint.SKIRT} if near else set())
    elif joint < 15:
        parts = {paint.THIGH[side], paint.SHANK[side]}
    else:
        parts = {paint.SHANK[side]}
    return {number * paint.PARTS_PER_FIGURE + part for part in parts}
