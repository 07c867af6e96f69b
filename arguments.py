"""Values of the command line: what argparse does not tell apart or check by itself."""

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

_NUMBERS = re.compile(r"-[\d.][^=]*,")


def marked_numbers(arguments: Sequence[str]) -> list[str]:
    """The arguments, with a space before each list of numbers that begins with a negative one.

    argparse takes "-20,-20,100,100" for an option and an argument that begins with a space never. Readers of
    numbers skip the space.
    """
    return [f" {text}" if _NUMBERS.match(text) else text for text in arguments]


def count(text: str) -> int:
    """A whole number from 1 on."""
    number = _read(int, text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 1 on is expected")
    return number


def counts(text: str) -> tuple[int, ...]:
    """Whole numbers from 1 on, separated by commas."""
    return tuple(count(part) for part in text.split(","))


def seconds(text: str) -> float:
    """A finite time above 0."""
    number = _read(float, text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: a number of seconds above 0 is expected")
    return number


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    number = _read(float, text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a number from 0 to 1 is expected")
    return number


def png_path(text: str) -> Path:
    """A file to write as PNG, and so named."""
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text!r}: the picture is written as PNG; name it {path.stem}.png")
    return path


_Number = TypeVar("_Number", int, float)


def _read(kind: type[_Number], text: str) -> _Number:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number that fits here") from None
