"""The report on a terminal: tables of at most 100 columns and remarks below.

With rich the tables have lines and the warnings colour; without it the same cells stand in plain columns.
"""

import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from ..bootstrap import LEVEL, SAMPLES
from ..imagenet import ImageNetFigures
from ..speed import NotMeasured, Speed
from .results import (
    BuiltEngine,
    EvaluatedImages,
    Interval,
    MeasuredAccuracy,
    MeasuredSpeed,
    Report,
    VariantReport,
)

if TYPE_CHECKING:
    from rich.table import Table as RichTable

WIDTH = 100
NOT_MEASURED = "not measured"
_NOTHING = "-"
_MEGA = 1e6
_OTHER_FIGURES = {"pose": ("AP50", "AP75", "AP M", "AP L", "AR"), "classification": ("top-5",)}


@dataclass(frozen=True)
class Table:
    """Cells as texts. The first column is a name and left-aligned, the others are numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(report: Report) -> tuple[Table, ...]:
    """Accuracy, size and speed, as texts."""
    return _accuracy_table(report), _size_table(report), _speed_table(report)


def remarks(report: Report) -> tuple[str, ...]:
    """What stands below the tables: data, places of measurement, what was not measured and why, notes."""
    lines = [
        f"Accuracy: {report.wording.place} figures on {_data_words(report)}. "
        f"A drop is the {report.wording.label} of {report.reference} minus the variant's; "
        f"{report.max_drop:.3f} is accepted.",
        _interval_words(report),
        f"Calibration: {report.calibration}",
        *_places(report),
        *_reasons(report),
        *report.notes,
    ]
    return tuple(line for line in lines if line)


def _interval_words(report: Report) -> str:
    if not any(isinstance(variant.drop_interval, Interval) for variant in report.variants):
        return ""
    return (
        f"Interval of a drop: it holds {100 * LEVEL:.0f} % of the drops on {SAMPLES} samples of the images "
        "(paired bootstrap). These images cannot tell a variant from the reference where it holds 0."
    )


def _data_words(report: Report) -> str:
    data = report.data
    if isinstance(data, EvaluatedImages):
        return f"{data.labels}, {data.images} images"
    flip = "yes" if data.flip_test else "no"
    return (
        f"{data.annotations}, {data.images} images, {data.persons} persons, boxes: {data.boxes}, "
        f"flip test: {flip}"
    )


def text(report: Report) -> str:
    """The report without rich."""
    blocks = [plain(table) for table in tables(report)]
    lines = [*(f"!! {line}" for line in report.warnings), *remarks(report)]
    below = "\n".join(
        textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in lines
    )
    return "\n\n".join([f"{report.model} on {report.device}", *blocks, below]) + "\n"


def show(report: Report, stream: TextIO | None = None) -> None:
    """Print the report, with rich where it is installed and ``stream`` (standard output) is a terminal."""
    stream = stream or sys.stdout
    if stream.isatty():
        try:
            return _show_rich(report, stream)
        except ImportError:
            pass
    print(text(report), file=stream, end="")
    return None


def _accuracy_table(report: Report) -> Table:
    interval = f"{100 * LEVEL:.0f} % interval"
    header = ("variant", report.wording.label, "drop", interval, *_OTHER_FIGURES[report.spec.task])
    rows = ((variant.name, *_accuracy_cells(report, variant)) for variant in report.variants)
    return Table("Accuracy", header, tuple(rows))


def _accuracy_cells(report: Report, variant: VariantReport) -> tuple[str, ...]:
    if isinstance(variant.accuracy, NotMeasured):
        return (_NOTHING,) * (3 + len(_OTHER_FIGURES[report.spec.task]))
    figures, drop = variant.accuracy.figures, report.drop(variant)
    change = _NOTHING
    if isinstance(drop, float) and variant.name != report.reference:
        change = _signed(drop)
    interval = variant.drop_interval
    ends = (
        f"{_signed(interval.low)} to {_signed(interval.high)}" if isinstance(interval, Interval) else _NOTHING
    )
    values: tuple[float | None, ...]
    if isinstance(figures, ImageNetFigures):
        values = (figures.top5,)
    else:
        values = (figures.ap50, figures.ap75, figures.ap_medium, figures.ap_large, figures.ar)
    cells = (_NOTHING if value is None else f"{value:.3f}" for value in values)
    return (f"{variant.accuracy.headline:.3f}", change, ends, *cells)


def _signed(drop: float) -> str:
    return f"{round(drop, 3) + 0.0:+.3f}"  # adding zero turns a rounded -0.0 into 0.0


def _size_table(report: Report) -> Table:
    rows = []
    for variant in report.variants:
        engine, built = variant.engine, (_NOTHING, _NOTHING)
        if isinstance(engine, BuiltEngine):
            built = (f"{engine.engine_bytes / _MEGA:.2f}", f"{engine.build_seconds:.1f}")
        rows.append((variant.name, f"{variant.graph_bytes / _MEGA:.2f}", *built))
    return Table("Size", ("variant", "graph MB", "engine MB", "built in s"), tuple(rows))


def _speed_table(report: Report) -> Table:
    latency, rate = ("p90", "p99"), f"{report.wording.unit}/s"
    header = ("variant", "batch", "p50 ms", *latency, rate, "pipeline p50", *latency, rate)
    rows: list[tuple[str, ...]] = []
    for variant in report.variants:
        rows += _speed_rows(variant.name, variant.session_speed, variant.pipeline_speed)
        if isinstance(variant.engine_speed, MeasuredSpeed):
            no_pipeline = NotMeasured("the pipeline was timed with the session")
            rows += _speed_rows(f"{variant.name} engine", variant.engine_speed, no_pipeline)
    pipeline = f"the pipeline from decoded image to {report.wording.result}"
    return Table(f"Speed of the network alone, and of {pipeline}", header, tuple(rows))


def _speed_rows(
    name: str, session: MeasuredSpeed | NotMeasured, pipeline: MeasuredSpeed | NotMeasured
) -> list[tuple[str, ...]]:
    measured = [speed for speed in (session, pipeline) if isinstance(speed, MeasuredSpeed)]
    batches = sorted({entry.batch for speed in measured for entry in speed.by_batch})
    rows = [(str(batch), *_at(session, batch), *_at(pipeline, batch)) for batch in batches]
    rows = rows or [(_NOTHING, *_at(session, None), *_at(pipeline, None))]
    return [("" if index else name, *row) for index, row in enumerate(rows)]


def _at(speed: MeasuredSpeed | NotMeasured, batch: int | None) -> tuple[str, ...]:
    if isinstance(speed, MeasuredSpeed):
        for entry in speed.by_batch:
            if entry.batch == batch:
                return _speed_cells(entry)
    return (_NOTHING, _NOTHING, _NOTHING, NOT_MEASURED)


def _speed_cells(speed: Speed) -> tuple[str, ...]:
    latency = (speed.latency_ms.p50, speed.latency_ms.p90, speed.latency_ms.p99)
    milliseconds = (_NOTHING if value is None else _short(value) for value in latency)
    return (*milliseconds, _short(speed.persons_per_second))


def _short(value: float) -> str:
    """Four digits at most before and after the point together, which is what such figures are good for."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _places(report: Report) -> list[str]:
    """Where the figures come from, one line a place."""
    kinds = ("accuracy", "session_speed", "pipeline_speed", "engine_speed", "engine")
    places: dict[str, dict[str, list[str]]] = {}
    for variant in report.variants:
        for field in kinds:
            part: MeasuredAccuracy | MeasuredSpeed | BuiltEngine | NotMeasured = getattr(variant, field)
            if isinstance(part, BuiltEngine):
                place = f"Built by {part.flavour} {part.version} on {part.built_on}"
            elif isinstance(part, NotMeasured):
                continue
            else:
                place = f"Measured with {part.measured_on}"
            places.setdefault(place, {}).setdefault(variant.name, []).append(_in_words(field))
    return [f"{place}: {_by_figures(variants)}." for place, variants in places.items()]


