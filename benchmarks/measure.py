"""Accuracy and speed of one variant, measured with the deployed runtime."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import MissingExtraError
from ..progress import SILENT, Progress
from ..runtime.sessions import Session
from ..runtime.sessions.onnxruntime import OnnxRuntimeSession
from ..runtime.spec import ModelSpec
from .bootstrap import paired_drop
from .engine_here import EngineHere
from .place import backend_description
from .report.results import BuiltEngine, Interval, MeasuredAccuracy, MeasuredSpeed, VariantReport
from .speed import NotMeasured, Speed, measure_session
from .tasks import TaskData


@dataclass(frozen=True)
class Measurement:
    """How variants are measured.

    flip_test: average with the mirrored crop, for accuracy and in the pipeline that is timed; classifiers do
        not.
    batch_sizes: those that are timed. threads: of a session on the CPU, None for all cores.
    seconds: time spent on each figure of speed.
    """

    flip_test: bool
    batch_sizes: tuple[int, ...] = (1, 8)
    threads: int | None = None
    seconds: float = 3.0


def measure_variant(
    name: str,
    graph: Path,
    spec: ModelSpec,
    data: TaskData,
    engine: BuiltEngine | NotMeasured,
    running: EngineHere | NotMeasured,
    settings: Measurement,
    progress: Progress = SILENT,
    found: Path | None = None,
) -> VariantReport:
    """Measure the variant ``name``, whose graph is at ``graph``, on ``data``.

    Accuracy and speed come from one and the same session: on the engine ``running``, or on the graph where
    that says why no engine runs here. ``engine`` goes into the result as it is. What was found in the images
    is kept in the file ``found``, for ``compare``.
    Raises what the session and the evaluation raise.
    """
    from ..calibration.macs import int8_share  # with onnx, which is asked for before a job begins
    from ..export.graphs import load_graph

    with _open(graph, spec, running, settings) as session:
        place = backend_description(session)
        simulated = " (float16 simulated)" if session.simulated else ""
        figures = data.accuracy(session, settings.flip_test, progress, found)
        alone = measure_session(session, settings.batch_sizes, settings.seconds, progress)
        try:
            pipeline = data.pipeline_speed(
                session, settings.batch_sizes, settings.flip_test, settings.seconds, progress
            )
        except MissingExtraError as error:  # NVRTC: the kernels need it, the engine does not
            pipeline = NotMeasured(str(error).rstrip("."))
    speed = _placed(alone, place)
    return VariantReport(
        name=name,
        graph_bytes=graph.stat().st_size,
        accuracy=MeasuredAccuracy(figures, place + simulated),
        engine=engine,
        session_speed=speed,
        pipeline_speed=_placed(pipeline, place),
        engine_speed=running if isinstance(running, NotMeasured) else speed,
        int8_share=int8_share(load_graph(graph)),
    )


def compare(data: TaskData, spec: ModelSpec, reference: Path, found: Path) -> Interval | NotMeasured:
    """The interval of the drop from ``reference`` to ``found``, files that ``measure_variant`` kept.

    One image has no interval. Raises BundleError for unusable files.
    """
    before, after = data.per_image(spec, reference), data.per_image(spec, found)
    if len(before.images) < 2:
        return NotMeasured("an interval over images needs two images at least")
    drop = paired_drop(before, after)
    return Interval(drop.low, drop.high)


def _open(graph: Path, spec: ModelSpec, running: EngineHere | NotMeasured, settings: Measurement) -> Session:
    if isinstance(running, NotMeasured):
        return OnnxRuntimeSession(graph, spec, settings.threads)
    return running.open(spec)


def _placed(speeds: tuple[Speed, ...] | NotMeasured, place: str) -> MeasuredSpeed | NotMeasured:
    return speeds if isinstance(speeds, NotMeasured) else MeasuredSpeed(speeds, place)
