"""report.csv: one row for each variant and batch size, for spreadsheets. An empty cell was not measured."""

import csv
import io
from dataclasses import asdict, fields
from pathlib import Path

from ...files import write_text
from ..coco import CocoFigures
from ..speed import NotMeasured, Speed
from .results import BuiltEngine, MeasuredAccuracy, MeasuredSpeed, Report, VariantReport

CSV_FILE = "report.csv"

_SPEED_COLUMNS = ("p50_ms", "p90_ms", "p99_ms", "persons_per_second", "samples", "measured_on")
_SPEEDS = ("session", "pipeline", "engine")

COLUMNS = (
    "model",
    "variant",
    "batch",
    *(field.name for field in fields(CocoFigures)),
    "ap_drop",
    "accuracy_measured_on",
    "graph_bytes",
    "engine_bytes",
    "engine_build_seconds",
    "engine_flavour",
    "engine_version",
    "engine_built_on",
    *(f"{speed}_{column}" for speed in _SPEEDS for column in _SPEED_COLUMNS),
)

_Cells = dict[str, str | int | float | None]


def csv_text(report: Report) -> str:
    """The table as CSV with a header line; a variant that was not timed has one row without a batch."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
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
    drop = report.ap_drop(variant)
    cells["ap_drop"] = None if isinstance(drop, NotMeasured) else drop
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
                    cells.update(_speed_cells(name, entry, speed.measured_on))
    return cells


def _speed_cells(name: str, speed: Speed, measured_on: str) -> _Cells:
    latency = speed.latency_ms
    values = (latency.p50, latency.p90, latency.p99, speed.persons_per_second, speed.samples, measured_on)
    return {f"{name}_{column}": value for column, value in zip(_SPEED_COLUMNS, values, strict=True)}
