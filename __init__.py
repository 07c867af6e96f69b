"""posedge: pose models from checkpoint to edge engine, with an honest account of accuracy and speed."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import PosedgeError
    from .runtime.pose import PoseEstimator
    from .runtime.spec import ModelSpec

__version__ = "0.1.0"
__all__ = ["ModelSpec", "PoseEstimator", "PosedgeError", "__version__"]

_HOMES = {"PoseEstimator": ".runtime.pose", "ModelSpec": ".runtime.spec", "PosedgeError": ".errors"}


def __getattr__(name: str) -> Any:
    # public names load their module when they are first asked for, so that `import posedge` stays light
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
