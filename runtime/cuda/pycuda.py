"""The driver calls on PyCUDA, for device images that carry it (JetPack).

PyCUDA's objects free themselves when they are forgotten, in the context that PyCUDA holds for current; so
each is kept here by its handle until it is destroyed. It has no calls to capture a stream: those go to the
driver's library itself.
"""

import ctypes
from typing import Any

from ...errors import DeviceError, require
from .driver import Grid, Handle
from .failures import OUT_OF_MEMORY, CudaFailure

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


class PyCudaDriver:
    """``Driver`` on ``pycuda.driver``.

    Raises MissingExtraError without the package, DeviceError where the machine has no driver library.
    """

    def __init__(self) -> None:
        # a missing libcuda.so.1 shows when PyCUDA's extension module is loaded
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise DeviceError(
                f"the NVIDIA driver's library could not be loaded ({error}). Install the driver of the "
                "device, or start the container with it (--gpus all)."
            ) from error
        self._api: Any = require("pycuda.driver", "pycuda")
        self._kept: dict[Handle, Any] = {}
        self._codes: dict[str, int] = {}
        self._call("cuInit", self._api.init)

    @property
    def name(self) -> str:
        text = getattr(require("pycuda", "pycuda"), "VERSION_TEXT", "")
        return f"pycuda {text}".strip()

    def _call(self, call: str, function: Any, *arguments: Any) -> Any:
        """Call a function of PyCUDA, which raises its own errors with the driver's words in them."""
        try:
            return function(*arguments)
        except self._api.Error as error:
            code = OUT_OF_MEMORY if isinstance(error, self._api.MemoryError) else self._code(str(error))
            # whoever keeps the error must not keep PyCUDA's objects alive with it
            function = arguments = None  # type: ignore[assignment]
            raise CudaFailure(call, code, self._name_of(code)) from error.with_traceback(None)

    def _library_call(self, call: str, *arguments: Any) -> None:
        """Call a function of the driver's library that PyCUDA does not have."""
        code = getattr(self._library, call)(*arguments)
        if code:
            raise CudaFailure(call, code, self._name_of(code))

    def _name_of(self, code: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorName(code, ctypes.byref(text))
        return text.value.decode() if text.value else f"CUDA error {code}"

    def _code(self, words: str) -> int:
        """The code behind PyCUDA's words, which are "CALL failed: what cuGetErrorString says - ..."."""
        if not self._codes:
            text = ctypes.c_char_p()
            for code in range(1, 1000):
                if self._library.cuGetErrorString(code, ctypes.byref(text)) == 0 and text.value:
                    self._codes[text.value.decode()] = code
        said = words.partition("failed: ")[2].partition(" - ")[0].strip()
        return self._codes.get(said, 999)  # CUDA_ERROR_UNKNOWN

    def _keep(self, handle: Handle, made: Any) -> Handle:
        self._kept[handle] = made
        return handle

    def _forget(self, call: str, handle: Handle) -> None:
        """Drop an object of PyCUDA, which destroys it at once: nothing else refers to it."""
        self._call(call, self._kept.pop, handle)

    def driver_version(self) -> tuple[int, int]:
        number = int(self._api.get_driver_version())
        return number // 1000, number % 1000 // 10

    def device_count(self) -> int:
        return int(self._call("cuDeviceGetCount", self._api.Device.count))

    def describe(self, ordinal: int) -> tuple[str, tuple[int, int], int]:
        device = self._call("cuDeviceGet", self._api.Device, ordinal)
        major, minor = self._call("cuDeviceGetAttribute", device.compute_capability)
        return str(device.name()), (int(major), int(minor)), int(device.total_memory())

    def retain_primary(self, ordinal: int) -> Handle:
        device = self._call("cuDeviceGet", self._api.Device, ordinal)
        context = self._call("cuDevicePrimaryCtxRetain", device.retain_primary_context)
        return self._keep(id(context), context)  # each user retains the same context once more

    def release_primary(self, ordinal: int, context: Handle) -> None:
        before = self._current()
        self._call("cuDevicePrimaryCtxRelease", self._kept.pop(context).detach)
        # PyCUDA pushes the context to detach it and counts on a pop that a primary context does not do
        if self._current() != before:
            self._library_call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def _current(self) -> int | None:
        context = ctypes.c_void_p()
        self._library_call("cuCtxGetCurrent", ctypes.byref(context))
        return context.value

    def push(self, context: Handle) -> None:
        self._call("cuCtxPushCurrent", self._kept[context].push)

    def pop(self) -> None:
        self._call("cuCtxPopCurrent", self._api.Context.pop)

    def memory_info(self) -> tuple[int, int]:
        free, total = self._call("cuMemGetInfo", self._api.mem_get_info)
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        made = self._call("cuMemAlloc", self._api.mem_alloc, size)
        return self._keep(int(made), made)

    def free(self, address: int) -> None:
        self._call("cuMemFree", self._kept.pop(address).free)

    def allocate_pinned(self, size: int) -> int:
        array = self._call("cuMemHostAlloc", self._api.pagelocked_empty, size, "u1")
        return self._keep(int(array.ctypes.data), array)

    def free_pinned(self, address: int) -> None:
        self._call("cuMemFreeHost", self._kept.pop(address).base.free)

    def copy_to_device(self, to: int, source: int, size: int, stream: Handle) -> None:
        copy = self._api.memcpy_htod_async
        self._call("cuMemcpyHtoDAsync", copy, to, _memory(source, size), self._kept[stream])

    def copy_to_host(self, to: int, source: int, size: int, stream: Handle) -> None:
        copy = self._api.memcpy_dtoh_async
        self._call("cuMemcpyDtoHAsync", copy, _memory(to, size), source, self._kept[stream])

    def copy_on_device(self, to: int, source: int, size: int, stream: Handle) -> None:
        copy = self._api.memcpy_dtod_async
        self._call("cuMemcpyDtoDAsync", copy, to, source, size, self._kept[stream])

    def fill(self, to: int, value: int, size: int, stream: Handle) -> None:
        arguments = ctypes.c_uint64(to), ctypes.c_ubyte(value), ctypes.c_size_t(size)
        self._library_call("cuMemsetD8Async", *arguments, ctypes.c_void_p(stream))

    def create_stream(self) -> Handle:
        stream = self._call("cuStreamCreate", self._api.Stream, _NON_BLOCKING)
        return self._keep(int(stream.handle), stream)

    def destroy_stream(self, stream: Handle) -> None:
        self._forget("cuStreamDestroy", stream)

    def synchronize_stream(self, stream: Handle) -> None:
        if stream in self._kept:
            self._call("cuStreamSynchronize", self._kept[stream].synchronize)
        else:  # another library's
            self._library_call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def wait_event(self, stream: Handle, event: Handle) -> None:
        self._call("cuStreamWaitEvent", self._kept[stream].wait_for_event, self._kept[event])

    def create_event(self, timing: bool) -> Handle:
        event = self._call("cuEventCreate", self._api.Event, 0 if timing else _NO_TIMING)
        return self._keep(id(event), event)

    def destroy_event(self, event: Handle) -> None:
        self._forget("cuEventDestroy", event)

    def record_event(self, event: Handle, stream: Handle) -> None:
        self._call("cuEventRecord", self._kept[event].record, self._kept[stream])

    def synchronize_event(self, event: Handle) -> None:
        self._call("cuEventSynchronize", self._kept[event].synchronize)

    def elapsed(self, start: Handle, end: Handle) -> float:
        return float(self._call("cuEventElapsedTime", self._kept[end].time_since, self._kept[start]))

    def load_module(self, image: bytes) -> Handle:
        module = self._call("cuModuleLoadDataEx", self._api.module_from_buffer, image)
        return self._keep(id(module), (module, {}))

    def unload_module(self, module: Handle) -> None:
        for function in self._kept[module][1]:
            self._kept.pop(function)
        self._forget("cuModuleUnload", module)

    def function(self, module: Handle, name: str) -> Handle:
        loaded, functions = self._kept[module]
        function = self._call("cuModuleGetFunction", loaded.get_function, name)
        functions[id(function)] = name
        return self._keep(id(function), function)

    def launch(self, function: Handle, grid: Grid, block: Grid, packed: bytes, offsets: tuple[int, ...],
               stream: Handle) -> None:  # fmt: skip
        prepared = self._kept[function].prepare([f"{len(packed)}s"])  # one argument: all of them, as in C
        launch = prepared.prepared_async_call
        self._call("cuLaunchKernel", launch, grid, block, self._kept[stream], packed)

    def begin_capture(self, stream: Handle) -> None:
        self._library_call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), _THREAD_LOCAL)

    def end_capture(self, stream: Handle) -> Handle:
        graph = ctypes.c_void_p()
        self._library_call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        return graph.value or 0

    def instantiate(self, graph: Handle) -> Handle:
        made = ctypes.c_void_p()
        flags = ctypes.c_ulonglong(0)
        self._library_call("cuGraphInstantiateWithFlags", ctypes.byref(made), ctypes.c_void_p(graph), flags)
        return made.value or 0

    def launch_graph(self, executable: Handle, stream: Handle) -> None:
        self._library_call("cuGraphLaunch", ctypes.c_void_p(executable), ctypes.c_void_p(stream))

    def destroy_graph(self, graph: Handle) -> None:
        self._library_call("cuGraphDestroy", ctypes.c_void_p(graph))

    def destroy_executable(self, executable: Handle) -> None:
        self._library_call("cuGraphExecDestroy", ctypes.c_void_p(executable))


def _memory(address: int, size: int) -> Any:
    """Host memory as the buffer object that PyCUDA wants."""
    return (ctypes.c_ubyte * size).from_address(address)
