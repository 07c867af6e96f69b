"""A picture that remembers what was drawn where, and the outlines that figures are made of.

Everything is drawn twice: with anti-aliasing into the picture, and as part numbers into an owner map, from
which the visibility of joints follows when the whole picture is done.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .figure import Vector

Image = NDArray[np.uint8]
Points = NDArray[np.float64]
Colour = tuple[float, float, float]  # BGR, 0 to 255

OBSTACLE = 255  # owner of what is neither figure nor background
TILE = 64  # side in pixels of a texture

_SUBPIXEL_BITS = 4
_ARC = np.linspace(-np.pi / 2, np.pi / 2, 7)


def shade(colour: Colour, factor: float) -> Colour:
    """``colour`` darker (below 1) or lighter."""
    return (min(colour[0] * factor, 255), min(colour[1] * factor, 255), min(colour[2] * factor, 255))


def shade_texture(texture: Image, factor: float) -> Image:
    """``texture`` darker or lighter, as ``shade`` does it to a colour."""
    return np.asarray(cv2.convertScaleAbs(texture, alpha=factor), np.uint8)


@dataclass
class Canvas:
    """A picture and the owner of each of its pixels.

    image: (H, W, 3) uint8 BGR. owner: (H, W) uint8, 0 for the background.
    silhouette: (H, W) uint8, set where the present figure is drawn, also under what hides it later.
    """

    image: Image
    owner: Image
    silhouette: Image

    def fill(
        self,
        points: Points,
        colour: Colour,
        owner: int,
        texture: Image | None = None,
        outline: float = 0.0,
    ) -> None:
        """Fill a polygon (n, 2) in pixels; ``outline`` is the width of its dark border."""
        corners = np.round(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        if texture is None:
            cv2.fillPoly(self.image, [corners], colour, cv2.LINE_AA, _SUBPIXEL_BITS)
        else:
            self._fill_texture(points, corners, texture)
        if outline:
            width = max(round(outline), 1)
            dark = shade(colour, 0.35)
            cv2.polylines(self.image, [corners], True, dark, width, cv2.LINE_AA, _SUBPIXEL_BITS)
        cv2.fillPoly(self.owner, [corners], owner, cv2.LINE_8, _SUBPIXEL_BITS)
        if owner < OBSTACLE:
            cv2.fillPoly(self.silhouette, [corners], 1, cv2.LINE_8, _SUBPIXEL_BITS)

    def _fill_texture(self, points: Points, corners: NDArray[np.int32], texture: Image) -> None:
        height, width = self.owner.shape
        left, top = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0)
        right, bottom = np.minimum(np.ceil(points.max(0)).astype(int) + 2, (width, height))
        if right <= left or bottom <= top:
            return
        mask = np.zeros((bottom - top, right - left), np.uint8)
        shift = np.array([left, top]) << _SUBPIXEL_BITS
        cv2.fillPoly(mask, [(corners - shift).astype(np.int32)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        rows, columns = np.arange(top, bottom) % TILE, np.arange(left, right) % TILE
        pattern = texture[rows[:, None], columns[None]].astype(np.uint16)
        weight = mask[..., None].astype(np.uint16)
        region = self.image[top:bottom, left:right]
        region[:] = (pattern * weight + region * (255 - weight) + 127) // 255


def capsule(start: Vector, end: Vector, start_radius: float, end_radius: float) -> Points:
    """The outline of a limb: a tapered bar with round ends, (14, 2) in pixels."""
    direction = end[:2] - start[:2]
    angle = np.arctan2(direction[1], direction[0])
    far = np.stack([np.cos(angle + _ARC), np.sin(angle + _ARC)], 1)
    near = np.stack([np.cos(angle + np.pi + _ARC), np.sin(angle + np.pi + _ARC)], 1)
    return np.concatenate([end[:2] + far * end_radius, start[:2] + near * start_radius])


def ellipse(centre: Vector, radii: tuple[float, float], angle: float = 0.0) -> Points:
    """An ellipse as a polygon of 20 corners; ``angle`` in radians."""
    around = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    local = np.stack([np.cos(around) * radii[0], np.sin(around) * radii[1]], 1)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.asarray(centre[:2] + local @ turn, np.float64)


def hull_of(outlines: list[Points]) -> Points:
    """The convex outline around several outlines, (n, 2)."""
    hull = cv2.convexHull(np.concatenate(outlines).astype(np.float32))
    return np.asarray(hull[:, 0], np.float64)
