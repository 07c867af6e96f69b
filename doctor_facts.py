"""What a machine has, as far as the system tells without any optional package."""

import ctypes
import importlib.util
import os
import platform
import re
import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .extras import EXTRAS

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

# module -> distributions that install it
LIBRARIES = {
    "numpy": ("numpy",),
    "cv2": ("opencv-python-headless", "opencv-python"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "rich": ("rich",),
    "onnx": ("onnx",),
    "onnxslim": ("onnxslim",),
    "onnxscript": ("onnxscript",),
    "torch": ("torch",),
    "safetensors": ("safetensors",),
    "faster_coco_eval": ("faster-coco-eval",),
    "matplotlib": ("matplotlib",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
    "cuda.bindings": ("cuda-bindings",),
}

# of cuda.h, CUdevice_attribute
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """A CUDA device. compute_capability: such as "8.7", SM 87. memory_bytes: in all, not what is free."""

    name: str
    compute_capability: str
    memory_bytes: int


@dataclass(frozen=True)
class Gpus:
    """What the CUDA driver says.

    cuda: the CUDA version that it serves, None without a driver. problem: why there is no GPU, or "".
    """

    gpus: tuple[Gpu, ...]
    cuda: str | None
    problem: str


@dataclass(frozen=True)
class Space:
    """Free bytes of the file system that holds ``path``."""

    use: str
    path: str
    free_bytes: int


def gpus(library: str = "libcuda.so.1") -> Gpus:
    """Ask the CUDA driver. ``library``: the driver's library, which no package brings."""
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


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(str(value.value))
    return Gpu(name.value.decode("utf-8", "replace"), ".".join(capability), memory.value)


def driver_version(text: str | None = None) -> str | None:
    """The kernel driver's version, such as "580.65.06"; ``text``: of /proc/driver/nvidia/version."""
    said = _read(Path("/proc/driver/nvidia/version")) if text is None else text
    found = re.search(r"NVRM version:[^\n]*?\s(\d+\.\d+(?:\.\d+)?)\s", said)
    return found[1] if found else None


def jetpack(text: str | None = None) -> str | None:
    """Jetson Linux and JetPack, such as "Jetson Linux 36.4.3, JetPack 6.2"; None where this is no Jetson.

    ``text``: of /etc/nv_tegra_release, whose first line begins with "# R36 (release), REVISION: 4.3".
    """
    said = _read(Path("/etc/nv_tegra_release")) if text is None else text
    found = _RELEASE.search(said)
    if not found:
        return None
    release = f"{found[1]}.{found[2]}"
    known = JETPACKS.get(release) or JETPACKS.get(f"{release}.0")
    return f"Jetson Linux {release}, JetPack {known or 'not known for this release'}"


def dla_devices() -> tuple[str, ...]:
    """Device files of deep learning accelerators; whether TensorRT uses them is another question."""
    return tuple(sorted(str(path) for path in Path("/dev").glob("nvhost-ctrl-nvdla*")))


def libraries() -> dict[str, str | None]:
    """Module -> version, "installed" without metadata, None where it is not there. Nothing is imported."""
    return {module: _version(module, names) for module, names in LIBRARIES.items()}


def missing_extras(found: dict[str, str | None]) -> dict[str, tuple[str, ...]]:
    """Dependency group -> its modules that are not installed; groups that are whole are left out."""
    groups: dict[str, list[str]] = {}
    for module, group in (*EXTRAS.items(), ("tensorrt_rtx", "tensorrt-rtx")):
        if found.get(module) is None:
            groups.setdefault(group, []).append(module)
    return {group: tuple(modules) for group, modules in sorted(groups.items())}


def spaces() -> tuple[Space, ...]:
    """Where posedge writes: results here, temporary engines, fetched weights."""
    cache = Path(os.environ.get("POSEDGE_CACHE", Path.home() / ".cache" / "posedge"))
    places = (("here", Path.cwd()), ("temporary", Path(tempfile.gettempdir())), ("weights", cache))
    found = []
    for use, path in places:
        there = next((parent for parent in (path, *path.parents) if parent.exists()), None)
        if there is not None:
            found.append(Space(use, str(path), shutil.disk_usage(there).free))
    return tuple(found)


def memory_bytes() -> int | None:
    """Memory that programs may still take, None where the system does not say."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", _read(Path("/proc/meminfo")))
    return int(found[1]) * 1024 if found else None


def system() -> str:
    """Such as "Linux x86_64, 2 cores"."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return f"{platform.system()} {platform.machine()}, {cores} core{'s' if cores > 1 else ''}"


def _version(module: str, names: tuple[str, ...]) -> str | None:
    try:
        if importlib.util.find_spec(module) is None:
            return None
    except (ImportError, ValueError):
        return None
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "installed"


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
