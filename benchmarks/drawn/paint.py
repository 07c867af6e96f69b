"""Paints a figure: trunk and limbs in their clothes, the farthest first."""

from collections.abc import Callable
from functools import partial

import numpy as np

from .canvas import Canvas, Colour, Points, capsule, ellipse, hull_of, shade, shade_texture
from .clothes import Cloth, Clothes
from .figure import Figure, Vector
from .head import HeadPainter

# owner numbers within a figure's, beside those of its head; pairs are left, right
TORSO, SKIRT = 2, 3
UPPER_ARM, FOREARM, THIGH, SHANK = (5, 6), (7, 8), (9, 10), (11, 12)
PARTS_PER_FIGURE = 16


class FigurePainter:
    """Draws one figure; ``number`` (0 to 14) tells its owner numbers from other figures'."""

    def __init__(self, canvas: Canvas, figure: Figure, clothes: Clothes, number: int) -> None:
        self._canvas = canvas
        self._figure = figure
        self._clothes = clothes
        self._base = number * PARTS_PER_FIGURE
        self._line = max(figure.build.head * 0.09, 1.0)

    def paint(self) -> None:
        """Draw all parts, the farthest first."""
        figure = self._figure
        joints = figure.joints
        head = HeadPainter(self._canvas, figure, self._clothes, self._base)
        order: list[tuple[float, Callable[[], None]]] = [
            ((figure.neck[2] + figure.pelvis[2]) / 2, self._trunk)
        ]
        for side in range(2):
            # a limb lies in front of the trunk when its middle does; ends count more than roots
            leg_depth = joints[13 + side, 2] * 0.7 + joints[15 + side, 2] * 0.3 - figure.build.leg_radius
            order.append((float(leg_depth), partial(self._leg, side)))
            upper, lower = joints[7 + side, 2], joints[9 + side, 2]
            order.append((float(upper * 0.8 + joints[5 + side, 2] * 0.2), partial(self._upper_arm, side)))
            order.append((float(upper * 0.4 + lower * 0.6), partial(self._forearm, side)))
        order.append((float(figure.head_centre[2]) + figure.build.head * 0.3, head.paint))
        if self._clothes.long_hair:
            back = figure.head_centre[2] - figure.head.forward[2] * figure.build.head * 1.6
            order.append((float(back), head.paint_long_hair))
        for _, draw in sorted(order, key=lambda item: item[0]):
            draw()

    def _depth_shade(self, depth: float) -> float:
        """Farther parts are darker, so that near and far limbs can be told apart."""
        return float(np.clip(1.0 + 0.9 * depth / (self._figure.build.torso * 2), 0.72, 1.12))

    def _segment(
        self, start: Vector, end: Vector, radii: tuple[float, float], cloth: Cloth, part: int
    ) -> None:
        light = self._depth_shade((start[2] + end[2]) / 2)
        colour = shade(cloth.colour, light)
        texture = None if cloth.texture is None else shade_texture(cloth.texture, light)
        limb = capsule(start, end, *radii)
        self._canvas.fill(limb, colour, self._base + part, texture, self._line)
        if texture is None:  # a stripe of light along the side that faces it
            offset = np.array([-0.35, -0.3, 0]) * min(radii)
            bright = capsule(start + offset, end + offset, radii[0] * 0.3, radii[1] * 0.3)
            self._canvas.fill(bright, shade(colour, 1.18), self._base + part)

    def _covered(
        self, start: Vector, end: Vector, radii: tuple[float, float], cover: float, cloth: Cloth, part: int
    ) -> None:
        """A limb segment whose first ``cover`` (0 to 1) is clothed and whose rest is skin."""
        if cover < 1:
            self._segment(start, end, radii, Cloth(self._clothes.skin), part)
        if cover > 0:
            cut = start + (end - start) * min(cover, 1.0)
            wide = 1.0 if cover >= 1 else 1.15
            edge = radii[0] + (radii[1] - radii[0]) * min(cover, 1.0)
            self._segment(start, cut, (radii[0] * wide, edge * wide), cloth, part)

    def _upper_arm(self, side: int) -> None:
        joints, clothes, radius = self._figure.joints, self._clothes, self._figure.build.arm_radius
        shoulder, elbow = joints[5 + side], joints[7 + side]
        self._covered(shoulder, elbow, (radius * 1.15, radius), clothes.sleeve, clothes.top, UPPER_ARM[side])

    def _forearm(self, side: int) -> None:
        joints, clothes, radius = self._figure.joints, self._clothes, self._figure.build.arm_radius
        elbow, wrist, hand = joints[7 + side], joints[9 + side], self._figure.hands[side]
        part = FOREARM[side]
        skin = shade(clothes.skin, self._depth_shade(hand[2]))
        self._canvas.fill(
            ellipse(hand, (radius * 1.2, radius * 1.2)), skin, self._base + part, None, self._line
        )
        cover = clothes.sleeve - 1
        self._covered(elbow, wrist, (radius, radius * 0.8), cover, clothes.top, part)
        self._patch(elbow, radius, clothes.top.colour if cover > 0 else clothes.skin, part)

    def _leg(self, side: int) -> None:
        joints, clothes, radius = self._figure.joints, self._clothes, self._figure.build.leg_radius
        hip, knee, ankle = joints[11 + side], joints[13 + side], joints[15 + side]
        segments = [
            (float(knee[2]), partial(self._thigh, side, hip, knee, radius)),
            (float(ankle[2]), partial(self._shank, side, knee, ankle, radius)),
        ]
        for _, draw in sorted(segments, key=lambda item: item[0]):
            draw()
        covered = clothes.trousers > 1
        self._patch(knee, radius * 0.85, clothes.bottom.colour if covered else clothes.skin, SHANK[side])

    def _thigh(self, side: int, hip: Vector, knee: Vector, radius: float) -> None:
        clothes = self._clothes
        radii = (radius * 1.15, radius * 0.85)
        self._covered(hip, knee, radii, clothes.trousers, clothes.bottom, THIGH[side])

    def _shank(self, side: int, knee: Vector, ankle: Vector, radius: float) -> None:
        clothes, toe = self._clothes, self._figure.toes[side]
        part = SHANK[side]
        shoe = shade(clothes.shoes, self._depth_shade(toe[2]))
        radii = (radius * 0.85, radius * 0.6)
        foot = capsule(ankle + (ankle - knee) * 0.06, toe, radius * 0.65, radius * 0.5)
        self._canvas.fill(foot, shoe, self._base + part, None, self._line)
        self._covered(knee, ankle, radii, clothes.trousers - 1, clothes.bottom, part)

    def _patch(self, joint: Vector, radius: float, colour: Colour, part: int) -> None:
        if self._clothes.seams:
            light = self._depth_shade(joint[2])
            self._canvas.fill(
                ellipse(joint, (radius * 0.5, radius * 0.5)), shade(colour, 0.72 * light), self._base + part
            )

    def _trunk(self) -> None:
        figure, clothes, build = self._figure, self._clothes, self._figure.build
        joints = figure.joints
        thick = build.torso * 0.16  # half depth of the chest, seen from the side
        neck_end = figure.neck + figure.body.up * build.neck * 1.6
        self._segment(
            figure.neck, neck_end, (build.head * 0.42, build.head * 0.4), Cloth(clothes.skin), TORSO
        )
        outline = [joints[5], joints[6], joints[11], joints[12]]
        rings = [capsule(joint, joint, thick * 0.62, thick * 0.62) for joint in outline]
        chest = (figure.neck - figure.body.up * build.torso * 0.3, thick)
        waist = (figure.pelvis + figure.body.up * build.torso * 0.15, thick * 0.8)
        rings += [ellipse(centre, (radius, radius)) for centre, radius in (chest, waist)]
        hull = hull_of(rings)
        self._cloth(hull, clothes.top, TORSO)
        if clothes.skirt:
            self._skirt(thick)
        else:  # the seat of the trousers
            seat = [capsule(joint, joint, thick * 0.6, thick * 0.6) for joint in (joints[11], joints[12])]
            lower = hull_of(seat)
            self._cloth(lower, clothes.bottom, TORSO)
        if clothes.belt:
            lift = figure.body.up * thick * 0.75
            belt = capsule(joints[11] + lift, joints[12] + lift, thick * 0.16, thick * 0.16)
            self._canvas.fill(belt, shade(clothes.shoes, 0.8), self._base + TORSO)
        if figure.body.forward[2] > 0.2:  # buttons are in front
            for share in (0.2, 0.45, 0.7):
                button = figure.neck * (1 - share) + figure.pelvis * share + figure.body.forward * thick
                self._canvas.fill(
                    ellipse(button, (self._line, self._line)),
                    shade(clothes.top.colour, 0.45),
                    self._base + TORSO,
                )

    def _skirt(self, thick: float) -> None:
        joints, clothes = self._figure.joints, self._clothes
        rings = [capsule(joints[hip], joints[hip], thick * 0.65, thick * 0.65) for hip in (11, 12)]
        for side in range(2):
            hem = joints[11 + side] + (joints[13 + side] - joints[11 + side]) * clothes.skirt
            rings.append(ellipse(hem, (thick * 0.75, thick * 0.4)))
        hull = hull_of(rings)
        self._cloth(hull, clothes.bottom, SKIRT)

    def _cloth(self, outline: Points, cloth: Cloth, part: int) -> None:
        self._canvas.fill(outline, cloth.colour, self._base + part, cloth.texture, self._line)
