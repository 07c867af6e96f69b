"""The main job: a model becomes engines in a bundle, and the report says what each variant costs and gains.

Five stages in the order in which data flows: export, calibration, engines, benchmarks, and the seal that lets
the runtime trust the result. A stage is skipped when its files are there, made from the same inputs. Read
``deploy`` first.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .benchmarks.engine_here import EngineHere, engine_here
from .benchmarks.measure import Measurement, compare, measure_variant
from .benchmarks.place import device_description, library_versions
from .benchmarks.report.csv_file import write_csv
from .benchmarks.report.plot import write_plot
from .benchmarks.report.receipt import RECEIPT_FILE, read_receipt, receipt_text, write_receipt
from .benchmarks.report.receipt_reader import SCHEMA
from .benchmarks.report.results import BuiltEngine, Interval, Report, VariantReport
from .benchmarks.report.table import show, text
from .benchmarks.self_test import SelfTest
from .benchmarks.speed import NotMeasured
from .benchmarks.tasks import TaskData
from .engine_record import index_entry, receipt_entry
from .engines import available_flavour, build_engine, check_options
from .engines.flavours import installed_version
from .errors import MissingExtraError
from .export.source import Source, modules_needed, open_source
from .extras import LEARNING, MEASURING, SEARCHING, require_all
from .files import directory_lock, remove_leftovers, sha256_file, write_text
from .options import PRECISIONS, REFERENCE, DeployOptions
from .preflight import open_data
from .progress import SILENT, LabelledProgress, Progress
from .runtime.bundle import VariantFiles, seal_bundle
from .runtime.bundle_index import RECEIPT, REPORT, SEARCH, TABLE, build_from_dict, build_to_dict
from .runtime.spec import ModelSpec
from .runtime.target import target_here
from .self_test_job import earlier_self_test
from .stages import StageLog
from .variant_graphs import CALIBRATION_FILE, SEARCH_FILE, VariantGraphs

_VERIFIED_CROPS = 5
_REPORTS = ("report.csv", "report.png", "report.txt")


@dataclass(frozen=True)
class Outcome:
    """A finished bundle and its report."""

    directory: Path
    report: Report

    def show(self) -> None:
        """Print the report and where it is."""
        show(self.report)
        print(f"\nBundle: {self.directory}")
        print(f"Report: {self.directory / RECEIPT_FILE}, with report.txt, .csv and .png beside it")


@dataclass(frozen=True)
class _Job:
    options: DeployOptions
    source: Source
    directory: Path
    stages: StageLog
    data: TaskData
    calibration_data: TaskData | None
    progress: Progress

    @property
    def spec(self) -> ModelSpec:
        return self.source.spec

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(name for name in PRECISIONS if name == REFERENCE or name in self.options.precisions)

    @cached_property
    def graphs(self) -> VariantGraphs:
        options = self.options
        return VariantGraphs(
            self.directory,
            self.graph(REFERENCE),
            self.spec,
            options.recipe,
            self.calibration_data,
            self.data,
            options.flip_test,
            options.max_drop if options.search else None,
            self.stage,
            self.stages,
            self.progress,
        )

    def graph(self, variant: str) -> Path:
        return self.directory / f"{variant}.onnx"

    def stage(
        self, name: str, inputs: Mapping[str, Any], outputs: tuple[str, ...], work: Callable[[], None]
    ) -> None:
        self.stages.run_or_keep(name, inputs, outputs, work, self.progress)


def deploy(options: DeployOptions, progress: Progress = SILENT) -> Outcome:
    """Run the five stages and return the bundle with its report.

    A stage that finished in an earlier run with the same inputs is kept; an interrupted one starts again.
    Raises MissingExtraError before any work when a package is missing, BuildError when the TensorRT that is
    here does not honour an option, and the PosedgeError of the stage that failed; the stages before it are
    kept.
    """
    require_all((*MEASURING, *modules_needed(options.model), *_modules_of_int8(options)))
    check_options(options.build)
    source = open_source(options.model, options.checkpoint, options.spec, options.graph)
    directory = options.output / source.spec.name
    with directory_lock(directory):
        remove_leftovers(directory)
        job = _open_job(options, source, directory, progress)
        _export(job)
        job.graphs.write(job.variants)
        engines = {variant: _build(job, variant) for variant in job.variants}
        measured = [_measure(job, variant, engines[variant]) for variant in job.variants]
        variants = [replace(report, drop_interval=_compare(job, report.name)) for report in measured]
        variants = [replace(report, self_test=_self_test(job, report)) for report in variants]
        report = _report(job, tuple(variants))
        _seal(job, report)
        write_text(options.output / RECEIPT_FILE, receipt_text(report))
        if not job.stages.ran:
            progress.note("nothing has changed since the last run: nothing was built or measured")
    return Outcome(directory, report)


def _modules_of_int8(options: DeployOptions) -> tuple[str, ...]:
    """What INT8 takes besides, where it is among the variants."""
    if "int8" not in options.precisions:
        return ()
    return (*(LEARNING if options.recipe.learned else ()), *(SEARCHING if options.search else ()))


def _open_job(options: DeployOptions, source: Source, directory: Path, progress: Progress) -> _Job:
    """Read all data before any work: a typing mistake should not cost an export."""
    data, calibration_data = open_data(options, source.spec, progress)
    return _Job(options, source, directory, StageLog(directory), data, calibration_data, progress)


def _export(job: _Job) -> None:
    def work() -> None:
        first = next(job.data.batches(job.spec, _VERIFIED_CROPS))
        job.source.export(job.graph(REFERENCE), first.batch, job.progress)

    job.source.fetch(job.progress)
    job.stage("export", job.source.inputs, (job.graph(REFERENCE).name,), work)


def _build(job: _Job, variant: str) -> BuiltEngine | NotMeasured:
    """The variant's engine; where no TensorRT is installed at all, the rest of the job goes on."""
    graph, engine, record = job.graph(variant), f"{variant}.engine", f"measurements/{variant}.engine.json"

    def work() -> None:
        result = build_engine(
            graph,
            job.directory / engine,
            job.options.build,
            time_limit_s=job.options.build_timeout_s,
            memory_limit_bytes=job.options.build_memory_bytes,
            progress=job.progress,
        )
        build = index_entry(result, job.options.build)
        document = {"engine": asdict(receipt_entry(result)), "build": build_to_dict(build)}
        write_text(job.directory / record, json.dumps(document, indent=1))

    inputs: dict[str, Any] = {
        "graph": sha256_file(graph),
        "options": job.options.build.key(),
        "record": 2,  # its form
    }
    try:
        flavour = available_flavour()
    except MissingExtraError as error:
        return NotMeasured(f"no engine was built: {error}")
    library_version = installed_version(flavour)
    inputs["library"] = [flavour.module, library_version]
    if flavour.needs_gpu:  # its engines are for the GPU that built them
        here = target_here(flavour.name, library_version or "")
        inputs["device"] = [list(here.sms), here.gpu]
    job.stage(f"engine {variant}", inputs, (engine, record), work)
    entry = _engine_record(job, variant)["engine"]
    return BuiltEngine(**{**entry, "gpu_layers": tuple(entry["gpu_layers"])})


