"""Arrays of other libraries on a GPU, borrowed where they are: DLPack and ``__cuda_array_interface__``.

DLPack by its C header (dlpack.h, version 1, the unversioned capsule that every producer still gives); the
other by version 3 of Numba's description of it.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

from ...errors import DataError
from .streams import Stream

_UNSIGNED = 1  # DLDataTypeCode kDLUInt


class _Tensor(ctypes.Structure):
    """DLTensor, its device and data type written out."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """DLManagedTensor."""


_DELETER = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p))

_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = ctypes.c_void_p
_pointer_of.argtypes = (ctypes.py_object, ctypes.c_char_p)
_rename = ctypes.pythonapi.PyCapsule_SetName
_rename.argtypes = (ctypes.py_object, ctypes.c_char_p)
_USED = b"used_dltensor"  # a capsule keeps the pointer, so this must live


@dataclass(frozen=True)
class DeviceArray:
    """uint8 values on a device.

    address: of the first one. shape, strides: as numpy has them; strides in bytes.
    owner: what must be kept as long as the values are read.

    Raises DataError where there are values and no address.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    owner: object

    def __post_init__(self) -> None:
        if self.address == 0 and 0 not in self.shape:
            raise DataError(f"the image on the GPU has shape {self.shape} and no memory (a null pointer).")
        if len(self.strides) != len(self.shape):
            raise DataError(f"the image on the GPU has shape {self.shape} and strides {self.strides}.")


class _Loan:
    """Gives a DLPack tensor back when it is forgotten."""

    def __init__(self, managed: Any) -> None:
        self._managed = managed

    def __del__(self) -> None:
        if self._managed.contents.deleter:
            _DELETER(self._managed.contents.deleter)(self._managed)


def from_dlpack(array: Any, stream: Stream) -> DeviceArray:
    """Borrow an array by DLPack; the stream then waits for what its library still does to it.

    Raises DataError for values that are not uint8, and where the library refuses.
    """
    try:
        capsule = array.__dlpack__(stream=stream.handle)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"the image cannot be borrowed by DLPack: {error}.") from error
    try:
        managed = ctypes.cast(_pointer_of(capsule, b"dltensor"), ctypes.POINTER(_Managed))
    except ValueError as error:
        raise DataError(f"the image's __dlpack__ gives no DLPack tensor: {error}.") from error
    _rename(capsule, _USED)
    loan = _Loan(managed)
    tensor = managed.contents.tensor
    if (tensor.code, tensor.bits, tensor.lanes) != (_UNSIGNED, 8, 1):
        raise DataError(
            f"the image on the GPU has values of {tensor.bits} bits (DLPack type {tensor.code}); "
            "images are uint8."
        )
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    strides = compact(shape)
    if tensor.strides:
        strides = tuple(tensor.strides[axis] for axis in range(tensor.ndim))
    return DeviceArray((tensor.data or 0) + tensor.byte_offset, shape, strides, loan)


def from_interface(array: Any) -> tuple[DeviceArray, int | None]:
    """Borrow an array by ``__cuda_array_interface__``; and the stream after whose work it is ready, if any.

    Raises DataError for values that are not uint8 and an interface that is not understood.
    """
    try:
        described = array.__cuda_array_interface__
        kind, address = described["typestr"], int(described["data"][0])
        shape = tuple(int(size) for size in described["shape"])
        strides = described.get("strides")
        strides = compact(shape) if strides is None else tuple(int(step) for step in strides)
        stream = described.get("stream")
        stream = None if stream is None else int(stream)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"the image's __cuda_array_interface__ is not understood: {error!r}.") from error
    if described.get("mask") is not None:
        raise DataError("the image on the GPU has a mask; images have none. Give the array without it.")
    if kind not in ("|u1", "<u1", ">u1"):
        raise DataError(f"the image on the GPU has values of type {kind!r}; images are uint8 ('|u1').")
    return DeviceArray(address, shape, strides, array), stream


def compact(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a C-contiguous uint8 array."""
    strides = [1]
    for size in shape[:0:-1]:
        strides.insert(0, strides[0] * size)
    return tuple(strides[-len(shape) :]) if shape else ()
