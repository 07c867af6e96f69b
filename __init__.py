"""posedge: pose models and classifiers from checkpoint to edge engine, and what that costs and gains."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import PosedgeError
    from .runtime.classify import Classifier
    from .runtime.pose import PoseEstimator
    from .runtime.spec import ModelSpec

__version__ = "0.1.0"
__all__ = ["Classifier", "ModelSpec", "PoseEstimator", "PosedgeError", "__version__"]

_HOMES = {
    "Classifier": ".runtime.classify",
    "ModelSpec": ".runtime.spec",
    "PosedgeError": ".errors",
    "PoseEstimator": ".runtime.pose",
}


def __getattr__(name: str) -> Any:
    # public names load their module when they are first asked for, so that `import posedge` stays light
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
