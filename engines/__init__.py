"""A graph becomes a TensorRT engine, in a child process that may crash or hang without harm."""

from .build import BuildResult, build_engine
from .flavours import available_flavour
from .messages import BatchProfile

__all__ = ["BatchProfile", "BuildResult", "available_flavour", "build_engine"]
