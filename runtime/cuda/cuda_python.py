"""The driver calls on cuda-python (``cuda-bindings``), the default."""

import ctypes
from typing import Any

from ...errors import DeviceError, require
from .driver import Grid, Handle
from .failures import SUCCESS, CudaFailure

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING


class CudaPythonDriver:
    """``Driver`` on ``cuda.bindings.driver``.

    Raises MissingExtraError without the package, DeviceError where the machine has no driver library.
    """

    def __init__(self) -> None:
        self._api: Any = require("cuda.bindings.driver", "cuda")
        # by value: the package's enumerations refuse codes that are newer than they are
        self._mode = self._api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        attributes = self._api.CUdevice_attribute
        self._capability = attributes(_MAJOR), attributes(_MINOR)
        try:
            self._call("cuInit", 0)
        except CudaFailure:
            raise
        except Exception as error:  # the package's own classes for a missing library or function
            raise DeviceError(
                f"the NVIDIA driver's library could not be loaded ({error}). Install the driver of the "
                "device, or start the container with it (--gpus all)."
            ) from error

    @property
    def name(self) -> str:
        version = require("cuda.bindings", "cuda").__version__
        return f"cuda-python {version}"

    def _call(self, call: str, *arguments: Any) -> Any:
        """Call a driver function; return what it hands back besides its result code."""
        code, *values = getattr(self._api, call)(*arguments)
        if code != SUCCESS:
            _, name = self._api.cuGetErrorName(code)
            raise CudaFailure(call, int(code), name.decode() if name else f"CUDA error {int(code)}")
        return values[0] if len(values) == 1 else tuple(values)

    def driver_version(self) -> tuple[int, int]:
        number = int(self._call("cuDriverGetVersion"))
        return number // 1000, number % 1000 // 10

    def device_count(self) -> int:
        return int(self._call("cuDeviceGetCount"))

    def describe(self, ordinal: int) -> tuple[str, tuple[int, int], int]:
        device = self._call("cuDeviceGet", ordinal)
        name = self._call("cuDeviceGetName", 256, device).split(b"\0", 1)[0].decode(errors="replace")
        major, minor = (self._call("cuDeviceGetAttribute", which, device) for which in self._capability)
        return name, (int(major), int(minor)), int(self._call("cuDeviceTotalMem", device))

    def retain_primary(self, ordinal: int) -> Handle:
        return int(self._call("cuDevicePrimaryCtxRetain", self._call("cuDeviceGet", ordinal)))

    def release_primary(self, ordinal: int, context: Handle) -> None:
        self._call("cuDevicePrimaryCtxRelease", self._call("cuDeviceGet", ordinal))

    def push(self, context: Handle) -> None:
        self._call("cuCtxPushCurrent", context)

    def pop(self) -> None:
        self._call("cuCtxPopCurrent")

    def memory_info(self) -> tuple[int, int]:
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        return int(self._call("cuMemAlloc", size))

    def free(self, address: int) -> None:
        self._call("cuMemFree", address)

    def allocate_pinned(self, size: int) -> int:
        return int(self._call("cuMemHostAlloc", size, 0))

    def free_pinned(self, address: int) -> None:
        self._call("cuMemFreeHost", address)

    def copy_to_device(self, to: int, source: int, size: int, stream: Handle) -> None:
        self._call("cuMemcpyHtoDAsync", to, source, size, stream)

    def copy_to_host(self, to: int, source: int, size: int, stream: Handle) -> None:
        self._call("cuMemcpyDtoHAsync", to, source, size, stream)

    def copy_on_device(self, to: int, source: int, size: int, stream: Handle) -> None:
        self._call("cuMemcpyDtoDAsync", to, source, size, stream)

    def fill(self, to: int, value: int, size: int, stream: Handle) -> None:
        self._call("cuMemsetD8Async", to, value, size, stream)

    def create_stream(self) -> Handle:
        return int(self._call("cuStreamCreate", _NON_BLOCKING))

    def destroy_stream(self, stream: Handle) -> None:
        self._call("cuStreamDestroy", stream)

    def synchronize_stream(self, stream: Handle) -> None:
        self._call("cuStreamSynchronize", stream)

    def wait_event(self, stream: Handle, event: Handle) -> None:
        self._call("cuStreamWaitEvent", stream, event, 0)

    def create_event(self, timing: bool) -> Handle:
        return int(self._call("cuEventCreate", 0 if timing else _NO_TIMING))

    def destroy_event(self, event: Handle) -> None:
        self._call("cuEventDestroy", event)

    def record_event(self, event: Handle, stream: Handle) -> None:
        self._call("cuEventRecord", event, stream)

    def synchronize_event(self, event: Handle) -> None:
        self._call("cuEventSynchronize", event)

    def elapsed(self, start: Handle, end: Handle) -> float:
        return float(self._call("cuEventElapsedTime", start, end))

    def load_module(self, image: bytes) -> Handle:
        return int(self._call("cuModuleLoadData", image))

    def unload_module(self, module: Handle) -> None:
        self._call("cuModuleUnload", module)

    def function(self, module: Handle, name: str) -> Handle:
        return int(self._call("cuModuleGetFunction", module, name.encode()))

    def launch(self, function: Handle, grid: Grid, block: Grid, packed: bytes, offsets: tuple[int, ...],
               stream: Handle) -> None:  # fmt: skip
        # the driver copies the arguments before it returns
        arguments = ctypes.create_string_buffer(packed, len(packed))
        start = ctypes.addressof(arguments)
        pointers = (ctypes.c_void_p * len(offsets))(*(start + offset for offset in offsets))
        self._call("cuLaunchKernel", function, *grid, *block, 0, stream, ctypes.addressof(pointers), 0)

    def begin_capture(self, stream: Handle) -> None:
        self._call("cuStreamBeginCapture", stream, self._mode)

    def end_capture(self, stream: Handle) -> Handle:
        return int(self._call("cuStreamEndCapture", stream))

    def instantiate(self, graph: Handle) -> Handle:
        return int(self._call("cuGraphInstantiate", graph, 0))

    def launch_graph(self, executable: Handle, stream: Handle) -> None:
        self._call("cuGraphLaunch", executable, stream)

    def destroy_graph(self, graph: Handle) -> None:
        self._call("cuGraphDestroy", graph)

    def destroy_executable(self, executable: Handle) -> None:
        self._call("cuGraphExecDestroy", executable)
