"""Where figures were measured: the processor, the backend, the versions of the libraries."""

import os
import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..runtime.sessions import Session
from ..runtime.sessions.tensorrt import TensorRTSession

_LIBRARIES = ("numpy", "onnx", "onnxruntime", "opencv-python-headless", "torch", "tensorrt-rtx-cu13")


def device_description() -> str:
    """The processor of this machine and how many of its cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return f"{_processor()}, {cores} core{'s' if cores > 1 else ''}"


def backend_description(session: Session) -> str:
    """What a session's figures were measured with and on: backend, its version, the device.

    An engine's device is the GPU; the processor stands beside it, for part of each call is its work.
    """
    if isinstance(session, TensorRTSession):
        return f"{session.library} on {session.context.device.name} with {device_description()}"
    return f"{session.name} {_version_of(session.name)} on {device_description()}"


def library_versions() -> dict[str, str]:
    """Python and those of the libraries that decide figures which are installed, name to version."""
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """The processor's own name: x86's is in cpuinfo, a Jetson's board in the device tree."""
    for path, key in ((Path("/proc/cpuinfo"), "model name"), (Path("/proc/device-tree/model"), "")):
        try:
            lines = path.read_text("utf-8", "replace").splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(key):
                return " ".join(line.split(":", 1)[-1].strip("\0 ").split())
    return platform.processor() or platform.machine()


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # onnxruntime comes under other names too, with the same module in it
        return str(getattr(import_module(package), "__version__", "of unknown version"))
