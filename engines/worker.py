"""The child process of a build: ``python -m posedge.engines.worker EVENTS_FD REQUEST``.

It parses and builds in a process of its own because the parser crashes on some graphs, hangs on others and
cannot be interrupted: an exception raised in one of the builder's callbacks is swallowed. What it has to say
goes line by line to the file descriptor EVENTS_FD (see messages); standard error is a log for people.
"""

import ctypes
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from ..errors import BuildError, PosedgeError
from .determinism import on_fresh_heap
from .flavours import Flavour, flavour_named, import_first, network_flags
from .messages import (
    BatchProfile,
    BuildRequest,
    Built,
    Event,
    Failed,
    Parsing,
    Progressed,
    decode_request,
    encode_event,
)
from .phases import PhaseFraction

_PR_SET_PDEATHSIG = 1
_PARSING = "Parsing node: "
_PROGRESS_STEP = 0.01

Emit = Callable[[Event], bool]


def build(request: BuildRequest, emit: Emit) -> Built:
    """Parse the graph, build the engine and write it to the output file.

    ``emit`` says whether somebody still listens. Raises MissingExtraError, BuildError, or the OSError of the
    output file.
    """
    flavour, trt = import_first([flavour_named(name) for name in request.flavours])
    version = str(trt.__version__)
    release = flavour.release(version)
    start = time.monotonic()
    logger = _logger(trt, emit)
    builder = _builder(trt, flavour, version, logger)
    network = builder.create_network(network_flags(trt, release))
    _parse(trt, network, logger, request.graph)
    emit(Progressed(0.0, "Configuring"))
    config = builder.create_builder_config()
    _set_profile(builder, config, network, request.profile)
    if release.progress_monitor:
        config.progress_monitor = _monitor(trt, emit)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        said = "; ".join(logger.errors[-3:]) or "it gave no reason"
        raise BuildError(f"{request.graph}: {flavour.module} {version} could not build this graph: {said}")
    seconds = time.monotonic() - start
    with open(request.output, "wb") as stream:
        stream.write(plan)
    return Built(flavour.name, version, seconds, _peak_memory())


def _logger(trt: Any, emit: Emit) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # the library has no types
        """Writes messages out at once, so that a crash loses none, and keeps the errors."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if int(severity) <= int(trt.ILogger.INFO):
                print(f"{severity.name}: {text}", file=sys.stderr, flush=True)
            elif text.startswith(_PARSING):
                emit(Parsing(text.removeprefix(_PARSING)))
            if int(severity) <= int(trt.ILogger.ERROR):
                self.errors.append(text)

    return Log()


def _monitor(trt: Any, emit: Emit) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the library has no types
        """Passes the builder's phases on; cancels the build when nobody listens any more."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases = PhaseFraction()
            self._said = 0.0
            self._heard = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._heard = emit(
                Progressed(self._phases.start(phase_name, parent_phase, num_steps), phase_name)
            )

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._say(self._phases.step(phase_name, step), phase_name)
            return self._heard

        def phase_finish(self, phase_name: str) -> None:
            self._say(self._phases.finish(phase_name), phase_name)

        def _say(self, fraction: float, phase: str) -> None:
            # thousands of steps a second: only what a person could see is worth a line
            if fraction - self._said >= _PROGRESS_STEP:
                self._said = fraction
                self._heard = emit(Progressed(fraction, phase))

    return Monitor()


def _builder(trt: Any, flavour: Flavour, version: str, logger: Any) -> Any:
    try:
        return trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # how the bindings say that the constructor returned nothing
        said = "; ".join(logger.errors[-3:]) or str(error)
        need = f"; the builder of {flavour.module} needs a GPU" if flavour.needs_gpu else ""
        raise BuildError(
            f"{flavour.module} {version} could not start its builder ({said}){need}. Check the GPU "
            "and its driver, build on the device itself, or ask for the flavour 'tensorrt_rtx', which builds "
            "without one"
        ) from error


def _parse(trt: Any, network: Any, logger: Any, graph: str) -> None:
    parser = trt.OnnxParser(network, logger)
    # a path of another length would shift the heap, and with it what the engine's bytes are (determinism.py)
    os.chdir(os.path.dirname(graph))
    if not parser.parse_from_file(os.path.basename(graph)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        words = [f"node {e.node_name()!r} ({e.node_operator()}): {e.code().name}: {e.desc()}" for e in errors]
        raise BuildError(
            f"{graph}: TensorRT's parser refuses the graph: {'; '.join(words) or 'without a reason'}"
        )
    # some files that are no graph at all parse as an empty one
    if network.num_inputs != 1 or network.num_outputs == 0:
        raise BuildError(
            f"{graph}: the graph has {network.num_inputs} inputs and {network.num_outputs} outputs; a "
            "model has one input (the images) and at least one output. Export it again"
        )


def _set_profile(builder: Any, config: Any, network: Any, profile: BatchProfile) -> None:
    """Tell the builder the batch sizes. A graph of one fixed batch takes only the profile that says so."""
    images = network.get_input(0)
    batch, *rest = (int(side) for side in images.shape)
    if min(rest, default=1) < 1:
        raise BuildError(
            f"input {images.name!r} has the shape {[batch, *rest]}: only the batch axis may be dynamic (-1). "
            "Export the graph with a fixed input size"
        )
    if batch > 0:
        if (profile.min, profile.opt, profile.max) != (batch,) * 3:
            raise BuildError(
                f"input {images.name!r} has a fixed batch of {batch}, the profile asks for {profile.min} to "
                f"{profile.max}. Export the graph with a dynamic batch, or make all three numbers {batch}"
            )
        return
    for output in (network.get_output(index) for index in range(network.num_outputs)):
        if len(output.shape) == 0 or output.shape[0] > 0:
            raise BuildError(
                f"output {output.name!r} has the shape {[int(side) for side in output.shape]} although the "
                "batch of the input is dynamic: a Reshape or a constant fixes it. Export the graph again "
                "with a dynamic batch throughout"
            )
    shapes = builder.create_optimization_profile()
    shapes.set_shape(images.name, (profile.min, *rest), (profile.opt, *rest), (profile.max, *rest))
    config.add_optimization_profile(shapes)


def _peak_memory() -> int:
    """Largest resident memory in bytes. getrusage would count the parent's too, from before the exec."""
    with open("/proc/self/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmHWM"].split()[0]) * 1024


def _emitter(descriptor: int) -> Emit:
    def emit(event: Event) -> bool:
        try:
            os.write(descriptor, encode_event(event))
        except BrokenPipeError:
            return False
        return True

    return emit


def _die_with_parent(parent: int) -> None:
    """Let the kernel end this process when the parent ends in a way that leaves it no time to do so."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main(descriptor: str, text: str) -> None:
    """Do one request and leave without the library's teardown, which could spoil a finished build."""
    emit = _emitter(int(descriptor))
    request = decode_request(text)
    _die_with_parent(request.parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is an answer here, not something to debug
    event: Event
    try:
        import_first([flavour_named(name) for name in request.flavours])  # into Python's own heap
        event = on_fresh_heap(lambda: build(request, emit))
    except PosedgeError as error:
        event = Failed(type(error).__name__, str(error))
    except OSError as error:
        event = Failed("OSError", error.strerror or str(error), error.errno)
    except Exception as error:  # any other fault of the library: the log keeps its traceback
        traceback.print_exc()
        event = Failed("BuildError", f"{request.graph}: the build failed: {type(error).__name__}: {error}")
    emit(event)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
