"""A checkpoint becomes an ONNX graph that is proven equal to it."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .checkpoints import load_checkpoint
    from .onnx_export import export_onnx, prepare_onnx
    from .verify import verify_export
    from .zoo import build_model

__all__ = ["build_model", "export_onnx", "load_checkpoint", "prepare_onnx", "verify_export"]

__getattr__ = lazy_names(
    __name__,
    {
        "build_model": ".zoo",
        "export_onnx": ".onnx_export",
        "load_checkpoint": ".checkpoints",
        "prepare_onnx": ".onnx_export",
        "verify_export": ".verify",
    },
)
