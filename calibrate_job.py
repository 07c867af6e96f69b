"""INT8 calibration by itself: a model and crops become a float32 graph, its INT8 form and the ranges.

Nothing is evaluated here: what INT8 costs in accuracy, ``deploy`` says. The stages have the names and inputs
of deploy's, so that each takes up what the other has finished. Read ``calibrate_model`` first.
"""

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .benchmarks.report.float_layers import float_lines, share_line
from .benchmarks.report.sensitivity import read_layers, show_layers, write_layers
from .benchmarks.report.sensitivity_plot import write_layer_plot
from .benchmarks.report.table import WIDTH
from .benchmarks.tasks import ClassificationData, PoseData, TaskData
from .calibration.datasets import CocoPersons
from .calibration.imagenet import ImageNet
from .calibration.recipe import DEFAULT, Recipe
from .errors import DataError, OutputError
from .export.graph_options import PLAIN, GraphOptions
from .export.source import Source, modules_needed, open_source
from .extras import LEARNING, SENSITIVITY, require_all
from .files import directory_lock, remove_leftovers, sha256_file
from .progress import SILENT, Progress
from .runtime.bundle import BUNDLE_FILE
from .runtime.spec import ModelSpec
from .stages import StageLog

if TYPE_CHECKING:
    from .calibration.placement import FloatLayer
    from .calibration.sensitivity import LayerSensitivity

FLOAT_GRAPH, INT8_GRAPH, TABLE = "fp32.onnx", "int8.onnx", "calibration.json"
LAYERS, LAYER_PLOT = "sensitivity.csv", "sensitivity.png"

_BATCH = 4  # the more crops at once, the more memory for activations
_VERIFIED_CROPS = 5


@dataclass(frozen=True)
class CalibrateOptions:
    """What is calibrated, on which crops, and how.

    model, checkpoint, spec, graph: as ``open_source`` takes them. output: files go to ``output``/NAME.
    images, annotations: COCO keypoints whose persons a pose model is calibrated on; a classifier takes any
        folder of images and no annotations.
    crops: at most so many persons or images. sensitivity: measure each layer's too.

    Raises DataError for a number of crops that no job could use.
    """

    model: str
    output: Path
    images: Path
    annotations: Path | None = None
    checkpoint: Path | None = None
    spec: Path | None = None
    recipe: Recipe = DEFAULT
    crops: int = 128
    sensitivity: bool = False
    graph: GraphOptions = PLAIN

    def __post_init__(self) -> None:
        if self.crops < 1:
            raise DataError(f"crops: {self.crops} cannot be used. Give a positive number")


@dataclass(frozen=True)
class CalibratedModel:
    """What a calibration left.

    described: data and recipe in one line. int8_share: of the convolutions' multiply-accumulates, 0 to 1.
    float_layers: what could have been quantised and is not. layers: their sensitivity, if it was measured.
    notes: rewrites of the graph and records left out of the data.
    """

    directory: Path
    described: str
    int8_share: float
    float_layers: "tuple[FloatLayer, ...]"
    layers: "tuple[LayerSensitivity, ...]"
    files: tuple[str, ...]
    notes: tuple[str, ...]

    def show(self) -> None:
        """Print what is in INT8, what is not, and where the files are."""
        if self.layers:
            show_layers(self.layers)
            print()
        lines = [
            share_line(self.int8_share),
            *float_lines(self.float_layers),
            f"Calibrated: {self.described}",
            *self.notes,
            "Accuracy was not measured; posedge deploy does.",
            f"Files: {self.directory}: {', '.join(self.files)}",
        ]
        for line in lines:
            print(
                textwrap.fill(
                    line, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
                )
            )


@dataclass(frozen=True)
class _Job:
    options: CalibrateOptions
    source: Source
    directory: Path
    stages: StageLog
    data: TaskData
    progress: Progress

    @property
    def spec(self) -> ModelSpec:
        return self.source.spec

    def path(self, file: str) -> Path:
        return self.directory / file

    def stage(
        self, name: str, inputs: Mapping[str, Any], outputs: tuple[str, ...], work: Callable[[], None]
    ) -> None:
        self.stages.run_or_keep(name, inputs, outputs, work, self.progress)


def calibrate_model(options: CalibrateOptions, progress: Progress = SILENT) -> CalibratedModel:
    """Write the graphs and the ranges of a model, and what each of its layers costs if that is wanted.

    A stage that finished in an earlier run with the same inputs is kept; an interrupted one starts again.
    Raises MissingExtraError before any work when a package is missing, OutputError for a directory with a
    bundle, and the PosedgeError of the stage that failed; the stages before it are kept.
    """
    require_all(_modules(options))
    source = open_source(options.model, options.checkpoint, options.spec, options.graph)
    directory = options.output / source.spec.name
    with directory_lock(directory):
        _check_directory(directory, options.model)
        remove_leftovers(directory)
        data = _open_data(options, source.spec, progress)
        job = _Job(options, source, directory, StageLog(directory), data, progress)
        _export(job)
        _quantize(job)
        if options.sensitivity:
            _measure_layers(job)
        return _result(job)


