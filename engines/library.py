"""The names of a TensorRT module that a build uses, for the type checker.

TensorRT and TensorRT-RTX are two modules with one API, and which of them is there shows only when one is
imported. What their classes have is stated in stubs/, which is not installed.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import tensorrt as trt
    import tensorrt_rtx


class Library(Protocol):
    """``tensorrt`` or ``tensorrt_rtx``, imported."""

    @property
    def __version__(self) -> str: ...
    @property
    def Builder(self) -> "type[trt.Builder]": ...
    @property
    def BuilderFlag(self) -> "type[trt.BuilderFlag]": ...
    @property
    def ComputeCapability(self) -> "type[trt.ComputeCapability]": ...
    @property
    def DeviceType(self) -> "type[trt.DeviceType]": ...
    @property
    def HardwareCompatibilityLevel(self) -> "type[trt.HardwareCompatibilityLevel]": ...
    @property
    def ILogger(self) -> "type[trt.ILogger]": ...
    @property
    def IProgressMonitor(self) -> "type[trt.IProgressMonitor]": ...
    @property
    def MemoryPoolType(self) -> "type[trt.MemoryPoolType]": ...
    @property
    def NetworkDefinitionCreationFlag(self) -> "type[trt.NetworkDefinitionCreationFlag]": ...
    @property
    def OnnxParser(self) -> "type[trt.OnnxParser]": ...
    @property
    def OnnxParserFlag(self) -> "type[trt.OnnxParserFlag]": ...
    @property
    def ProfilingVerbosity(self) -> "type[trt.ProfilingVerbosity]": ...


if TYPE_CHECKING:
    # the stubs have all these names
    _modules: tuple[Library, Library] = (trt, tensorrt_rtx)
