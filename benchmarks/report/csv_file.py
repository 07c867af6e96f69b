"""report.csv: one row for each variant and batch size, for spreadsheets. An empty cell was not measured."""

import csv
import io
from dataclasses import asdict, fields
from pathlib import Path

from ...files import write_text
from ..coco import CocoFigures
from ..imagenet import ImageNetFigures
from ..speed import NotMeasured, Speed
from .results import WORDINGS, BuiltEngine, Interval, MeasuredAccuracy, MeasuredSpeed, Report, VariantReport

CSV_FILE = "report.csv"

_SPEEDS = ("session", "pipeline", "engine")
_FIGURES = {"pose": CocoFigures, "classification": ImageNetFigures}
_SIZES = ("graph_bytes", "engine_bytes")
_DROPS = ("drop", "drop_low", "drop_high")
_BUILDS = ("engine_build_seconds", "engine_flavour", "engine_version", "engine_built_on")


def columns(task: str) -> tuple[str, ...]:
    """The header of the table of a model of this task."""
    return (
        *("model", "variant", "batch"),
        *(field.name for field in fields(_FIGURES[task])),
        *(f"{WORDINGS[task].key}_{column}" for column in _DROPS),
        "accuracy_measured_on",
        *(*_SIZES, *_BUILDS),
        *(f"{speed}_{column}" for speed in _SPEEDS for column in _speed_columns(WORDINGS[task].unit)),
    )


def _speed_columns(unit: str) -> tuple[str, ...]:
    return ("p50_ms", "p90_ms", "p99_ms", f"{unit}_per_second", "samples", "measured_on")


COLUMNS = columns("pose")

_Cells = dict[str, str | int | float | None]


def csv_text(report: Report) -> str:
    """The table as CSV with a header line; a variant that was not timed has one row without a batch."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns(report.spec.task), restval="", lineterminator="\n")
    writer.writeheader()
    for variant in report.variants:
        for batch in _batches(variant):
            writer.writerow(_row(report, variant, batch))
    return stream.getvalue()


def write_csv(report: Report, path: Path) -> None:
    """Write the table atomically. Raises OutputError."""
    write_text(path, csv_text(report))


def _batches(variant: VariantReport) -> list[int | None]:
    speeds = (variant.session_speed, variant.pipeline_speed, variant.engine_speed)
    sizes = {entry.batch for speed in speeds if isinstance(speed, MeasuredSpeed) for entry in speed.by_batch}
    return [*sorted(sizes)] or [None]


def _row(report: Report, variant: VariantReport, batch: int | None) -> _Cells:
    cells: _Cells = {"model": report.model, "variant": variant.name, "batch": batch}
    cells["graph_bytes"] = variant.graph_bytes
    if isinstance(variant.accuracy, MeasuredAccuracy):
        cells.update(asdict(variant.accuracy.figures))
        cells["accuracy_measured_on"] = variant.accuracy.measured_on
    drop, interval = report.drop(variant), variant.drop_interval
    cells[f"{report.wording.key}_drop"] = None if isinstance(drop, NotMeasured) else drop
    if isinstance(interval, Interval):
        cells[f"{report.wording.key}_drop_low"] = interval.low
        cells[f"{report.wording.key}_drop_high"] = interval.high
    if isinstance(variant.engine, BuiltEngine):
        cells.update(
            engine_bytes=variant.engine.engine_bytes,
            engine_build_seconds=variant.engine.build_seconds,
            engine_flavour=variant.engine.flavour,
            engine_version=variant.engine.version,
            engine_built_on=variant.engine.built_on,
        )
    for name in _SPEEDS:
        speed = getattr(variant, f"{name}_speed")
        if isinstance(speed, MeasuredSpeed):
            for entry in speed.by_batch:
                if entry.batch == batch:
                    cells.update(_speed_cells(name, entry, speed.measured_on, report.wording.unit))
    return cells


def _speed_cells(name: str, speed: Speed, measured_on: str, unit: str) -> _Cells:
    latency = speed.latency_ms
    values = (latency.p50, latency.p90, latency.p99, speed.persons_per_second, speed.samples, measured_on)
    return {f"{name}_{column}": value for column, value in zip(_speed_columns(unit), values, strict=True)}