def _modules(options: CalibrateOptions) -> tuple[str, ...]:
    """The optional modules of the whole job."""
    learning = LEARNING if options.recipe.learned else ()
    return (*modules_needed(options.model), *learning, *(SENSITIVITY if options.sensitivity else ()))


def _check_directory(directory: Path, model: str) -> None:
    """Refuse what would spoil earlier work: a bundle is sealed, and its files must stay what they are."""
    if (directory / BUNDLE_FILE).exists():
        raise OutputError(
            f"{directory}: it holds a bundle, whose files this would replace. Choose another directory "
            "with -o."
        )
    graph, given = directory / FLOAT_GRAPH, Path(model)
    if given.exists() and graph.exists() and graph.samefile(given):
        raise OutputError(
            f"{model}: the prepared graph would replace the model. Choose another directory with -o."
        )


def _open_data(options: CalibrateOptions, spec: ModelSpec, progress: Progress) -> TaskData:
    """Read all data before any work. Raises DataError when a model of this spec cannot be fed with them."""
    if spec.task == "classification":
        if options.annotations is not None:
            raise DataError(
                f"{spec.name} is a classification model, it is calibrated on images alone; give --images DIR "
                "without annotations, or --imagenet DIR"
            )
        return ClassificationData(ImageNet.without_labels(options.images)).take(options.crops)
    if options.annotations is None:
        raise DataError(
            f"{spec.name} is a {spec.task} model, it is calibrated on persons; give --annotations FILE with "
            "--images DIR, or --coco DIR"
        )
    persons = CocoPersons.load(options.annotations, options.images, limit=options.crops)
    with progress.task(f"reading {len(persons.images)} images"):
        persons.check_images()
    return PoseData(persons)


def _export(job: _Job) -> None:
    def work() -> None:
        first = next(job.data.batches(job.spec, _VERIFIED_CROPS))
        job.source.export(job.path(FLOAT_GRAPH), first.batch, job.progress)

    job.source.fetch(job.progress)
    job.stage("export", job.source.inputs, (FLOAT_GRAPH,), work)


def _quantize(job: _Job) -> None:
    from .calibration.calibrate import quantize

    graph, data, recipe = job.path(FLOAT_GRAPH), job.data, job.options.recipe

    def work() -> None:
        crops = data.batches(job.spec, _BATCH)
        table = quantize(
            graph, crops, job.path(INT8_GRAPH), recipe, data.images_sha256, job.progress, data.count
        )
        table.save(job.path(TABLE))

    inputs = {"graph": sha256_file(graph), "images": data.images_sha256, "recipe": asdict(recipe)}
    job.stage("int8", inputs, (INT8_GRAPH, TABLE), work)


def _measure_layers(job: _Job) -> None:
    """The sensitivity of each layer, as CSV and picture. The calibration is that of the files, so it does not
    matter whether this run made them."""
    from .calibration.reread import read_calibration
    from .calibration.sensitivity import CROPS, measure_sensitivity

    graph, table, int8 = job.path(FLOAT_GRAPH), job.path(TABLE), job.path(INT8_GRAPH)

    def work() -> None:
        crops = job.data.batches(job.spec, _BATCH)
        found = read_calibration(graph, table, int8)
        layers = measure_sensitivity(found, crops, job.spec, job.progress)
        write_layers(layers, job.path(LAYERS))
        write_layer_plot(layers, job.spec.name, job.path(LAYER_PLOT))

    inputs = {
        "graph": sha256_file(graph),
        "table": sha256_file(table),
        "int8": sha256_file(int8),
        "images": job.data.images_sha256,
        "spec": job.spec.to_dict(),
        "crops": CROPS,
    }
    job.stage("sensitivity", inputs, (LAYERS, LAYER_PLOT), work)


def _result(job: _Job) -> CalibratedModel:
    """Read from the files, so that a stage that was kept says what it said when it ran."""
    from .calibration.calibrate import Calibration, equalized_graph
    from .calibration.macs import int8_share
    from .calibration.table import load_table
    from .export.graphs import load_graph

    table, measured = load_table(job.path(TABLE)), job.options.sensitivity
    placement = Calibration(table, equalized_graph(job.path(FLOAT_GRAPH), table)).placement()
    return CalibratedModel(
        job.directory,
        job.options.recipe.described(job.data.described),
        int8_share(load_graph(job.path(INT8_GRAPH))),
        placement.float_layers,
        read_layers(job.path(LAYERS)) if measured else (),
        (FLOAT_GRAPH, INT8_GRAPH, TABLE, *((LAYERS, LAYER_PLOT) if measured else ())),
        (*job.options.graph.lines, *job.data.notes),
    )
