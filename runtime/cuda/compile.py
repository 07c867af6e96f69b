"""The kernels as machine code: compiled by NVRTC at their first use on a device, then read from disk.

An entry of the cache is keyed by everything that decides it: source, options, NVRTC's version and the
architecture. It carries its own hash: a damaged one is compiled anew. Without a place for the cache every
process compiles for itself, which takes about a second.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import MissingExtraError, OutputError, SessionError, UnservedDeviceError, require
from ...files import cache_directory, sha256_bytes, write_bytes

SOURCE = Path(__file__).with_name("kernels.cu")
# without contraction products and sums round as they do in numpy
OPTIONS = ("--std=c++17", "--fmad=false")

_EXTRA = "cuda"
_LINES_OF_LOG = 5


@dataclass(frozen=True)
class CompiledKernels:
    """What a module is loaded from.

    architecture: "sm_87" for machine code (a cubin) of exactly that device, "compute_87" for PTX, which the
        driver translates when it loads it.
    image: the cubin, or the PTX with the zero byte at its end.
    """

    architecture: str
    image: bytes


def compile_kernels(capability: tuple[int, int], cache: Path | None = None) -> CompiledKernels:
    """The kernels for a device of this compute capability (major, minor), compiled or from the cache.

    cache: the directory of the cache; None takes ``kernels`` in posedge's cache directory. A cache that
    cannot be read or written is done without. Where NVRTC cannot compile for the device, what another
    environment's NVRTC has compiled is taken: PyCUDA then needs no nvcc.

    Raises MissingExtraError where NVRTC is not installed, UnservedDeviceError where it serves no device as
    old as this one, SessionError where it refuses the source.
    """
    source = SOURCE.read_text("utf-8")
    try:
        compiler = Nvrtc()
        architecture = choose_architecture(capability, compiler.architectures(), compiler.version)
    except (MissingExtraError, UnservedDeviceError):
        kept = _kept(cache, source, f"sm_{capability[0]}{capability[1]}")
        if kept is None:
            raise
        return kept
    path = _entry(cache, source, compiler.version, architecture)
    image = _read(path) if path else None
    if image is None:
        image = compiler.compile(source, architecture)
        if path:
            _write(path, image)
    return CompiledKernels(architecture, image)


def choose_architecture(capability: tuple[int, int], served: list[int], version: str) -> str:
    """What to compile for: the device's own architecture, or PTX of the newest one below it.

    served: what NVRTC of this version compiles for, such as 75 for compute capability 7.5, ascending.
    Raises UnservedDeviceError for a device older than all of them.
    """
    wanted = 10 * capability[0] + capability[1]
    if wanted in served:
        return f"sm_{wanted}"
    older = [number for number in served if number < wanted]
    if not older:
        raise UnservedDeviceError(
            f"the CUDA kernels cannot be compiled for compute capability {capability[0]}.{capability[1]}: "
            f"NVRTC {version} serves {served[0] // 10}.{served[0] % 10} and later. "
            "Install an older NVRTC with: pip install 'posedge[cuda12]'"
        )
    return f"compute_{older[-1]}"


class Nvrtc:
    """NVRTC as cuda-bindings has it. Raises MissingExtraError where one of the two is not installed."""

    def __init__(self) -> None:
        self._nvrtc: Any = require("cuda.bindings.nvrtc", _EXTRA)
        self.version = ".".join(str(number) for number in self._ask("nvrtcVersion"))

    def architectures(self) -> list[int]:
        """What it compiles for, ascending: 75 for compute capability 7.5."""
        (served,) = self._ask("nvrtcGetSupportedArchs")
        return sorted(int(number) for number in served)

    def compile(self, source: str, architecture: str) -> bytes:
        """The cubin of CUDA source for "sm_87", its PTX for "compute_87".

        Raises SessionError with the beginning of NVRTC's log where it refuses.
        """
        (program,) = self._ask("nvrtcCreateProgram", source.encode(), SOURCE.name.encode(), 0, [], [])
        try:
            options = [option.encode() for option in (f"--gpu-architecture={architecture}", *OPTIONS)]
            (status,) = self._nvrtc.nvrtcCompileProgram(program, len(options), options)
            if int(status):
                log = self._bytes(program, "ProgramLog").decode(errors="replace").strip(" \n\0")
                raise SessionError(
                    f"NVRTC {self.version} refused the CUDA kernels for {architecture} ({status.name}): "
                    f"{' '.join(log.splitlines()[:_LINES_OF_LOG])}. Install the version that posedge is "
                    f"tested with: pip install 'posedge[{_EXTRA}]'"
                )
            return self._bytes(program, "CUBIN" if architecture.startswith("sm_") else "PTX")
        finally:
            self._nvrtc.nvrtcDestroyProgram(program)

    def _bytes(self, program: Any, what: str) -> bytes:
        (size,) = self._ask(f"nvrtcGet{what}Size", program)
        buffer = bytes(size)  # NVRTC writes into it
        self._ask(f"nvrtcGet{what}", program, buffer)
        return buffer

    def _ask(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        """What a function of NVRTC returns beside its status."""
        try:
            status, *results = getattr(self._nvrtc, function)(*arguments)
        except RuntimeError as error:  # cuda-bindings is there and the library is not
            raise MissingExtraError(
                f"NVRTC is needed to compile the CUDA kernels and could not be loaded ({error}). "
                f"Install it with: pip install 'posedge[{_EXTRA}]'"
            ) from error
        if int(status):
            raise SessionError(f"NVRTC refused {function} with {status.name}. Is its installation complete?")
        return tuple(results)


def _entry(cache: Path | None, source: str, version: str, architecture: str) -> Path | None:
    """The file of these kernels; None where no cache directory is known."""
    try:
        directory = cache_directory() / "kernels" if cache is None else cache
    except RuntimeError:  # there is no home directory
        return None
    key = sha256_bytes("\0".join([source, *OPTIONS, architecture]).encode())
    return directory / f"{architecture}-{key[:32]}-{version}"


def _kept(cache: Path | None, source: str, architecture: str) -> CompiledKernels | None:
    """The cubin that any version of NVRTC has left in the cache."""
    any_version = _entry(cache, source, "*", architecture)
    try:
        found = sorted(any_version.parent.glob(any_version.name)) if any_version else []
    except OSError:
        return None
    images = [image for image in map(_read, found) if image is not None]
    return CompiledKernels(architecture, images[-1]) if images else None


def _read(path: Path) -> bytes | None:
    """What ``_write`` wrote; None where the file is missing, damaged or not readable."""
    try:
        digest, _, image = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return image if digest == sha256_bytes(image).encode() else None


def _write(path: Path, image: bytes) -> None:
    with suppress(OutputError, OSError):  # the next process then compiles again
        write_bytes(path, sha256_bytes(image).encode() + b"\n" + image)
