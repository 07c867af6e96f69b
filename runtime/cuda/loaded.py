"""posedge's kernels on a device: compiled, loaded, and launched by name."""

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from ...errors import MissingExtraError, SessionError, UnservedDeviceError, require
from .compile import OPTIONS, SOURCE, compile_kernels
from .context import Context
from .kernels import KERNELS, Launch
from .modules import Module
from .streams import Stream


class LoadedKernels:
    """The kernels of ``kernels.cu`` for the device of a context.

    cache: where compiled kernels are kept; None takes posedge's cache directory.

    Raises what ``compile_kernels`` and ``Module`` raise.
    """

    def __init__(self, context: Context, cache: Path | None = None) -> None:
        self._module = Module(context, _image(context, cache))
        try:
            self._functions = {name: self._module.function(name) for name in KERNELS}
        except BaseException:
            self._module.close()
            raise

    def launch(self, launches: Iterable[Launch], *, stream: Stream) -> None:
        """Put kernels on a stream, in their order. What they point to must stay until it has passed."""
        for launch in launches:
            function = self._functions[launch.kernel]
            function.launch(launch.grid, launch.block, [launch.arguments], stream=stream)

    def close(self) -> None:
        """Unload them. A second call does nothing."""
        self._module.close()

    def __enter__(self) -> "LoadedKernels":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _image(context: Context, cache: Path | None) -> bytes:
    try:
        return compile_kernels(context.device.capability, cache).image
    except (MissingExtraError, UnservedDeviceError):
        if not context.driver.name.startswith("pycuda"):
            raise
    return _compiled_by_nvcc(context)


def _compiled_by_nvcc(context: Context) -> bytes:
    """A cubin by PyCUDA's compiler, which runs nvcc and keeps a cache of its own.

    For device images with PyCUDA and CUDA's toolkit, and without NVRTC's package or with one that does not
    serve the device. Raises MissingExtraError where nvcc is not there, SessionError where it refuses.
    """
    compiler = require("pycuda.compiler", "pycuda")
    errors = require("pycuda.driver", "pycuda").Error
    major, minor = context.device.capability
    options = [option.replace("--std", "-std") for option in OPTIONS]
    try:
        image: bytes = compiler.compile(
            SOURCE.read_text("utf-8"), options=options, arch=f"sm_{major}{minor}", no_extern_c=True
        )
    except OSError as error:
        raise MissingExtraError(
            f"the CUDA kernels cannot be compiled: {error}. Put CUDA's nvcc on the PATH, or install an NVRTC "
            "that serves the device with: pip install 'posedge[cuda]' (or 'posedge[cuda12]' for an older one)"
        ) from error
    except errors as error:
        raise SessionError(
            f"the CUDA kernels cannot be compiled: {SOURCE.name} was refused by PyCUDA's nvcc "
            f"({' '.join(str(error).split())[:500]}). Install NVRTC with: pip install 'posedge[cuda]'"
        ) from error
    return image
