"""What INT8 calibration does, by choice of the caller."""

from dataclasses import dataclass

from ..errors import CalibrationError
from .ranges import METHODS


@dataclass(frozen=True)
class Recipe:
    """How INT8 is calibrated.

    method: how ranges are chosen, a key of ``ranges.METHODS``.
    equalized: scale the channels of the graph first, so that INT8 suits them (``factors.py``).
    rounded: choose the weights' levels by the error of the output and correct the biases (``rounding.py``);
        otherwise each weight goes to its nearest level.
    """

    method: str = "mse"
    equalized: bool = True
    rounded: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise CalibrationError(
                f"unknown calibration method {self.method!r}; there are {', '.join(METHODS)}"
            )

    def described(self, images: str) -> str:
        """One line for reports. images: what was calibrated on, such as "128 persons"."""
        steps = (("channels equalised", self.equalized), ("weights rounded by the output", self.rounded))
        return ", ".join([f"{self.method} ranges of {images}", *(name for name, taken in steps if taken)])


DEFAULT = Recipe()
"""Every convolution in INT8."""
