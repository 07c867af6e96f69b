"""From an ONNX graph to a TensorRT engine file: lint, build in a child process, check, rename."""

import importlib.util
import os
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import BuildError, OutputError
from ..files import replacing
from ..progress import SILENT, Progress
from .child import Outcome, WorkerCrash, run_worker
from .flavours import Flavour, check_options, flavour_named, installed_flavours
from .messages import BuildRequest, Event, Progressed
from .options import BatchProfile, BuildOptions, as_options
from .reproducer import discard_reproducer, keep_reproducer

__all__ = ["BatchProfile", "BuildOptions", "BuildResult", "build_engine"]


@dataclass(frozen=True)
class BuildResult:
    """A finished engine.

    flavour: "tensorrt" or "tensorrt_rtx"; version: the library's own.
    seconds: parsing and building, without the start of the child process.
    engine_bytes: size of the engine file.
    peak_memory_bytes: largest resident memory of the child process, the library itself included.
    log: the last lines of the library's log, at most 40.
    gpu_layers: with a DLA core, the names of the layers that run on the GPU because the DLA cannot.
    """

    flavour: str
    version: str
    seconds: float
    engine_bytes: int
    peak_memory_bytes: int
    log: tuple[str, ...]
    gpu_layers: tuple[str, ...] = ()


def build_engine(
    graph: Path,
    engine: Path,
    options: BuildOptions | BatchProfile | None = None,
    *,
    flavour: str | None = None,
    time_limit_s: float = 600.0,
    memory_limit_bytes: int | None = None,
    progress: Progress = SILENT,
    final: Path | None = None,
) -> BuildResult:
    """Build ``engine`` from ``graph``, an ONNX file with one input whose first axis is the batch.

    The file appears whole or not at all; an older one is replaced only by a finished one. ``options`` None
    means BuildOptions(), a batch profile alone stands for options with that profile. A graph with a fixed
    batch is built only when min, opt and max all equal it. ``flavour`` None takes full TensorRT where it can
    be imported and TensorRT-RTX elsewhere. ``memory_limit_bytes`` bounds what the child process may write to
    (RLIMIT_DATA, so memory of the GPU and of mapped files is not counted). ``final`` is where the caller
    will move the finished engine: progress and the reproducer of a crash carry that name.

    The graph is linted first where onnx is installed; a device that has only TensorRT builds graphs that were
    linted when their bundle was made. Precision is the graph's own.

    The same graph and options give the same bytes with TensorRT-RTX 1.7, whatever the files are called (see
    determinism.py), where the system lets a process fix its addresses. TensorRT times kernels and chooses by
    that, so its engines differ from build to build; results are to be keyed by the graph.

    Raises MissingExtraError without a TensorRT; OutputError when the engine cannot be written; BuildError
    for a graph that lint or the library refuses, an option that the library does not honour, an unsupported
    version, a missing GPU, one of the limits, or a crash. After a crash ENGINE.reproducer/ holds what repeats
    it (see reproducer.py), until a build of that engine succeeds.
    """
    graph, engine = graph.absolute(), engine.absolute()
    known_as = engine if final is None else final.absolute()
    if not time_limit_s > 0:
        raise BuildError(f"the time limit of a build is {time_limit_s} s; it must be positive")
    if memory_limit_bytes is not None and memory_limit_bytes < 1:
        raise BuildError(f"the memory limit of a build is {memory_limit_bytes} bytes; it must be positive")
    flavours = installed_flavours(flavour)
    wanted = _with_absolute_paths(as_options(options))
    check_options(wanted, flavour)
    _require_clean(graph, progress)
    request = BuildRequest(
        graph=str(graph),
        output="",  # a temporary file, known when it is there
        flavours=tuple(choice.name for choice in flavours),
        options=wanted,
        parent=os.getpid(),
        memory_limit_bytes=memory_limit_bytes,
    )
    try:
        result = _build(request, engine, known_as.name, time_limit_s, progress)
    except WorkerCrash as crash:
        raise BuildError(f"{crash}\n{keep_reproducer(request, known_as, crash)}") from crash
    discard_reproducer(known_as)
    return result


def _with_absolute_paths(options: BuildOptions) -> BuildOptions:
    """The child works in a directory of its own."""
    cache = options.timing_cache
    return options if cache is None else replace(options, timing_cache=cache.absolute())


def _build(
    request: BuildRequest, engine: Path, name: str, time_limit_s: float, progress: Progress
) -> BuildResult:
    """Let a child process write the engine beside its place, check it, and rename it."""
    try:
        with progress.task(f"building {name}", 1.0) as task, replacing(engine) as temporary:

            def listen(event: Event) -> None:
                if isinstance(event, Progressed):
                    task.update(event.fraction)

            outcome = run_worker(replace(request, output=str(temporary)), time_limit_s, listen)
            size = _check_engine(temporary, flavour_named(outcome.built.flavour))
    except OSError as error:
        raise OutputError(
            f"{engine}: the engine cannot be written ({error.strerror}). Nothing is left of it."
        ) from error
    for note in outcome.built.notes:
        progress.note(note)
    if outcome.built.gpu_layers:
        layers = outcome.built.gpu_layers
        progress.note(f"{name}: {len(layers)} layers fall back to the GPU: {', '.join(layers)}")
    return _result(outcome, size)


def _require_clean(graph: Path, progress: Progress) -> None:
    """Raise BuildError for a graph that no builder should see."""
    if not graph.is_file():
        raise BuildError(f"{graph}: there is no such file; export the model first (posedge deploy)")
    if importlib.util.find_spec("onnx") is None:
        progress.note(f"{graph.name} is built without a lint, because onnx is not installed")
        return
    from .lint import lint_file

    findings = lint_file(graph)
    if findings:
        lines = "".join(f"\n  {finding}" for finding in findings)
        raise BuildError(f"{graph}: the graph is not fit to be built:{lines}")


def _check_engine(path: Path, flavour: Flavour) -> int:
    """The size of an engine file, whose header must agree with it: a full disk may cut a file silently."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        header = stream.read(64)
    whole = size > 64
    if flavour.magic is not None:
        whole = whole and header.startswith(flavour.magic)
    if flavour.size_offset is not None:
        whole = (
            whole and int.from_bytes(header[flavour.size_offset : flavour.size_offset + 8], "little") == size
        )
    if not whole:
        raise BuildError(
            f"{flavour.module} wrote {size} bytes that are no whole engine (header {header[:24].hex()}). "
            "Check the disk and build again"
        )
    return size


def _result(outcome: Outcome, size: int) -> BuildResult:
    built = outcome.built
    return BuildResult(
        flavour=built.flavour,
        version=built.version,
        seconds=built.seconds,
        engine_bytes=size,
        peak_memory_bytes=built.peak_memory_bytes,
        log=outcome.log,
        gpu_layers=built.gpu_layers,
    )
