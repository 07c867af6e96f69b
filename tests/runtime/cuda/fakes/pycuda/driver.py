"""A stand-in for ``pycuda.driver``: the attributes used here, on the stand-in for libcuda.

Names, signatures, ownership and the words of errors are those of PyCUDA's sources (src/cpp/cuda.hpp,
src/wrapper/wrap_cudadrv.cpp, pycuda/driver.py). It shows that posedge calls PyCUDA as it is, no more.
"""

import builtins
import ctypes
import sys
import threading

import numpy as np

_lib = ctypes.CDLL("libcuda.so.1")
_u64, _size, _handle = ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p


class Error(Exception):
    pass


class MemoryError(Error, builtins.MemoryError):
    pass


class LogicError(Error):
    pass


class LaunchError(Error):
    pass


class RuntimeError(Error):
    pass


_KINDS = {2: MemoryError, 100: RuntimeError, 209: RuntimeError, 701: LaunchError, 702: LaunchError,
          719: LaunchError}  # fmt: skip


def _call(name, *arguments):
    code = getattr(_lib, name)(*arguments)
    if code:
        text = ctypes.c_char_p()
        _lib.cuGetErrorString(code, ctypes.byref(text))
        raise _KINDS.get(code, LogicError)(f"{name} failed: {text.value.decode()}")


def _made(name, *arguments, kind=_handle):
    value = kind()
    _call(name, ctypes.byref(value), *arguments)
    return value.value


def _warn(error):
    print("PyCUDA WARNING: a clean-up operation failed", error, file=sys.stderr)


def init(flags=0):
    _call("cuInit", flags)


def get_driver_version():
    return _made("cuDriverGetVersion", kind=ctypes.c_int)


def mem_get_info():
    free, total = _size(), _size()
    _call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


class Device:
    def __init__(self, ordinal):
        self._device = _made("cuDeviceGet", ordinal, kind=ctypes.c_int)

    @staticmethod
    def count():
        return _made("cuDeviceGetCount", kind=ctypes.c_int)

    def name(self):
        text = ctypes.create_string_buffer(1024)
        _call("cuDeviceGetName", text, 1024, self._device)
        return text.value.decode()

    def compute_capability(self):
        return tuple(_made("cuDeviceGetAttribute", n, self._device, kind=ctypes.c_int) for n in (75, 76))

    def total_memory(self):
        return _made("cuDeviceTotalMem_v2", self._device, kind=_size)

    def retain_primary_context(self):
        return Context(_made("cuDevicePrimaryCtxRetain", self._device), self._device)


_local = threading.local()


def _stack():
    if not hasattr(_local, "stack"):
        _local.stack = []
    return _local.stack


class Context:
    """PyCUDA has a stack of its own per thread, and keeps only its top on CUDA's."""

    def __init__(self, handle, device):
        self.handle, self._device = handle, device
        self._thread = threading.get_ident()
        self._valid = True

    @staticmethod
    def _switch():
        if _stack():
            _made("cuCtxPopCurrent_v2")

    def push(self):
        self._switch()
        _call("cuCtxPushCurrent_v2", _handle(self.handle))
        _stack().append(self)

    @staticmethod
    def pop():
        Context._switch()
        if not _stack():
            raise LogicError("context::pop failed: invalid device context - cannot pop non-current context")
        _stack().pop()
        if _stack():
            _call("cuCtxPushCurrent_v2", _handle(_stack()[-1].handle))

    def detach(self):
        if not self._valid:
            raise LogicError(
                "context::detach failed: invalid device context - cannot detach from invalid context"
            )
        if self._thread == threading.get_ident():
            try:
                _call("cuCtxPushCurrent_v2", _handle(self.handle))  # and never popped
                _call("cuDevicePrimaryCtxRelease_v2", self._device)
            except Error as error:
                _warn(error)
        self._valid = False

    def __del__(self):
        if self._valid:
            self.detach()


class _Dependent:
    """What belongs to the context that is current when it is made, and frees itself there."""

    def __init__(self):
        if not _stack():
            raise LogicError(
                "explicit_context_dependent failed: invalid device context - no currently active"
            )
        self._ward = _stack()[-1]

    def _destroy(self, name, handle):
        """Failures are printed, as by PyCUDA: destructors do not raise."""
        try:
            if _stack() and _stack()[-1] is self._ward:
                _call(name, handle)
            elif self._ward._thread == threading.get_ident() and self._ward._valid:
                self._ward.push()
                _call(name, handle)
                Context.pop()
        except Error as error:
            _warn(error)


