"""What the system says of its NVIDIA hardware: GPUs, driver, JetPack. No package is needed for that."""

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

# Jetson Linux release -> JetPack, from NVIDIA's JetPack archive; an entry that is missing is not guessed
JETPACKS = {
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.4.0": "7.1",
}
_RELEASE = re.compile(r"R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)")
_DRIVER = re.compile(r"NVRM version:[^\n]*?\s(\d+\.\d+(?:\.\d+)?)\s")
_NOT_TEXT = re.compile(r"[^ -~]")

# of cuda.h, CUdevice_attribute
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """A CUDA device. sm: its compute capability times ten. memory_bytes: in all, not what is free."""

    name: str
    sm: int
    memory_bytes: int


@dataclass(frozen=True)
class Gpus:
    """What the CUDA driver says.

    cuda: the CUDA version that it serves, None without a driver. problem: why there is no GPU, or "".
    """

    gpus: tuple[Gpu, ...]
    cuda: str | None
    problem: str


def gpus(library: str = "libcuda.so.1") -> Gpus:
    """Ask the CUDA driver. ``library``: the driver's library, which every device with a driver has."""
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return Gpus((), None, f"no driver ({library} cannot be loaded)")
    status = cuda.cuInit(0)
    if status != 0:
        return Gpus((), None, f"the driver cannot be started (CUDA error {status})")
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGetCount(ctypes.byref(count))
    found = tuple(_gpu(cuda, index) for index in range(count.value))
    dotted = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpus(found, dotted, "" if found else "the driver finds no GPU")


def driver_version(text: str | None = None) -> str | None:
    """The kernel driver's version, such as "580.65.06"; ``text``: of /proc/driver/nvidia/version."""
    found = _DRIVER.search(_read(Path("/proc/driver/nvidia/version")) if text is None else text)
    return found[1] if found else None


def jetpack(text: str | None = None) -> str | None:
    """Jetson Linux and JetPack, such as "Jetson Linux 36.4.3, JetPack 6.2"; None where this is no Jetson.

    ``text``: of /etc/nv_tegra_release, whose first line begins with "# R36 (release), REVISION: 4.3".
    """
    found = _RELEASE.search(_read(Path("/etc/nv_tegra_release")) if text is None else text)
    if not found:
        return None
    release = f"{found[1]}.{found[2]}"
    known = JETPACKS.get(release) or JETPACKS.get(f"{release}.0")
    return f"Jetson Linux {release}, JetPack {known or 'not known for this release'}"


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    shown = _NOT_TEXT.sub("?", name.value.decode("latin-1"))  # as it may stand in a file of ours
    return Gpu(shown, 10 * capability[0] + capability[1], memory.value)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
