"""posedge: pose models and classifiers from checkpoint to edge engine, and what that costs and gains."""

from typing import TYPE_CHECKING

from .lazy import lazy_names

if TYPE_CHECKING:
    from .errors import PosedgeError
    from .runtime.classify import Classifier
    from .runtime.pose import PoseEstimator
    from .runtime.spec import ModelSpec

__version__ = "0.1.0"
__all__ = ["Classifier", "ModelSpec", "PoseEstimator", "PosedgeError", "__version__"]

__getattr__ = lazy_names(
    __name__,
    {
        "Classifier": ".runtime.classify",
        "ModelSpec": ".runtime.spec",
        "PosedgeError": ".errors",
        "PoseEstimator": ".runtime.pose",
    },
)