def _in_words(field: str) -> str:
    return field.replace("session_speed", "speed").replace("_", " ")


def _by_figures(variants: Mapping[str, Sequence[str]]) -> str:
    """Variants that have the same figures together: "fp32, int8 (accuracy, speed); fp16 (accuracy)"."""
    groups: dict[str, list[str]] = {}
    for name, figures in variants.items():
        groups.setdefault(", ".join(figures), []).append(name)
    return "; ".join(f"{', '.join(names)} ({figures})" for figures, names in groups.items())


def _reasons(report: Report) -> list[str]:
    """What was not measured and why, variants with the same reason on one line."""
    kinds = ("accuracy", "session_speed", "pipeline_speed", "engine_speed", "engine")
    reasons: dict[str, dict[str, list[str]]] = {}
    for variant in report.variants:
        for field in kinds:
            part = getattr(variant, field)
            if isinstance(part, NotMeasured):
                reasons.setdefault(part.reason, {}).setdefault(variant.name, []).append(_in_words(field))
        interval = variant.drop_interval
        # the reference has no drop: nothing is missing there
        with_drop = variant.name != report.reference and isinstance(report.drop(variant), float)
        if with_drop and isinstance(interval, NotMeasured):
            reasons.setdefault(interval.reason, {}).setdefault(variant.name, []).append("drop interval")
    lines = [f"Not measured: {_by_figures(variants)}: {reason}." for reason, variants in reasons.items()]
    if any(_lacks_percentile(variant) for variant in report.variants):
        lines.append("A p90 needs 10 timed calls and a p99 100; with fewer it is not measured.")
    return lines


def _lacks_percentile(variant: VariantReport) -> bool:
    speeds = (variant.session_speed, variant.pipeline_speed, variant.engine_speed)
    entries = [entry for speed in speeds if isinstance(speed, MeasuredSpeed) for entry in speed.by_batch]
    return any(entry.latency_ms.p99 is None for entry in entries)


def plain(table: Table) -> str:
    """The table in plain columns, without a line break at the end."""
    rows = (table.header, *table.rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.header))]
    lines = [_plain_row(row, widths) for row in rows]
    return "\n".join([table.title, lines[0], "-" * len(lines[0]), *lines[1:]])


def _plain_row(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return "  ".join([row[0].ljust(widths[0]), *cells]).rstrip()


def rich_table(table: Table) -> "RichTable":
    """The table as rich draws it. Raises ImportError without rich."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    drawn = RichTable(title=table.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, name in enumerate(table.header):
        drawn.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def _show_rich(report: Report, stream: TextIO) -> None:
    from rich.console import Console

    # not the terminal's own width: in a narrow one rich would cut figures off where lines merely wrap
    console = Console(file=stream, width=WIDTH)
    console.print(f"{report.model} on {report.device}", markup=False, highlight=False)
    for table in tables(report):
        console.print(rich_table(table))
    for line in report.warnings:
        console.print(f"!! {line}", style="bold red", markup=False, highlight=False)
    for line in remarks(report):
        console.print(line, markup=False, highlight=False)
