"""What this machine can do with posedge: facts, and every library tried on a graph of ten nodes."""

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import __version__, doctor_facts
from .errors import PosedgeError
from .extras import GRAPHS, MEASURING, NETWORKS, say_missing
from .progress import SILENT, Progress
from .runtime import devices
from .runtime.devices import Gpus

PRECISIONS = ("fp32", "fp16", "int8")
WORKS, FAILS, NOT_TRIED = "works", "fails", "not tried"

_BUILD_LIMIT_S = 120.0
# largest difference from float32, as a part of the largest output, that rounding explains
_TOLERANCES = {"fp32": 1e-5, "fp16": 0.02, "int8": 0.1}


@dataclass(frozen=True)
class Trial:
    """What came of trying a library. verdict: WORKS, FAILS or NOT_TRIED; detail: figures, or why not."""

    library: str
    precision: str
    verdict: str
    detail: str


@dataclass(frozen=True)
class Job:
    """What somebody may want to do here. problem: what keeps it from being done, with the cure, or ""."""

    name: str
    description: str
    problem: str


@dataclass(frozen=True)
class Diagnosis:
    """All that the doctor found. libraries: module -> version, None for one that is not installed."""

    posedge: str
    python: str
    system: str
    memory_bytes: int | None
    spaces: tuple[doctor_facts.Space, ...]
    libraries: dict[str, str | None]
    missing_extras: dict[str, tuple[str, ...]]
    gpus: Gpus
    driver: str | None
    jetpack: str | None
    dla: tuple[str, ...]
    trials: tuple[Trial, ...]
    jobs: tuple[Job, ...]

    def job(self, name: str) -> Job:
        """The job of that name, a key of JOBS."""
        return next(job for job in self.jobs if job.name == name)

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def examine(progress: Progress = SILENT) -> Diagnosis:
    """Look at the machine and try what is installed. Never raises for what is missing or broken."""
    libraries, gpus = doctor_facts.libraries(), devices.gpus()
    trials = tuple(_trials(libraries, gpus, progress))
    return Diagnosis(
        posedge=__version__,
        python=python_version(),
        system=doctor_facts.system(),
        memory_bytes=doctor_facts.memory_bytes(),
        spaces=doctor_facts.spaces(),
        libraries=libraries,
        missing_extras=doctor_facts.missing_extras(libraries),
        gpus=gpus,
        driver=devices.driver_version(),
        jetpack=devices.jetpack(),
        dla=doctor_facts.dla_devices(),
        trials=trials,
        jobs=_jobs(libraries, trials),
    )


def _trials(libraries: dict[str, str | None], gpus: Gpus, progress: Progress) -> Iterator[Trial]:
    from .engines.flavours import FLAVOURS

    graphs, problem = _graphs(libraries)
    yield from _tried("onnxruntime", libraries["onnxruntime"], graphs, problem, _run_onnxruntime, progress)
    for flavour in FLAVOURS:

        def build(precision: str, graph: bytes, name: str = flavour.name) -> str:
            return _build(name, precision, graph)

        version = libraries[flavour.module]
        yield from _tried(flavour.name, version, graphs, problem, build, progress)
    yield _try_gpu(gpus)


def _graphs(libraries: dict[str, str | None]) -> tuple[dict[str, bytes], str]:
    """The graph in every precision; or why there is none."""
    if libraries["onnx"] is None:
        return (
            {},
            "onnx makes the graph to try with, and is not installed: pip install 'posedge[calibration]'",
        )
    try:
        from .engines.probe import probe_graph

        return {precision: probe_graph(precision).SerializeToString() for precision in PRECISIONS}, ""
    except Exception as error:  # a broken installation may raise anything
        return {}, f"onnx is installed and fails: {_words(error)}"


