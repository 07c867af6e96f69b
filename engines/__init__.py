"""A graph becomes a TensorRT engine, in a child process that may crash or hang without harm."""

from .build import BuildResult, build_engine
from .flavours import available_flavour, check_options
from .options import BatchProfile, BuildOptions

__all__ = [
    "BatchProfile",
    "BuildOptions",
    "BuildResult",
    "available_flavour",
    "build_engine",
    "check_options",
]
