"""Which network is measured: a bundle's engine, the torch stack where that cannot run, or none."""

import tempfile
from pathlib import Path

from ...engines import BatchProfile, build_engine
from ...errors import PosedgeError
from ...runtime.bundle import Bundle, open_bundle
from ...runtime.cuda.context import Context
from ...runtime.engine_files import trusted_engine
from ...runtime.sessions.tensorrt import TensorRTSession
from ...runtime.sessions.tensorrt_engine import import_library
from ...runtime.target import mismatch, target_here
from .bench import Bench
from .torch_network import TorchNetwork

Network = TensorRTSession | TorchNetwork


def open_network(
    bench: Bench, directory: Path | None, variant: str | None
) -> tuple[Network | None, list[str]]:
    """The network for the pipeline's figures, and what the report says of it; the bench's context closes it.

    directory: of a bundle, or None. variant: None takes the bundle's default. An engine that is missing is
    built here where TensorRT is. None where there is no TensorRT that can run and no torch either.

    Raises BundleError for a bundle that is damaged or has no such variant.
    """
    said = []
    if directory is None:
        said.append("no bundle was given")
    else:
        bundle = open_bundle(directory)
        name = bundle.default_variant if variant is None else variant
        bundle.variant(name)
        try:
            engine = bundle_session(bench.context, bundle, name, bench.effort.batch)
        except PosedgeError as error:
            said.append(f"the engine of {directory.name} cannot run here: {error}")
        else:
            return engine, [f"{bundle.spec.name}, {name}, {engine.library}"]
    try:
        stand_in = TorchNetwork(bench.context, bench.stream, bench.effort.batch)
    except PosedgeError as error:
        return None, [*said, f"no stand-in for the network: {error}", "only the kernels were measured"]
    return stand_in, [*said, f"a stack of convolutions ({stand_in.library}) stands in for the network"]


def bundle_session(context: Context, bundle: Bundle, variant: str, batch: int) -> TensorRTSession:
    """A variant's engine on a device; one that is missing or of another device is built, tuned for ``batch``.

    Raises what TensorRTSession and build_engine raise.
    """
    files = bundle.variant(variant)
    if files.built is not None:
        library = files.built.target.library
        here = target_here(library, import_library(library).__version__)
        if mismatch(files.built.target, here) is None:
            return _session(context, bundle, trusted_engine(bundle, variant, here), library, variant)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{variant}.engine"
        built = build_engine(bundle.path(files.graph), path, BatchProfile(1, batch, max(32, batch)))
        return _session(context, bundle, path.read_bytes(), built.flavour, variant)


def _session(context: Context, bundle: Bundle, engine: bytes, library: str, variant: str) -> TensorRTSession:
    where = f"the engine of {variant}"
    return TensorRTSession(engine, bundle.spec, library=library, context=context, where=where)