class Stream(_Dependent):
    def __init__(self, flags=0):
        super().__init__()
        self.handle = _made("cuStreamCreate", flags)

    def synchronize(self):
        _call("cuStreamSynchronize", _handle(self.handle))

    def wait_for_event(self, event):
        _call("cuStreamWaitEvent", _handle(self.handle), _handle(event._event), 0)

    def __del__(self):
        self._destroy("cuStreamDestroy_v2", _handle(self.handle))


class Event(_Dependent):
    def __init__(self, flags=0):
        super().__init__()
        self._event = _made("cuEventCreate", flags)

    def record(self, stream=None):
        _call("cuEventRecord", _handle(self._event), _handle(stream.handle))
        return self

    def synchronize(self):
        _call("cuEventSynchronize", _handle(self._event))
        return self

    def time_since(self, start):
        arguments = _handle(start._event), _handle(self._event)
        return _made("cuEventElapsedTime", *arguments, kind=ctypes.c_float)

    def __del__(self):
        self._destroy("cuEventDestroy_v2", _handle(self._event))


class DeviceAllocation(_Dependent):
    def __init__(self, address):
        super().__init__()
        self._address = address

    def __int__(self):
        return self._address

    def free(self):
        address, self._address = self._address, None
        if address is None:
            raise LogicError("device_allocation::free failed: invalid resource handle")
        self._destroy("cuMemFree_v2", _u64(address))

    def __del__(self):
        if self._address is not None:
            self.free()


def mem_alloc(size):
    return DeviceAllocation(_made("cuMemAlloc_v2", _size(size), kind=_u64))


class PagelockedHostAllocation(_Dependent):
    def __init__(self, size):
        super().__init__()
        self._address = None
        self._address = _made("cuMemHostAlloc", _size(size), 0)
        self.__array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (self._address, False),
            "version": 3,
        }

    def free(self):
        address, self._address = self._address, None
        if address is None:
            raise LogicError("pagelocked_host_allocation::free failed: invalid resource handle")
        self._destroy("cuMemFreeHost", _handle(address))

    def __del__(self):
        if self._address is not None:
            self.free()


def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
    assert np.dtype(dtype) == np.uint8
    return np.asarray(PagelockedHostAllocation(shape))


def memcpy_htod_async(dest, src, stream=None):
    view = np.frombuffer(src, np.uint8)
    source = _handle(view.ctypes.data)
    _call("cuMemcpyHtoDAsync_v2", _u64(dest), source, _size(view.nbytes), _handle(stream.handle))


def memcpy_dtoh_async(dest, src, stream=None):
    view = np.frombuffer(dest, np.uint8)
    to = _handle(view.ctypes.data)
    _call("cuMemcpyDtoHAsync_v2", to, _u64(src), _size(view.nbytes), _handle(stream.handle))


def memcpy_dtod_async(dest, src, size, stream=None):
    _call("cuMemcpyDtoDAsync_v2", _u64(dest), _u64(src), _size(size), _handle(stream.handle))


class Module(_Dependent):
    def __init__(self, image):
        super().__init__()
        self._module = _made("cuModuleLoadData", ctypes.c_char_p(image))

    def get_function(self, name):
        return Function(self, _made("cuModuleGetFunction", _handle(self._module), name.encode()))

    def __del__(self):
        if hasattr(self, "_module"):
            self._destroy("cuModuleUnload", _handle(self._module))


def module_from_buffer(buffer, options=(), message_handler=None):
    return Module(buffer)


class Function:
    def __init__(self, module, handle):
        self._module, self._function = module, handle

    def prepare(self, arg_types, texrefs=None):
        (self.arg_format,) = arg_types
        return self

    def prepared_async_call(self, grid, block, stream, *args, shared_size=0):
        (packed,) = args
        assert self.arg_format == f"{len(packed)}s"
        buffer = ctypes.create_string_buffer(packed, len(packed))
        size = _size(len(packed))
        # CU_LAUNCH_PARAM_BUFFER_POINTER, ..._BUFFER_SIZE, ..._END
        extra = (_handle * 5)(1, ctypes.addressof(buffer), 2, ctypes.addressof(size), 0)
        where = _handle(self._function)
        _call("cuLaunchKernel", where, *grid, *block, shared_size, _handle(stream.handle), None, extra)
