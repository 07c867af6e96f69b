"""Modules and functions: compiled kernels on a device, and their launch."""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from .context import Context, Owned
from .driver import Driver, Grid, Handle
from .memory import DeviceBuffer
from .streams import Stream

# A buffer's address, a number of numpy's types, or a structure by value with C's layout.
Argument = DeviceBuffer | np.generic | ctypes.Structure | ctypes._SimpleCData  # type: ignore[type-arg]


class Module(Owned):
    """Compiled kernels on the device.

    image: a cubin, a fat binary, or PTX that ends with a zero byte, as NVRTC gives them.

    Raises DeviceError when the image does not suit the device.
    """

    _what = "module"

    def __init__(self, context: Context, image: bytes) -> None:
        with context.current("load compiled kernels") as driver:
            super().__init__(context, driver.load_module(image))

    def function(self, name: str) -> "Function":
        """A kernel by its name in the image. Raises DeviceError when it is not there."""
        with self.context.current(f"find the kernel {name}") as driver:
            return Function(self, name, driver.function(self.handle, name))

    def _free(self, driver: Driver, handle: Handle) -> None:
        driver.unload_module(handle)

    def __enter__(self) -> "Module":
        return self


class Function:
    """A kernel of a module, which must stay open as long as it is used."""

    def __init__(self, module: Module, name: str, handle: Handle) -> None:
        self.module = module
        self.name = name
        self._handle = handle

    def launch(self, grid: Grid, block: Grid, arguments: Sequence[Argument], *, stream: Stream) -> None:
        """Start the kernel on a stream.

        grid, block: blocks, and threads of one block, along x, y and z. arguments: in the kernel's order and
        with its types; CUDA cannot check them.

        Raises DeviceError when the launch is refused. What goes wrong in the kernel shows when the stream is
        waited for.
        """
        packed, offsets = pack(arguments)
        module = self.module.handle  # raises when it is closed
        with self.module.context.current(f"launch the kernel {self.name}") as driver:
            del module
            driver.launch(self._handle, grid, block, packed, offsets, stream.handle)


def pack(arguments: Sequence[Argument]) -> tuple[bytes, tuple[int, ...]]:
    """A kernel's arguments one after another, each aligned as C aligns its type, and where each starts."""
    packed = bytearray()
    offsets = []
    for argument in arguments:
        content, alignment = _bytes_of(argument)
        packed += bytes(-len(packed) % alignment)
        offsets.append(len(packed))
        packed += content
    return bytes(packed), tuple(offsets)


def _bytes_of(argument: Any) -> tuple[bytes, int]:
    if isinstance(argument, DeviceBuffer):
        argument = ctypes.c_uint64(argument.address)
    if isinstance(argument, np.generic):
        return argument.tobytes(), argument.dtype.alignment
    if isinstance(argument, ctypes.Structure | ctypes._SimpleCData):
        return bytes(argument), ctypes.alignment(type(argument))
    raise TypeError(f"a kernel's argument cannot be a {type(argument).__name__}")
