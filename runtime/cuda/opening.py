"""A bundle's engine on the device that is here, if it runs on it."""

from ...errors import PosedgeError
from ..bundle import Bundle, rebuild_command
from ..engine_files import trusted_engine
from ..sessions.tensorrt import TensorRTSession
from ..sessions.tensorrt_engine import import_library
from ..spec import ModelSpec
from ..target import Target, mismatch, target_here
from .context import DeviceInfo
from .gpu import what_is_missing
from .pipeline import DevicePipeline


def what_a_bundle_misses(bundle: Bundle, variant: str) -> str | None:
    """The first of driver, binding, library, device and engine that a variant needs and that is not here."""
    built = bundle.variant(variant).built
    library = None if built is None else built.target.library
    command = rebuild_command(bundle.directory, variant)

    def unsuited(_: DeviceInfo) -> str | None:
        if built is None:
            return f"{bundle.directory}: the variant {variant} has no engine. Build one: {command}"
        try:
            here = _here(built.target.library)
        except PosedgeError as error:  # the library is installed and cannot be loaded
            return str(error)
        reason = mismatch(built.target, here)
        return reason and (
            f"{bundle.directory}: the engine of {variant} does not run here: {reason} (built: "
            f"{built.target}; here: {here}). Build it for what is here: {command}"
        )

    missing = what_is_missing(library=library, engine=unsuited)
    return None if missing is None else missing.message


def open_device(bundle: Bundle, variant: str, flip_test: bool, yuv: str) -> DevicePipeline:
    """The pipeline on the first device.

    Raises BundleError where ``trusted_engine`` does, and what TensorRTSession and DevicePipeline raise.
    """
    files = bundle.variant(variant)
    library = "tensorrt" if files.built is None else files.built.target.library
    engine = trusted_engine(bundle, variant, _here(library))
    return open_engine(
        engine, bundle.spec, library, flip_test, yuv, where=str(bundle.path(str(files.engine)))
    )


def open_engine(
    engine: bytes, spec: ModelSpec, library: str, flip_test: bool, yuv: str = "bt601", *, where: str
) -> DevicePipeline:
    """The pipeline on an engine that the caller trusts."""
    session = TensorRTSession(engine, spec, library=library, graphs=0, where=where)
    try:
        return DevicePipeline(session, flip_test, yuv=yuv)
    except BaseException:
        session.close()
        raise


def _here(library: str) -> Target:
    return target_here(library, import_library(library).__version__)
