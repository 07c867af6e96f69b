"""The driver calls that posedge makes, as a protocol, and the choice between its implementations.

``cuda_python.py`` implements it on cuda-bindings and ``pycuda.py`` on PyCUDA. The classes of ``context.py``,
``memory.py``, ``streams.py`` and ``modules.py`` are written once, on top of it.
"""

import importlib
import importlib.util
from typing import Protocol

from ...errors import DeviceError, MissingExtraError
from .failures import CudaFailure, device_error

# What CUDA hands out: contexts, streams, events, modules, functions and graphs, as addresses or keys.
Handle = int
Grid = tuple[int, int, int]

BINDINGS = {"cuda-python": ("cuda.bindings", "cuda_python", "CudaPythonDriver"),
            "pycuda": ("pycuda", "pycuda", "PyCudaDriver")}  # fmt: skip


class Driver(Protocol):
    """Driver calls with plain numbers. Each raises CudaFailure, and nothing else, when CUDA refuses.

    Handles are whole numbers; a stream's is its CUstream, since TensorRT wants it. Addresses and sizes are in
    bytes. All but the first six calls need a current context in the calling thread.
    """

    @property
    def name(self) -> str:
        """The binding and its version, such as "cuda-python 13.5.0"."""

    def driver_version(self) -> tuple[int, int]:
        """The newest CUDA version that the installed driver serves."""

    def device_count(self) -> int:
        """How many devices are visible."""

    def describe(self, ordinal: int) -> tuple[str, tuple[int, int], int]:
        """Name, compute capability and bytes of memory of a device."""

    def retain_primary(self, ordinal: int) -> Handle:
        """The context that the device's users share, kept alive until ``release_primary``."""

    def release_primary(self, ordinal: int, context: Handle) -> None: ...

    def push(self, context: Handle) -> None:
        """Make a context current in this thread, above the one that is."""

    def pop(self) -> None:
        """Take back what ``push`` did."""

    def memory_info(self) -> tuple[int, int]:
        """Free and total bytes of device memory."""

    def allocate(self, size: int) -> int:
        """The address of ``size`` > 0 bytes on the device, aligned to 256."""

    def free(self, address: int) -> None: ...

    def allocate_pinned(self, size: int) -> int:
        """The address of ``size`` > 0 bytes of page-locked host memory."""

    def free_pinned(self, address: int) -> None: ...

    def copy_to_device(self, to: int, source: int, size: int, stream: Handle) -> None:
        """Host to device. ``source`` must stay as it is until the stream has passed."""

    def copy_to_host(self, to: int, source: int, size: int, stream: Handle) -> None: ...

    def copy_on_device(self, to: int, source: int, size: int, stream: Handle) -> None: ...

    def fill(self, to: int, value: int, size: int, stream: Handle) -> None:
        """Set every byte to ``value``."""

    def create_stream(self) -> Handle:
        """A stream that does not wait for the legacy default stream."""

    def destroy_stream(self, stream: Handle) -> None: ...

    def synchronize_stream(self, stream: Handle) -> None:
        """Wait for a stream, which may be another library's (1: the legacy default, 2: the thread's)."""

    def wait_event(self, stream: Handle, event: Handle) -> None: ...

    def create_event(self, timing: bool) -> Handle: ...

    def destroy_event(self, event: Handle) -> None: ...

    def record_event(self, event: Handle, stream: Handle) -> None: ...

    def synchronize_event(self, event: Handle) -> None: ...

    def elapsed(self, start: Handle, end: Handle) -> float:
        """Milliseconds between two events that have passed."""

    def load_module(self, image: bytes) -> Handle:
        """Load a cubin, a fat binary, or PTX that ends with a zero byte."""

    def unload_module(self, module: Handle) -> None: ...

    def function(self, module: Handle, name: str) -> Handle: ...

    def launch(self, function: Handle, grid: Grid, block: Grid, packed: bytes, offsets: tuple[int, ...],
               stream: Handle) -> None:  # fmt: skip
        """Start a kernel. packed: its arguments, aligned as in C; offsets: where each of them starts."""

    def begin_capture(self, stream: Handle) -> None:
        """Record what this thread puts on the stream instead of doing it; other threads are not held up."""

    def end_capture(self, stream: Handle) -> Handle:
        """The recorded graph."""

    def instantiate(self, graph: Handle) -> Handle: ...

    def launch_graph(self, executable: Handle, stream: Handle) -> None: ...

    def destroy_graph(self, graph: Handle) -> None: ...

    def destroy_executable(self, executable: Handle) -> None: ...


def open_driver(binding: str | None = None) -> Driver:
    """The driver layer on the binding of that name ("cuda-python" or "pycuda"), or on the first installed.

    Raises MissingExtraError where the binding is not installed, DeviceError for an unknown name and where the
    driver's library is missing or does not start.
    """
    if binding is not None and binding not in BINDINGS:
        raise DeviceError(f"{binding!r} is no CUDA binding; there are {', '.join(BINDINGS)}.")
    installed = [name for name in BINDINGS if binding in (None, name) and has_binding(name)]
    if not installed:
        extra = "pycuda" if binding == "pycuda" else "cuda"
        raise MissingExtraError(
            f"{binding or 'a CUDA binding (cuda-python or pycuda)'} is needed here and not installed. "
            f"Install with: pip install 'posedge[{extra}]'"
        )
    _, file, name = BINDINGS[installed[0]]
    module = importlib.import_module(f".{file}", __package__)
    try:
        driver: Driver = getattr(module, name)()
    except CudaFailure as failure:
        raise device_error(failure, "start CUDA") from failure
    return driver


def has_binding(name: str) -> bool:
    """Whether a binding's package is installed. Nothing of it is imported but the namespace."""
    try:
        return importlib.util.find_spec(BINDINGS[name][0]) is not None
    except (ImportError, ValueError):
        return False
