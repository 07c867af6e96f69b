"""The GPU tried through cuda-bindings: memory there and back."""

from importlib import import_module
from typing import Any

_BYTES = 1 << 20


def copied_back() -> int:
    """Copy a pattern of a megabyte to the first GPU and back; how many bytes. Raises what goes wrong."""
    driver = import_module("cuda.bindings.driver")
    _checked(driver.cuInit(0))
    device = _checked(driver.cuDeviceGet(0))
    context = _checked(driver.cuDevicePrimaryCtxRetain(device))
    try:
        _checked(driver.cuCtxSetCurrent(context))
        pattern = bytes(index % 251 for index in range(_BYTES))
        back = bytearray(_BYTES)
        memory = _checked(driver.cuMemAlloc(_BYTES))
        try:
            _checked(driver.cuMemcpyHtoD(memory, pattern, _BYTES))
            _checked(driver.cuMemcpyDtoH(back, memory, _BYTES))
        finally:
            _checked(driver.cuMemFree(memory))
    finally:
        _checked(driver.cuDevicePrimaryCtxRelease(device))
    if bytes(back) != pattern:
        raise RuntimeError("what came back from the GPU is not what was copied to it")
    return _BYTES


def _checked(answer: tuple[Any, ...]) -> Any:
    """The value of a call of the driver, which answers with its status first."""
    status, *values = answer
    if int(status) != 0:
        raise RuntimeError(f"the CUDA driver says {status.name}")
    return values[0] if values else None