def _tried(
    library: str,
    version: str | None,
    graphs: dict[str, bytes],
    problem: str,
    work: Callable[[str, bytes], str],
    progress: Progress,
) -> Iterator[Trial]:
    """Each precision, one after another. Nothing that a library does wrong ends the examination."""
    for precision in PRECISIONS:
        if version is None or problem:
            reason = "it is not installed" if version is None else problem
            yield Trial(library, precision, NOT_TRIED, reason)
            continue
        with progress.task(f"trying {library} in {precision}", 1.0):
            try:
                yield Trial(library, precision, WORKS, work(precision, graphs[precision]))
            except Exception as error:
                yield Trial(library, precision, FAILS, _words(error))


def _run_onnxruntime(precision: str, graph: bytes) -> str:
    """Run the graph as posedge runs models, and compare with float32."""
    from .engines.probe import SPEC, probe_graph
    from .runtime.sessions.onnxruntime import OnnxRuntimeSession

    width, height = SPEC.input_wh
    batch: NDArray[np.float32] = np.random.default_rng(0).standard_normal((2, 3, height, width), np.float32)
    outputs = []
    for data in (probe_graph("fp32").SerializeToString(), graph):
        with OnnxRuntimeSession(data, SPEC, threads=1) as session:
            outputs.append(session.run(batch)[0])
            simulated = session.simulated
    difference = float(np.abs(outputs[1] - outputs[0]).max() / np.abs(outputs[0]).max())
    if not difference <= _TOLERANCES[precision]:
        raise PosedgeError(f"its outputs differ from float32 by {difference:.2g} of the largest")
    imitated = ", imitated in float32" if simulated else ""
    return f"runs; within {difference:.1g} of float32{imitated}"


def _build(flavour: str, precision: str, graph: bytes) -> str:
    from .engines import build_engine

    with tempfile.TemporaryDirectory(prefix="posedge-doctor-") as directory:
        source = Path(directory) / f"{precision}.onnx"
        source.write_bytes(graph)
        result = build_engine(
            source, source.with_suffix(".engine"), flavour=flavour, time_limit_s=_BUILD_LIMIT_S
        )
    return f"builds an engine of {result.engine_bytes / 1e3:.0f} KB with {result.version}"


def _try_gpu(gpus: Gpus) -> Trial:
    """Copy a megabyte to the GPU and back."""
    library, what = "cuda", "memory"
    if gpus.problem:
        return Trial(library, what, NOT_TRIED, gpus.problem)
    if importlib.util.find_spec("cuda") is None:
        return Trial(library, what, NOT_TRIED, "cuda-bindings is not installed: pip install cuda-bindings")
    try:
        from .doctor_gpu import copied_back

        return Trial(library, what, WORKS, f"{copied_back()} bytes copied to {gpus.gpus[0].name} and back")
    except Exception as error:  # a driver that does not fit may raise anything
        return Trial(library, what, FAILS, _words(error))


def _jobs(libraries: dict[str, str | None], trials: tuple[Trial, ...]) -> tuple[Job, ...]:
    images = libraries["cv2"] is not None or importlib.util.find_spec("PIL") is not None
    runs = _failures(trials, "onnxruntime") or ("" if images else say_missing(["cv2"]))
    builds = [_failures(trials, name) for name in ("tensorrt", "tensorrt_rtx")]
    measuring = _missing(libraries, (*GRAPHS, *MEASURING))
    networks = _missing(libraries, (*NETWORKS, *MEASURING))
    return (
        Job("run", "run a bundle on pictures", runs),
        Job("deploy", "deploy an ONNX file, measured", measuring or runs),
        Job("checkpoint", "deploy a checkpoint, measured", networks or runs),
        Job("build", "build engines", "" if "" in builds else "; ".join(builds)),
    )


def _failures(trials: tuple[Trial, ...], library: str) -> str:
    """Why a library is of no use here, "" when it works in float32."""
    trial = next(trial for trial in trials if trial.library == library and trial.precision == "fp32")
    return "" if trial.verdict == WORKS else f"{library}: {trial.detail}"


def _missing(libraries: dict[str, str | None], modules: tuple[str, ...]) -> str:
    missing = [module for module in dict.fromkeys(modules) if libraries.get(module) is None]
    return say_missing(missing) if missing else ""


def _words(error: BaseException) -> str:
    """The first line of an error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
