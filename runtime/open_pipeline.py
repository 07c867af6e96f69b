"""On which device a bundle's variant runs: on a GPU where all that it takes is there, else on the CPU."""

from typing import Any, Literal, get_args

from ..errors import DeviceError, MissingExtraError, UnservedDeviceError
from .bundle import Bundle
from .host_pipeline import HostPipeline
from .pipeline import Pipeline
from .sessions import Session
from .sessions.onnxruntime import OnnxRuntimeSession

Device = Literal["auto", "cpu", "cuda"]


def open_pipeline(
    bundle: Bundle, variant: str, device: Device, threads: int | None, flip_test: bool, yuv: str
) -> tuple[Pipeline, str | None]:
    """The pipeline of a pose model's variant, and why it is not on a GPU (None where it is).

    Raises DeviceError for "cuda" where something is missing, with the first thing that is; DeviceError for an
    unknown device; what the sessions raise.
    """
    if device not in get_args(Device):
        raise DeviceError(f"{device!r} is no device; choose one of {', '.join(get_args(Device))}.")
    reason = "the CPU was asked for"
    if device == "cuda" or (device == "auto" and bundle.variant(variant).engine is not None):
        from .cuda.opening import open_device, what_a_bundle_misses

        missing = what_a_bundle_misses(bundle, variant)
        if missing is None:
            try:
                return open_device(bundle, variant, flip_test, yuv), None
            except (MissingExtraError, UnservedDeviceError) as error:  # NVRTC, of all, shows only now
                if device == "cuda":
                    raise
                missing = str(error)
        if device == "cuda":
            raise DeviceError(
                f"no GPU can be used: {missing.rstrip('.')}. Without a GPU, run on the CPU (device='cpu')."
            )
        reason = missing
    elif device == "auto":
        reason = f"the variant {variant} has no engine"
    graph = bundle.path(bundle.variant(variant).graph)
    return HostPipeline(OnnxRuntimeSession(graph, bundle.spec, threads), flip_test), reason


def session_pipeline(session: Session, flip_test: bool, yuv: str) -> Pipeline:
    """The pipeline on an open session: on the device of a TensorRTSession, else on the CPU."""
    if not hasattr(session, "run_on_device"):
        return HostPipeline(session, flip_test)
    from .cuda.pipeline import DevicePipeline

    on_device: Any = session
    return DevicePipeline(on_device, flip_test, yuv=yuv)