def _engine_record(job: _Job, variant: str) -> dict[str, Any]:
    text = (job.directory / f"measurements/{variant}.engine.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def _measure(job: _Job, variant: str, engine: BuiltEngine | NotMeasured) -> VariantReport:
    """Accuracy and speed of a variant, kept as a receipt of that variant alone, and what it found.

    They come from the engine where it runs here. Where it does not, the reason is among the inputs: the same
    bundle is measured anew where there is a GPU.
    """
    graph, record, found = job.graph(variant), f"measurements/{variant}.json", _found(variant)
    settings = Measurement(
        job.options.flip_test, job.options.batch_sizes, job.options.threads, job.options.seconds
    )
    running = engine if isinstance(engine, NotMeasured) else _engine_here(job, variant)

    def work() -> None:
        progress = LabelledProgress(variant, job.progress)
        measured = measure_variant(
            variant, graph, job.spec, job.data, engine, running, settings, progress, job.directory / found
        )
        write_receipt(_as_report(job, (measured,)), job.directory / record)

    inputs = {
        "graph": sha256_file(graph),
        "engine": asdict(engine),
        "running": running.key if isinstance(running, EngineHere) else running.reason,
        **job.data.content,
        "settings": asdict(settings),
        "report": _as_report(job, ()).calibration,
        "device": device_description(),
        "versions": library_versions(),
        "receipt": SCHEMA,
    }
    job.stage(f"measure {variant}", inputs, (record, found), work)
    return read_receipt(job.directory / record).variants[0]


def _engine_here(job: _Job, variant: str) -> EngineHere | NotMeasured:
    build = build_from_dict(_engine_record(job, variant)["build"])
    return engine_here(job.directory / f"{variant}.engine", build.target)


def _self_test(job: _Job, variant: VariantReport) -> SelfTest | NotMeasured:
    """That of an earlier bundle, if what it tested is still there."""
    files = [job.graph(variant.name)]
    if isinstance(variant.engine, BuiltEngine):
        files.append(job.directory / f"{variant.name}.engine")
    return earlier_self_test(job.directory, variant.name, files)


def _found(variant: str) -> str:
    return f"measurements/{variant}.npz"


def _compare(job: _Job, variant: str) -> Interval | NotMeasured:
    """The interval of the variant's drop; the same images for both variants, whichever run measured them."""
    if variant == REFERENCE:
        return NotMeasured("drops are counted from this variant")
    reference, found = (job.directory / _found(name) for name in (REFERENCE, variant))
    record = f"measurements/{variant}.interval.json"

    def work() -> None:
        interval = compare(job.data, job.spec, reference, found)
        write_text(job.directory / record, json.dumps(asdict(interval)))

    inputs = {
        "reference": sha256_file(reference),
        "found": sha256_file(found),
        **job.data.content,
        "spec": job.spec.to_dict(),
    }
    job.stage(f"compare {variant}", inputs, (record,), work)
    ends = json.loads((job.directory / record).read_text("utf-8"))
    return NotMeasured(**ends) if "reason" in ends else Interval(**ends)


def _report(job: _Job, variants: tuple[VariantReport, ...]) -> Report:
    report = _as_report(job, variants)

    def work() -> None:
        write_receipt(report, job.directory / RECEIPT_FILE)
        write_csv(report, job.directory / "report.csv")
        write_plot(report, job.directory / "report.png")
        write_text(job.directory / "report.txt", text(report))

    # importing matplotlib takes longer than all the rest of a run in which nothing has changed
    inputs = {"receipt": receipt_text(report), "matplotlib": version("matplotlib")}
    job.stage("report", inputs, (RECEIPT_FILE, *_REPORTS), work)
    return report


def _as_report(job: _Job, variants: tuple[VariantReport, ...]) -> Report:
    options, data = job.options, job.data
    return Report(
        model=job.spec.name,
        spec=job.spec,
        data=data.evaluated(options.flip_test),
        calibration=job.graphs.described() if "int8" in job.variants else "none",
        versions=library_versions(),
        device=device_description(),
        max_drop=options.max_drop,
        variants=variants,
        notes=(
            *options.notes,
            *options.graph.lines,
            *data.notes,
            *(job.graphs.notes(job.variants) if variants else ()),
        ),
        reference=REFERENCE,
    )


def _seal(job: _Job, report: Report) -> None:
    variants, files = {}, {RECEIPT_FILE: RECEIPT, **dict.fromkeys(_REPORTS, REPORT)}
    for variant in report.variants:
        graph = job.graph(variant.name).name
        if isinstance(variant.engine, BuiltEngine):
            build = build_from_dict(_engine_record(job, variant.name)["build"])
            variants[variant.name] = VariantFiles(graph, f"{variant.name}.engine", build)
        else:
            variants[variant.name] = VariantFiles(graph)
    if "int8" in job.variants:
        files[CALIBRATION_FILE] = TABLE
        if job.options.search:
            files[SEARCH_FILE] = SEARCH
    seal_bundle(job.directory, job.spec, variants, report.recommended, files, report.versions)
