"""EngineLayer: one operation of a finished engine, from whatever tells of it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")

# widest first: a product of a float and an int8 tensor is computed in float
WIDTHS = ("FP32", "BF16", "FP16", "FP8", "INT8")
_BYTES = {"FP32": 4, "BF16": 2, "FP16": 2, "FP8": 1, "INT8": 1}


@dataclass(frozen=True)
class EngineLayer:
    """An operation of an engine.

    name: the engine's own. operation: its kind, in the library's words.
    nodes: the ONNX nodes it says it computes, by their names.
    multiplies: whether it is a convolution or a product of matrices, and not what stands around one.
    precision: in which it multiplies, one of WIDTHS; None where it is not said.
    weight_bytes: of its weights as stored; None where it is not said.
    channels: axis 1 of its activation and of its weight as the engine has them, which may be padded; empty
        where it is not said, None for an axis without a number.
    """

    name: str
    operation: str
    nodes: tuple[str, ...]
    multiplies: bool
    precision: str | None = None
    weight_bytes: int | None = None
    channels: tuple[int | None, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What an engine told. layers: None where it told nothing. source: what told it, or why nothing did."""

    layers: tuple[EngineLayer, ...] | None
    source: str


def onnx_nodes(text: str) -> tuple[str, ...]:
    """The nodes that a text such as "[ONNX Layer: conv1] [ONNX Layer: relu1]" names, each once.

    All versions separate them differently: by blanks, or by the control characters 1E and 1F.
    """
    return tuple(dict.fromkeys(_ONNX_LAYER.findall(text)))


def widest(precisions: Iterable[str | None]) -> str | None:
    """The precision in which operands of these are multiplied; None when one is not known."""
    found = set(precisions)
    if not found or not found <= set(WIDTHS):
        return None
    return next(width for width in WIDTHS if width in found)


def bytes_of(precision: str | None, count: int) -> int | None:
    """Bytes of so many numbers."""
    return None if precision is None else _BYTES[precision] * count
