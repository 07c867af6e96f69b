"""Memory: buffers on the device, and page-locked buffers on the host that copies run from at full speed."""

import ctypes
import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ...errors import DeviceError
from .context import Context, Owned
from .driver import Driver, Handle
from .streams import Stream


class DeviceBuffer(Owned):
    """Bytes on the device.

    size: bytes; 0 is taken as 1, since CUDA allocates no nothing.

    Raises DeviceError when the device has no room, with how much was asked for and how much is free.
    """

    _what = "device buffer"

    def __init__(self, context: Context, size: int) -> None:
        self.size = max(1, size)
        with context.memory_for(f"{self.size:,} bytes on {context.device.name}", self.size) as driver:
            super().__init__(context, driver.allocate(self.size))

    @property
    def address(self) -> int:
        """Where the bytes are on the device, a multiple of 256."""
        return self.handle

    def upload(self, array: NDArray[Any], *, stream: Stream, offset: int = 0) -> None:
        """Copy a C-contiguous array to ``offset`` bytes from the start.

        The copy runs on the stream: the array must stay as it is until the stream has passed it. From pinned
        memory it does not hold up the caller.
        """
        self._check(array, offset)
        with self.context.current("copy to the device") as driver:
            driver.copy_to_device(self.address + offset, array.ctypes.data, array.nbytes, stream.handle)

    def download(self, array: NDArray[Any], *, stream: Stream, offset: int = 0) -> None:
        """Copy into a C-contiguous array, which holds the values once the stream has passed."""
        self._check(array, offset)
        if not array.flags.writeable:
            raise DeviceError("a read-only array cannot be copied into. Give a writable one.")
        with self.context.current("copy from the device") as driver:
            driver.copy_to_host(array.ctypes.data, self.address + offset, array.nbytes, stream.handle)

    def fill(self, value: int, *, stream: Stream) -> None:
        """Set every byte to ``value``."""
        with self.context.current("fill device memory") as driver:
            driver.fill(self.address, value, self.size, stream.handle)

    def _check(self, array: NDArray[Any], offset: int) -> None:
        if not array.flags.c_contiguous:
            raise DeviceError("the array is not contiguous. Give numpy.ascontiguousarray(array).")
        if offset < 0 or offset + array.nbytes > self.size:
            raise DeviceError(
                f"{array.nbytes} bytes at offset {offset} do not fit into a device buffer of {self.size}."
            )

    def _free(self, driver: Driver, handle: Handle) -> None:
        driver.free(handle)

    def __enter__(self) -> "DeviceBuffer":
        return self


class PinnedBuffer(Owned):
    """A numpy array in page-locked host memory.

    Page-locked memory is taken from the whole machine: hold few, and reuse them.

    Raises DeviceError when there is no room.
    """

    _what = "pinned buffer"

    def __init__(self, context: Context, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.size = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        with context.memory_for(f"{self.size:,} bytes of page-locked memory", self.size) as driver:
            super().__init__(context, driver.allocate_pinned(self.size))
        memory = (ctypes.c_ubyte * self.size).from_address(self.handle)
        flat = np.frombuffer(memoryview(memory), dtype, math.prod(shape))
        self._array: NDArray[Any] | None = flat.reshape(shape)

    @property
    def array(self) -> NDArray[Any]:
        """The memory as an array. It is gone after ``close``: keep no view of it."""
        if self._array is None:
            raise DeviceError("the pinned buffer is closed. Make another one.")
        return self._array

    def close(self) -> None:
        """Free the memory. A second call does nothing."""
        self._array = None
        super().close()

    def _free(self, driver: Driver, handle: Handle) -> None:
        driver.free_pinned(handle)

    def __enter__(self) -> "PinnedBuffer":
        return self
