"""One build, from the graph's file to the engine's: what the child process does."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BuildError, PosedgeError
from .configure import network_flags, require_dla_core, set_options, set_profile, use_dla
from .determinism import of_one_length
from .flavours import Flavour, flavour_named, import_first
from .library import Library
from .listeners import Emit, make_logger, make_monitor
from .messages import BuildRequest, Built, Progressed
from .options import BuildOptions
from .precisions import graph_precisions
from .releases import Release
from .timing_cache import TimingCacheFile

if TYPE_CHECKING:
    import tensorrt as trt


def build(request: BuildRequest, emit: Emit) -> Built:
    """Parse the graph, build the engine and write it to the output file.

    Raises MissingExtraError, BuildError, or the OSError of the output file.
    """
    flavour, library = import_first([flavour_named(name) for name in request.flavours])
    version, options = str(library.__version__), request.options
    release = flavour.release(version)
    flavour.check(version, options)
    name = f"{flavour.name} {version}"
    times = None if options.timing_cache is None else TimingCacheFile(options.timing_cache, name)
    known_times = b"" if times is None else times.load()
    start = time.monotonic()
    errors: list[str] = []
    logger = make_logger(library, emit, errors)
    builder = _builder(library, flavour, version, logger, errors)
    if options.dla_core is not None:
        require_dla_core(builder, options.dla_core, name)
    network = builder.create_network(network_flags(library, release))
    _parse(library, network, logger, request.graph, release, options)
    emit(Progressed(0.0, "Configuring"))
    config = builder.create_builder_config()
    set_profile(builder, config, network, options.profile)
    set_options(library, config, options, release, _precision_flags(release, request.graph))
    gpu_layers = () if options.dla_core is None else use_dla(library, config, network, options.dla_core)
    if times is not None:
        _attach_times(config, times, known_times)
    if release.progress_monitor:
        config.progress_monitor = make_monitor(library, emit)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        said = "; ".join(errors[-3:]) or "it gave no reason"
        raise BuildError(f"{request.graph}: {flavour.module} {version} could not build this graph: {said}")
    seconds = time.monotonic() - start
    with open(request.output, "wb") as stream:
        stream.write(plan)
    notes = list(flavour.warnings(version))
    if times is not None:
        notes += _keep_times(config, times)
    return Built(flavour.name, version, seconds, status_bytes("VmHWM"), gpu_layers, tuple(notes))


def _precision_flags(release: Release, graph: str) -> tuple[str, ...]:
    """The flags that a library without strong typing needs; the others read the graph's types themselves."""
    if not release.precision_flags:
        return ()
    precisions = graph_precisions(Path(graph))
    return tuple(flag for precision, flag in release.precision_flags if precision in precisions)


def _attach_times(config: "trt.IBuilderConfig", times: TimingCacheFile, known: bytes) -> None:
    """Give the builder the times of earlier builds, or an empty cache where they are not of this GPU."""
    cache = config.create_timing_cache(known)
    if known and (cache is None or not config.set_timing_cache(cache, False)):
        times.notes.append("the timing cache is of another GPU; a new one takes its place")
        known, cache = b"", config.create_timing_cache(b"")
    if cache is None or (not known and not config.set_timing_cache(cache, False)):
        raise BuildError("the library takes no timing cache here. Leave the option out")


def _keep_times(config: "trt.IBuilderConfig", times: TimingCacheFile) -> list[str]:
    """Write the times of this build into the file. The engine is finished, so a failure is a note only."""

    def merge(stored: bytes) -> bytes:
        cache = config.get_timing_cache()
        assert cache is not None  # it was attached
        others = config.create_timing_cache(stored) if stored else None
        if others is not None:
            cache.combine(others, False)
        return bytes(cache.serialize())

    try:
        times.update(merge)
    except (OSError, PosedgeError) as error:
        times.notes.append(f"the timing cache was not kept: {error}")
    return times.notes


def _builder(
    library: Library, flavour: Flavour, version: str, logger: "trt.ILogger", errors: list[str]
) -> "trt.Builder":
    try:
        return library.Builder(logger)
    except (TypeError, RuntimeError) as error:  # how the bindings say that the constructor returned nothing
        said = "; ".join(errors[-3:]) or str(error)
        need = f"; the builder of {flavour.module} needs a GPU" if flavour.needs_gpu else ""
        raise BuildError(
            f"{flavour.module} {version} could not start its builder ({said}){need}. Check the GPU "
            "and its driver, build on the device itself, or ask for the flavour 'tensorrt_rtx', which builds "
            "without one"
        ) from error


def _parse(
    library: Library,
    network: "trt.INetworkDefinition",
    logger: "trt.ILogger",
    graph: str,
    release: Release,
    options: BuildOptions,
) -> None:
    parser = library.OnnxParser(network, logger)
    if options.version_compatible or options.hardware_compatible:
        for name in release.portable_parser_flags:
            parser.set_flag(getattr(library.OnnxParserFlag, name))
    directory, name = os.path.split(graph)
    os.chdir(directory)
    if not parser.parse_from_file(of_one_length(name)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        words = [f"{_place(error, release)}: {error.code().name}: {error.desc()}" for error in errors]
        raise BuildError(
            f"{graph}: TensorRT's parser refuses the graph: {'; '.join(words) or 'without a reason'}"
        )
    # some files that are no graph at all parse as an empty one
    if network.num_inputs != 1 or network.num_outputs == 0:
        raise BuildError(
            f"{graph}: the graph has {network.num_inputs} inputs and {network.num_outputs} outputs; a "
            "model has one input (the images) and at least one output. Export it again"
        )


def _place(error: "trt.ParserError", release: Release) -> str:
    if release.parser_names_nodes:
        return f"node {error.node_name()!r} ({error.node_operator()})"
    return f"node {error.node()}, counted from 0"


def status_bytes(name: str) -> int:
    """What Linux says of this process, in bytes: VmHWM (its largest resident memory), VmData and others.

    getrusage would count the parent's memory too, from before the exec.
    """
    with open("/proc/self/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields[name].split()[0]) * 1024
