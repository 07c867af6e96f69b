"""What figures wear: colours, patterns, lengths of sleeves, trousers and skirts, hair."""

from dataclasses import dataclass

import cv2
import numpy as np

from .canvas import TILE, Colour, Image

_SKINS = ((205, 224, 248), (170, 200, 240), (130, 170, 220), (90, 130, 190), (60, 90, 145), (45, 65, 100))
_HAIRS = (
    (30, 30, 35),
    (35, 60, 95),
    (60, 110, 160),
    (110, 180, 225),
    (40, 70, 170),
    (165, 165, 165),
    (150, 60, 90),
)


@dataclass(frozen=True)
class Cloth:
    """A colour (BGR) and, where it has a pattern, a texture: a square image that repeats over the picture."""

    colour: Colour
    texture: Image | None = None


@dataclass(frozen=True)
class Clothes:
    """What a figure wears."""

    skin: Colour
    hair: Colour
    top: Cloth
    bottom: Cloth
    shoes: Colour
    sleeve: float  # covered part of the arm: 0 bare, 1 to the elbow, 2 to the wrist
    trousers: float  # covered part of the leg, likewise
    skirt: float  # length as part of the thigh; 0 is none
    long_hair: bool
    hairline: float  # where on the head the hair begins
    seams: bool  # patches on elbows and knees
    belt: bool


def sample_clothes(rng: np.random.Generator) -> Clothes:
    """Random clothes, skin and hair."""
    top, bottom, shoes = (_sample_colour(rng) for _ in range(3))
    skirt = float(rng.uniform(0.45, 0.85)) if rng.random() < 0.22 else 0.0
    if skirt and rng.random() < 0.4:
        bottom = top  # a dress
    return Clothes(
        skin=_SKINS[int(rng.integers(len(_SKINS)))],
        hair=_HAIRS[int(rng.integers(len(_HAIRS)))],
        top=Cloth(top, _sample_texture(rng, top) if rng.random() < 0.5 else None),
        bottom=Cloth(bottom, _sample_texture(rng, bottom) if rng.random() < 0.2 else None),
        shoes=shoes,
        sleeve=float(rng.choice((0.0, 0.55, 2.0), p=(0.15, 0.4, 0.45))),
        trousers=0.0 if skirt else float(rng.choice((0.6, 1.5, 2.0), p=(0.3, 0.1, 0.6))),
        skirt=skirt,
        long_hair=bool(rng.random() < 0.35),
        hairline=float(rng.uniform(-0.05, 0.3)),
        seams=bool(rng.random() < 0.7),
        belt=bool(rng.random() < 0.6),
    )


def _sample_colour(rng: np.random.Generator) -> Colour:
    hue, saturation, value = rng.uniform(0, 180), rng.uniform(40, 255), rng.uniform(60, 250)
    pixel = cv2.cvtColor(np.array([[[hue, saturation, value]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
    return (float(pixel[0]), float(pixel[1]), float(pixel[2]))


def _sample_texture(rng: np.random.Generator, colour: Colour) -> Image:
    """A tile of stripes, checks or dots on ``colour``."""
    tile = np.empty((TILE, TILE, 3), np.uint8)
    tile[:] = np.array(colour, np.uint8)
    other = _sample_colour(rng)
    step = int(rng.choice((8, 16)))
    kind = rng.integers(4)
    if kind in (0, 3):
        for y in range(0, TILE, step):
            cv2.rectangle(tile, (0, y), (TILE - 1, y + step // 2 - 1), other, -1)
    if kind in (1, 3):
        for x in range(0, TILE, step):
            cv2.rectangle(tile, (x, 0), (x + step // 3, TILE - 1), other, -1)
    if kind == 2:
        for y in range(step // 2, TILE, step):
            for x in range(step // 2, TILE, step):
                cv2.circle(tile, (x, y), step // 4, other, -1, cv2.LINE_AA)
    return tile
