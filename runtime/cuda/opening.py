"""A bundle's engine on the device that is here, if it runs on it."""

from pathlib import Path

from ...errors import PosedgeError
from ...files import cache_directory, sha256_bytes
from ..bundle import Bundle, rebuild_command
from ..engine_files import foreign_engine, trusted_engine
from ..sessions.tensorrt import TensorRTSession
from ..sessions.tensorrt_engine import LIBRARIES, import_library
from ..spec import ModelSpec
from ..target import Target, mismatch, target_here
from .context import DeviceInfo
from .gpu import is_installed, require_gpu, what_is_missing
from .pipeline import DevicePipeline


def what_a_bundle_misses(bundle: Bundle, variant: str) -> str | None:
    """The first of driver, binding, library, device and engine that a variant needs and that is not here."""
    built = bundle.variant(variant).built
    command = rebuild_command(bundle.directory, variant)
    if built is None:
        words = f"{bundle.directory}: the variant {variant} has no engine. Build one: {command}"
        missing = what_is_missing(engine=lambda _: words)
        return None if missing is None else missing.message
    name = f"{bundle.directory}: the engine of {variant}"
    return what_an_engine_misses(built.target, name, f". Build it for what is here: {command}")


def what_an_engine_misses(built: Target, name: str = "the engine", cure: str = "") -> str | None:
    """The same for an engine that was built for ``built``. name, cure: words of the message."""

    def unsuited(_: DeviceInfo) -> str | None:
        try:
            here = target_with(built.library)
        except PosedgeError as error:  # the library is installed and cannot be loaded
            return str(error)
        reason = mismatch(built, here)
        return reason and f"{name} does not run here: {reason} (built: {built}; here: {here}){cure}"

    missing = what_is_missing(library=built.library, engine=unsuited)
    return None if missing is None else missing.message


def open_device(bundle: Bundle, variant: str, flip_test: bool, yuv: str) -> DevicePipeline:
    """The pipeline on the first device.

    Raises BundleError where ``trusted_engine`` does, and what TensorRTSession and DevicePipeline raise.
    """
    files = bundle.variant(variant)
    library = "tensorrt" if files.built is None else files.built.target.library
    engine = trusted_engine(bundle, variant, target_with(library))
    return open_engine(
        engine, bundle.spec, library, flip_test, yuv, where=str(bundle.path(str(files.engine)))
    )


def open_engine(
    engine: bytes, spec: ModelSpec, library: str, flip_test: bool, yuv: str = "bt601", *, where: str
) -> DevicePipeline:
    """The pipeline on an engine that the caller trusts."""
    cache = _runtime_cache(engine) if library == "tensorrt_rtx" else None
    session = TensorRTSession(engine, spec, library=library, graphs=0, cache=cache, where=where)
    try:
        return DevicePipeline(session, flip_test, yuv=yuv)
    except BaseException:
        session.close()
        raise


def foreign_session(path: Path, bundle: Bundle, *, trust: bool = False) -> TensorRTSession:
    """An engine file that no bundle vouches for, run as the model of this bundle.

    Its library is the one that built the bundle's engines, or else the one that is installed.

    Raises BundleError without ``trust``, DeviceError with what a GPU needs and is not here, and what
    TensorRTSession raises.
    """
    engine = foreign_engine(path, trust=trust)
    built = {files.built.target.library for files in bundle.variants.values() if files.built is not None}
    installed = [name for name in LIBRARIES if is_installed(name)]
    library = next(iter(sorted(built) or installed), LIBRARIES[0])
    require_gpu(library=library)
    return TensorRTSession(engine, bundle.spec, library=library, graphs=0, where=str(path))


def _runtime_cache(engine: bytes) -> Path | None:
    """Where TensorRT-RTX keeps what it compiles for an engine; None without a cache directory.

    It is code, and so lies in the user's own cache directory, as posedge's kernels do.
    """
    try:
        directory = cache_directory() / "tensorrt_rtx"
        directory.mkdir(parents=True, exist_ok=True)
    except (RuntimeError, OSError):  # no home directory, or none that can be written
        return None
    return directory / f"{sha256_bytes(engine)[:32]}.cache"


def target_with(library: str) -> Target:
    """What is here, with a library that runs engines. Raises MissingExtraError where it cannot be loaded."""
    return target_here(library, import_library(library).__version__)
