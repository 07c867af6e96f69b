"""What INT8 calibration does, by choice of the caller."""

from dataclasses import dataclass

from ..errors import CalibrationError
from .ranges import METHOD_NAMES
from .targets import DEFAULT_TARGET, TARGETS


@dataclass(frozen=True)
class Recipe:
    """How INT8 is calibrated.

    method: how ranges are chosen, one of ``ranges.METHOD_NAMES``.
    equalized: scale the channels of the graph first, so that INT8 suits them (``factors.py``).
    rounded: choose the weights' levels by the error of the output (``rounding.py``); otherwise each weight
        goes to its nearest level.
    corrected: take what rounding of the weights does to means out of the biases (``bias.py``).
    target: who will run the graph, a key of ``targets.TARGETS``.
    learned: learn the biases of all layers together from the outputs of the float32 graph, which takes
        minutes and torch (``learning.py``).
    """

    method: str = "mse"
    equalized: bool = True
    rounded: bool = True
    corrected: bool = True
    target: str = DEFAULT_TARGET
    learned: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHOD_NAMES:
            raise CalibrationError(
                f"unknown calibration method {self.method!r}; there are {', '.join(METHOD_NAMES)}"
            )
        if self.target not in TARGETS:
            raise CalibrationError(f"unknown target {self.target!r}; there are {', '.join(TARGETS)}")

    def described(self, images: str) -> str:
        """One line for reports. images: what was calibrated on, such as "128 persons"."""
        steps = {
            "channels equalised": self.equalized,
            "weights rounded by the output": self.rounded,
            "biases corrected": self.corrected,
            "biases learned from the float32 outputs": self.learned,
        }
        taken = (name for name, wanted in steps.items() if wanted)
        return ", ".join([f"{self.method} ranges of {images}", f"placed for {self.target}", *taken])


DEFAULT = Recipe()
"""Every convolution in INT8."""
