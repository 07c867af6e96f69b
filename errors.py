"""The exceptions of posedge.

    PosedgeError
     ├── CheckpointError     a checkpoint file cannot be read, or does not fit the model
     ├── GraphError          an ONNX graph or its spec is unusable, or two forms of a model disagree
     ├── CalibrationError    ranges cannot be gathered, or a graph cannot be quantised
     ├── BuildError          TensorRT refused a graph, crashed, or ran out of time or memory
     ├── BundleError         a bundle is incomplete, altered, or made for something else
     ├── SessionError        a model could not be loaded or run on a backend
     │    └── DeviceError    a CUDA device is missing, lost or out of memory, or refused a call
     │         └── UnservedDeviceError   the kernels cannot be compiled for so old a device
     ├── DataError           images, annotations or boxes are unusable
     ├── OutputError         results cannot be written: disk full, no permission, directory in use
     └── MissingExtraError   an optional dependency is not installed

Every message says what was wrong, where, and what to do next. The command line prints it without a
traceback and exits with 1.
"""

import importlib
from types import ModuleType


class PosedgeError(Exception):
    """Base of all errors that posedge raises on purpose."""


class CheckpointError(PosedgeError):
    """A checkpoint file cannot be read, or does not fit the model."""


class GraphError(PosedgeError):
    """An ONNX graph or its spec is unusable, or two forms of a model disagree."""


class CalibrationError(PosedgeError):
    """Ranges cannot be gathered, or a graph cannot be quantised."""


class BuildError(PosedgeError):
    """TensorRT refused a graph, crashed, or ran out of time or memory."""


class BundleError(PosedgeError):
    """A bundle is incomplete, altered, or made for something else."""


class SessionError(PosedgeError):
    """A model could not be loaded or run on a backend."""


class DeviceError(SessionError):
    """A CUDA device is missing, lost or out of memory, or refused a call.

    cuda_name: CUDA's name of the failure, such as "CUDA_ERROR_OUT_OF_MEMORY"; "" where CUDA was not asked.
    """

    def __init__(self, message: str, cuda_name: str = "") -> None:
        super().__init__(message)
        self.cuda_name = cuda_name


class UnservedDeviceError(DeviceError):
    """The compiler that is installed serves no device as old as this one."""


class DataError(PosedgeError):
    """Images, annotations or boxes are unusable."""


class OutputError(PosedgeError):
    """Results cannot be written: disk full, no permission, directory in use."""


class MissingExtraError(PosedgeError):
    """An optional dependency is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, which the optional dependency group ``extra`` installs.

    Raises MissingExtraError with the pip command when the module is not there.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module} is needed here and could not be imported ({error}). "
            f"Install it with: pip install 'posedge[{extra}]'"
        ) from error
