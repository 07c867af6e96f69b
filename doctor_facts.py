"""What a machine has, as far as the system tells without any optional package."""

import importlib.util
import os
import platform
import re
import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .engines.flavours import FLAVOURS
from .extras import EXTRAS

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
    **{flavour.module: flavour.distributions for flavour in FLAVOURS},
    "cuda.bindings": ("cuda-bindings",),
}


@dataclass(frozen=True)
class Space:
    """Free bytes of the file system that holds ``path``."""

    use: str
    path: str
    free_bytes: int


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
    try:
        said = Path("/proc/meminfo").read_text("ascii")
    except OSError:
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", said)
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
