"""Every variant of a model is measured on the same images."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .accuracy import evaluate

__all__ = ["evaluate"]

__getattr__ = lazy_names(__name__, {"evaluate": ".accuracy"})
