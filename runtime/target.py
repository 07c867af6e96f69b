"""What an engine was built for, what is here, and whether the one runs on the other.

NVIDIA's rules, from "Engine Compatibility" and the support matrix of TensorRT 11.4 and from "CPU-Only AOT"
of TensorRT-RTX: an engine runs with the very version that built it, on GPUs of the compute capability that it
was built for. One that was built to be version-compatible runs also with later versions of the same major
version, one of 8 with 10, and one of 10 with 11. One that was built to be hardware-compatible, and one of
TensorRT-RTX without target SMs, run on Ampere (SM 80) and later. Nothing here needs a GPU or a package.
"""

import platform
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from .devices import driver_version, gpus, jetpack

# what an engine of TensorRT-RTX runs on when no SM was asked for; "and later" covers those to come
PORTABLE_SMS = (80, 86, 89, 120)


@dataclass(frozen=True)
class Target:
    """A device with its library. Of an engine it is what the engine was built for; else it is what is here.

    library: "tensorrt" or "tensorrt_rtx". version: the library's own ``__version__``.
    sms: compute capabilities times ten, 87 for 8.7. Of an engine: those it runs on. Of a device: its GPU's;
        () where there is none.
    portable: whether the engine also runs on SMs later than the first of ``sms``.
    version_compatible: whether the engine also runs with later versions of the library.
    gpu: its name; driver: its version; jetpack: the Jetson's release, such as "Jetson Linux 36.4.3, JetPack
        6.2". None where there is none.
    machine: the processor's architecture, "x86_64" or "aarch64".
    """

    library: str
    version: str
    sms: tuple[int, ...] = ()
    portable: bool = False
    version_compatible: bool = False
    gpu: str | None = None
    driver: str | None = None
    jetpack: str | None = None
    machine: str | None = None

    @property
    def compute_capability(self) -> str | None:
        """Such as "8.7"; None for an engine of several SMs, and where there is no GPU."""
        return f"{self.sms[0] // 10}.{self.sms[0] % 10}" if len(self.sms) == 1 else None

    def __str__(self) -> str:
        sms = ", ".join(str(sm) for sm in self.sms)
        if self.portable:
            gpus = f"portable, {_GENERATIONS.get(min(self.sms, default=0), 'these')} and later (SM {sms})"
        else:
            gpus = f"SM {sms}" if sms else "no GPU"
        about = [
            self.gpu or "",
            f"driver {self.driver}" if self.driver else "",
            self.jetpack or "",
            self.machine or "",
        ]
        return ", ".join([f"{self.library} {self.version}", gpus, *filter(None, about)])


_ACROSS_MAJORS = (((8,), (10,)), ((10,), (11,)))
_GENERATIONS = {75: "Turing", 80: "Ampere", 89: "Ada", 90: "Hopper", 120: "Blackwell"}
_KINDS: dict[str, tuple[type, ...]] = {
    "library": (str,),
    "version": (str,),
    "portable": (bool,),
    "version_compatible": (bool,),
    **dict.fromkeys(("gpu", "driver", "jetpack", "machine"), (str, type(None))),
}


def mismatch(built: Target, here: Target) -> str | None:
    """Why an engine that was built for ``built`` does not run on ``here``, in one clause; None if it does."""
    if built.library != here.library:
        return "it is an engine of another library"
    if built.version != here.version and not (built.version_compatible and _runs_later(built, here)):
        return "an engine runs only with the version of the library that built it"
    if built.machine != here.machine:
        return "it was built on another architecture"
    if not here.sms:
        return "there is no GPU here"
    if here.sms[0] in built.sms or (built.portable and here.sms[0] >= min(built.sms, default=0)):
        return None
    return "it was built for other GPUs"


def target_here(library: str, version: str) -> Target:
    """The device that this process runs on, with the library that the caller has imported.

    The first GPU is looked at. Nothing is raised where there is none, or no driver: ``sms`` is () then.
    """
    gpu = next((gpu for gpu in gpus().gpus if gpu.sm), None)
    return Target(
        library=library,
        version=version,
        sms=() if gpu is None else (gpu.sm,),
        gpu=None if gpu is None else gpu.name,
        driver=driver_version(),
        jetpack=jetpack(),
        machine=platform.machine(),
    )


def target_to_dict(target: Target) -> dict[str, Any]:
    """JSON values; the compute capability stands beside the SMs for people."""
    return {
        **asdict(target),
        "sms": list(target.sms),
        "compute_capability": target.compute_capability,
        "described": str(target),
    }


def target_from_dict(values: object) -> Target:
    """The inverse of ``target_to_dict``. Raises ValueError that says what is wrong."""
    names = {field.name for field in fields(Target)} | {"compute_capability", "described"}
    if not isinstance(values, dict) or set(values) != names:
        raise ValueError(f"it must have {', '.join(sorted(names))}")
    for key, kinds in _KINDS.items():
        if not isinstance(values[key], kinds):
            raise ValueError(f"{key} cannot be {values[key]!r:.60}")
    sms = values["sms"]
    if not isinstance(sms, list) or not all(type(sm) is int and 0 < sm < 10_000 for sm in sms):
        raise ValueError(f"sms cannot be {sms!r:.60}")
    target = Target(sms=tuple(sms), **{key: values[key] for key in _KINDS})
    if target_to_dict(target) != values:
        raise ValueError("its description contradicts its values")
    return target


def _runs_later(built: Target, here: Target) -> bool:
    """Whether a version-compatible engine runs with the version that is here."""
    older, newer = (tuple(int(part) for part in re.findall(r"\d+", t.version)) for t in (built, here))
    return newer > older and (older[:1] == newer[:1] or (older[:1], newer[:1]) in _ACROSS_MAJORS)
