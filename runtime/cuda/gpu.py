"""Whether a GPU can be used here, and if not, what is missing: asked before anything of CUDA is loaded."""

import ctypes
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ...errors import DeviceError, PosedgeError
from .context import DeviceInfo
from .driver import BINDINGS, has_binding, open_driver
from .failures import CudaFailure, device_error

DRIVER_LIBRARY = "libcuda.so.1"

What = Literal["driver", "binding", "library", "device", "engine"]


@dataclass(frozen=True)
class Missing:
    """The first thing that a GPU needs and that is not here. message: what it is and what to do."""

    what: What
    message: str


def what_is_missing(
    ordinal: int = 0,
    *,
    library: str | None = None,
    engine: Callable[[DeviceInfo], str | None] | None = None,
) -> Missing | None:
    """The first of driver, binding, library, device and engine that is not here, None when all are.

    ordinal: the device's number. library: the module that runs engines, "tensorrt" or "tensorrt_rtx"; None
    asks for none. engine: given the device, why the engine does not suit it, or None.

    Each is asked for only when those before it are there: nothing is imported on a machine without a driver.
    """
    if not _has_driver():
        return Missing(
            "driver",
            f"there is no NVIDIA driver here ({DRIVER_LIBRARY} cannot be loaded). Install the driver of the "
            "device, or start the container with it (--gpus all)",
        )
    if not any(has_binding(name) for name in BINDINGS):
        return Missing(
            "binding",
            f"no CUDA binding is installed ({' or '.join(BINDINGS)}). "
            "Install one with: pip install 'posedge[cuda]'",
        )
    if library is not None and not is_installed(library):
        cure = "It comes with JetPack, and from NVIDIA's repositories"
        if library == "tensorrt_rtx":
            cure = "Install it with: pip install 'posedge[tensorrt-rtx]'"
        return Missing("library", f"{library} is not installed. {cure}")
    try:
        device = _device(ordinal)
    except PosedgeError as error:
        return Missing("device", str(error).rstrip("."))
    unsuited = None if engine is None else engine(device)
    if unsuited is not None:
        return Missing("engine", unsuited)
    return None


def available(ordinal: int = 0, *, library: str | None = None) -> bool:
    """Whether driver, binding, library and device are here."""
    return what_is_missing(ordinal, library=library) is None


def require_gpu(
    ordinal: int = 0,
    *,
    library: str | None = None,
    engine: Callable[[DeviceInfo], str | None] | None = None,
) -> None:
    """Raise DeviceError, with what ``what_is_missing`` finds, unless a GPU can be used."""
    missing = what_is_missing(ordinal, library=library, engine=engine)
    if missing is not None:
        raise DeviceError(f"no GPU can be used: {missing.message}. Without a GPU, run on the CPU.")


def _has_driver() -> bool:
    try:
        ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return False
    return True


def is_installed(module: str) -> bool:
    """Whether a library's module can be found, which is not to say that it loads."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _device(ordinal: int) -> DeviceInfo:
    driver = open_driver()
    try:
        if ordinal >= (count := driver.device_count()):
            raise DeviceError(f"there is no CUDA device {ordinal}; {count} are visible. Look with nvidia-smi")
        return DeviceInfo(ordinal, *driver.describe(ordinal))
    except CudaFailure as failure:
        raise device_error(failure, f"use CUDA device {ordinal}") from failure
