"""What a warm-up or a profile is told to do, checked: sizes of images and batches, numbers of rounds."""

from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError


def whole_number(name: str, value: Any) -> int:
    """``value`` as an int of at least 1. Raises DataError for anything else; name: what messages call it."""
    try:
        number = index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise DataError(f"{name} is {value!r}; it must be a whole number of at least 1")
    return number


def whole_numbers(name: str, values: Any) -> list[int]:
    """Each of ``values`` as an int of at least 1. Raises DataError for anything else."""
    try:
        listed = list(values)
    except TypeError as error:
        raise DataError(f"{name} is {values!r}; it must be whole numbers of at least 1") from error
    return [whole_number(f"{name}[{place}]", value) for place, value in enumerate(listed)]


def black_image(image_wh: Any) -> NDArray[np.uint8]:
    """Zeros (height, width, 3). Raises DataError for what is no width and height, or too large for memory."""
    sides = whole_numbers("image_wh", image_wh)
    if len(sides) != 2:
        raise DataError(
            f"image_wh is {image_wh!r}; it must be the width and the height of an image in pixels"
        )
    width, height = sides
    try:
        return np.zeros((height, width, 3), np.uint8)
    except (MemoryError, ValueError, OverflowError) as error:
        raise DataError(
            f"an image of {width} x {height} pixels does not fit into memory. Give the size of the largest "
            "image to come."
        ) from error
