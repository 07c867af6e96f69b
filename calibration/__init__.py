"""Real images become ranges, ranges become a Q/DQ graph (INT8) or a float16 graph (FP16)."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .calibrate import quantize
    from .half import write_float16

__all__ = ["quantize", "write_float16"]

__getattr__ = lazy_names(__name__, {"quantize": ".calibrate", "write_float16": ".half"})
