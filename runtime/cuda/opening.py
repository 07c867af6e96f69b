"""A bundle's engine on the device that is here, if it can be run here."""

from ..bundle import Bundle
from ..sessions.tensorrt import TensorRTSession
from .context import DeviceInfo
from .gpu import what_is_missing
from .pipeline import DevicePipeline


def what_a_bundle_misses(bundle: Bundle, variant: str) -> str | None:
    """The first of driver, binding, library, device and engine that a variant needs and that is not here."""
    files = bundle.variant(variant)

    def unsuited(device: DeviceInfo) -> str | None:
        if files.engine is None:
            return f"{bundle.directory}: the variant {variant} has no engine"
        return None

    missing = what_is_missing(library=_library(bundle, variant), engine=unsuited)
    return None if missing is None else missing.message


def open_device(bundle: Bundle, variant: str, flip_test: bool, yuv: str) -> DevicePipeline:
    """The pipeline on the first device. Raises what TensorRTSession and DevicePipeline raise."""
    engine, where = engine_bytes(bundle, variant)
    library = _library(bundle, variant) or "tensorrt"
    session = TensorRTSession(engine, bundle.spec, library=library, graphs=0, where=where)
    try:
        return DevicePipeline(session, flip_test, yuv=yuv)
    except BaseException:
        session.close()
        raise


def engine_bytes(bundle: Bundle, variant: str) -> tuple[bytes, str]:
    """The engine of a variant that has one, and what messages call it."""
    path = bundle.path(str(bundle.variant(variant).engine))
    return path.read_bytes(), str(path)


def _library(bundle: Bundle, variant: str) -> str | None:
    """The module that built the engine, None where there is none."""
    built = bundle.variant(variant).engine_built_with
    return None if built is None else built.split()[0]
