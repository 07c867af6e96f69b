"""Paints a head: a face toward the viewer, hair away from it."""

import numpy as np

from .canvas import Canvas, capsule, ellipse, shade
from .clothes import Clothes
from .figure import Axes, Figure, Vector

HEAD, HAIR = 1, 4  # owner numbers within a figure's

_LIGHT = np.array([-0.45, -0.6, 0.66])  # where the light on hair comes from


class HeadPainter:
    """Draws the head of one figure; ``base`` is the first of its owner numbers."""

    def __init__(self, canvas: Canvas, figure: Figure, clothes: Clothes, base: int) -> None:
        self._canvas = canvas
        self._figure = figure
        self._clothes = clothes
        self._base = base
        self._line = max(figure.build.head * 0.09, 1.0)

    def paint_long_hair(self) -> None:
        figure, head = self._figure, self._figure.build.head
        top = figure.head_centre - figure.head.forward * head * 0.35
        end = top - figure.head.up * head * 1.5
        self._canvas.fill(
            capsule(top, end, head * 0.95, head * 0.6),
            self._clothes.hair,
            self._base + HAIR,
            None,
            self._line,
        )

    def paint(self) -> None:
        figure, axes, radius = self._figure, self._figure.head, self._figure.build.head
        joints, centre = figure.joints, figure.head_centre
        skin = self._clothes.skin
        ears = [ear for ear in (joints[3], joints[4]) if ear[2] > centre[2] - radius * 0.5]
        for ear in ears:
            if ear[2] <= centre[2]:
                self._ear(ear, radius)
        self._canvas.fill(
            ellipse(centre, (radius * 1.0, radius * 1.08)), skin, self._base + HEAD, None, self._line
        )
        self._hair(centre, axes, radius)
        for ear in ears:
            if ear[2] > centre[2]:
                self._ear(ear, radius)
        for eye in (joints[1], joints[2]):
            if eye[2] - centre[2] > 0.05 * radius:
                self._eye(eye, axes, radius)
        if joints[0, 2] - centre[2] > -0.1 * radius:
            bridge = joints[0] - axes.forward * radius * 0.25 + axes.up * radius * 0.12
            self._canvas.fill(
                capsule(bridge, joints[0], radius * 0.08, radius * 0.13), shade(skin, 0.72), self._base + HEAD
            )
        self._mouth(centre, axes, radius)

    def _ear(self, ear: Vector, radius: float) -> None:
        skin = self._clothes.skin
        self._canvas.fill(
            ellipse(ear, (radius * 0.2, radius * 0.27)), skin, self._base + HEAD, None, self._line
        )
        self._canvas.fill(ellipse(ear, (radius * 0.08, radius * 0.13)), shade(skin, 0.7), self._base + HEAD)

    def _eye(self, eye: Vector, axes: Axes, radius: float) -> None:
        narrow = max(abs(float(axes.left[0])), 0.45)
        white = ellipse(eye, (radius * 0.19 * narrow, radius * 0.17))
        self._canvas.fill(white, (250, 250, 250), self._base + HEAD)
        self._canvas.fill(ellipse(eye, (radius * 0.1, radius * 0.12)), (35, 30, 25), self._base + HEAD)
        brow = eye + axes.up * radius * 0.27
        across = axes.left * radius * 0.17
        self._canvas.fill(
            capsule(brow - across, brow + across, radius * 0.05, radius * 0.05),
            self._clothes.hair,
            self._base + HEAD,
        )

    def _mouth(self, centre: Vector, axes: Axes, radius: float) -> None:
        mouth = centre + radius * (axes.forward * 0.88 - axes.up * 0.48)
        if mouth[2] - centre[2] > 0.1 * radius:
            across = axes.left * radius * 0.22
            lips = capsule(mouth - across, mouth + across, radius * 0.07, radius * 0.07)
            self._canvas.fill(lips, (70, 60, 190), self._base + HEAD)

    def _hair(self, centre: Vector, axes: Axes, radius: float) -> None:
        """Colour the part of the round head whose normals point up and back, pixel by pixel."""
        image = self._canvas.image
        height, width = image.shape[:2]
        reach = radius * 1.1
        left, top = max(int(centre[0] - reach), 0), max(int(centre[1] - reach), 0)
        right, bottom = min(int(centre[0] + reach) + 2, width), min(int(centre[1] + reach) + 2, height)
        if right <= left or bottom <= top:
            return
        x = (np.arange(left, right, dtype=np.float32) - centre[0]) / radius
        y = ((np.arange(top, bottom, dtype=np.float32) - centre[1]) / (radius * 1.08))[:, None]
        flat = x**2 + y**2
        z = np.sqrt(np.maximum(1 - flat, 0))
        crown = axes.up * 0.72 - axes.forward * 0.69
        edge = (x * crown[0] + y * crown[1] + z * crown[2] - self._clothes.hairline) * radius * 0.8
        alpha = np.clip(edge + 0.5, 0, 1) * np.clip((1 - flat) * radius * 0.5, 0, 1)
        light = 0.85 + 0.3 * np.clip(x * _LIGHT[0] + y * _LIGHT[1] + z * _LIGHT[2], 0, 1)
        colour = np.array(self._clothes.hair, np.float32) * light[..., None]
        region = image[top:bottom, left:right]
        region[:] = np.clip(region + alpha[..., None] * (colour - region), 0, 255).astype(np.uint8)
