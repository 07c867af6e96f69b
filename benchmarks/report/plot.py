"""report.png: AP against throughput.

A variant that was not timed stands in a column of its own at the side, at its AP and at no throughput.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import require
from ...files import replacing
from ..speed import NotMeasured
from .results import EvaluatedImages, MeasuredAccuracy, MeasuredSpeed, Report, VariantReport

PLOT_FILE = "report.png"

_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")
_MARK_PX = 16
_LABEL_STEP_PX = 17
_FARTHEST_STEP = 12
_BEHIND_TEXT = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
_SMALLEST_AP_SPAN = 0.02  # so that differences of a thousandth do not look like cliffs
_NOTE_WIDTH = 130  # characters of the small print that fit the figure's width
_DPI = 120


@dataclass(frozen=True)
class _Point:
    """Where a variant stands; the pipeline's throughput, where it was timed, has a mark of its own."""

    x: float
    y: float
    label: str
    colour: str
    pipeline_x: float | None = None


def write_plot(report: Report, path: Path) -> None:
    """Draw the report as PNG, atomically. Raises OutputError, and MissingExtraError without matplotlib."""
    require("matplotlib", "bench")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # a figure of its own, not pyplot's: no global state, and no display is looked for
    figure = Figure(figsize=(9, 5.8), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    _draw(figure, canvas, report)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _draw(figure: Any, canvas: Any, report: Report) -> None:
    timed, aside = _points(report.variants, report.wording.label)
    grid = figure.add_gridspec(
        1, 2 if aside else 1, width_ratios=(4, 1.25) if aside else (1,), wspace=0.04,
        left=0.09, right=0.97, top=0.86, bottom=0.23,
    )  # fmt: skip
    main = figure.add_subplot(grid[0, 0])
    _style_main(main, report, timed)
    _set_ap_range(main, [point.y for point in (*timed, *aside)])
    axes = [(main, timed)]
    if aside:
        side = figure.add_subplot(grid[0, 1], sharey=main)
        _style_side(side)
        axes.append((side, aside))
    canvas.draw()  # places the axes, so that pixels are known
    for axis, points in axes:
        for point in points:
            _mark(axis, point)
        _label(axis, canvas, points)
    _captions(figure, report)


def _points(variants: Sequence[VariantReport], figure: str) -> tuple[list[_Point], list[_Point]]:
    """The variants whose accuracy was measured: those that were timed, and those that were not."""
    timed, aside = [], []
    for index, variant in enumerate(variants):
        if isinstance(variant.accuracy, NotMeasured):
            continue
        ap, colour = variant.accuracy.headline, _COLOURS[index % len(_COLOURS)]
        label = f"{variant.name}: {figure} {ap:.3f}"
        if isinstance(variant.session_speed, NotMeasured):
            aside.append(_Point(0.5, ap, label, colour))
            continue
        speed, pipeline = variant.session_speed.fastest, variant.pipeline_speed
        label += f", {speed.persons_per_second:.0f}/s at batch {speed.batch}"
        hollow = pipeline.fastest.persons_per_second if isinstance(pipeline, MeasuredSpeed) else None
        timed.append(_Point(speed.persons_per_second, ap, label, colour, hollow))
    return timed, aside


def _mark(axis: Any, point: _Point) -> None:
    axis.plot(point.x, point.y, "o", color=point.colour, markersize=9, zorder=3)
    if point.pipeline_x is not None:
        axis.plot(
            (point.pipeline_x, point.x), (point.y, point.y), "-", color=point.colour, linewidth=1, zorder=1
        )
        axis.plot(point.pipeline_x, point.y, "o", color=point.colour, markersize=9, mfc="white", zorder=2)


def _style_main(axis: Any, report: Report, points: Sequence[_Point]) -> None:
    words, data = report.wording, report.data
    source = data.labels if isinstance(data, EvaluatedImages) else data.annotations
    axis.set_xlabel(
        f"{words.unit} per second   (● network alone   ○ pipeline from decoded image to {words.result})"
    )
    axis.set_ylabel(f"{words.place} {words.label} on {source}")
    axis.grid(True, color="#dddddd", linewidth=0.6)
    rates = [rate for point in points for rate in (point.x, point.pipeline_x) if rate is not None]
    # from zero, so that twice as far right is twice as fast
    axis.set_xlim(0, 1.15 * max(rates, default=1.0))
    if not rates:
        axis.set_xticks([])
        axis.text(0.5, 0.5, "no variant was timed", transform=axis.transAxes, ha="center", color="#666666")


def _style_side(axis: Any) -> None:
    axis.set_xlim(0, 1)
    axis.set_xticks([])
    axis.set_xlabel("not timed")
    axis.tick_params(labelleft=False)
    axis.set_facecolor("#f4f4f4")
    axis.grid(True, axis="y", color="#dddddd", linewidth=0.6)


def _set_ap_range(axis: Any, values: Sequence[float]) -> None:
    if not values:
        axis.set_yticks([])
        return
    axis.locator_params(axis="y", steps=(1, 2, 5, 10))
    low, high = min(values), max(values)
    margin = max(0.15 * (high - low), (_SMALLEST_AP_SPAN - (high - low)) / 2, 0.005)
    axis.set_ylim(low - margin, high + margin)


def _label(axis: Any, canvas: Any, points: Sequence[_Point]) -> None:
    """Write each label as near to its point as no mark, line or other label is in the way."""
    occupied = [_extent(axis, point) for point in points]
    frame = axis.get_window_extent()
    for point in points:
        x, _ = axis.transData.transform((point.x, point.y))
        position = (x - frame.x0) / frame.width
        text = axis.annotate(
            point.label, (point.x, point.y), textcoords="offset points", xytext=(0, 0),
            ha="left" if position < 0.25 else "right" if position > 0.75 else "center", va="center",
            fontsize=9, color=point.colour, zorder=4, bbox=_BEHIND_TEXT,
        )  # fmt: skip
        for step in range(2, 2 * _FARTHEST_STEP):
            # above, below, farther above, farther below
            offset = _LABEL_STEP_PX * (step // 2) * (1 if step % 2 == 0 else -1)
            text.set_position((0, offset * 72 / _DPI))
            box = text.get_window_extent(canvas.get_renderer())
            inside = frame.y0 < box.y0 and box.y1 < frame.y1
            if inside and not any(box.overlaps(other) for other in occupied):
                break
        occupied.append(box)
        if abs(offset) > _LABEL_STEP_PX:
            line = {"arrowstyle": "-", "color": point.colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0}
            end = (0, text.get_position()[1])
            axis.annotate("", (point.x, point.y), end, textcoords="offset points", arrowprops=line, zorder=1)


def _extent(axis: Any, point: _Point) -> Any:
    """The pixels that a point's marks and the line between them cover."""
    from matplotlib.transforms import Bbox

    other = point.x if point.pipeline_x is None else point.pipeline_x
    ends = axis.transData.transform([(point.x, point.y), (other, point.y)])
    return Bbox([ends.min(axis=0), ends.max(axis=0)]).padded(_MARK_PX / 2)


def _captions(figure: Any, report: Report) -> None:
    figure.suptitle(report.model, x=0.085, y=0.975, ha="left", fontsize=13)
    places = {
        variant.session_speed.measured_on
        for variant in report.variants
        if isinstance(variant.session_speed, MeasuredSpeed)
    }
    where = "; ".join(sorted(places)) or report.device
    figure.text(0.085, 0.895, f"timed with {where}", fontsize=8, color="#444444")
    red = list(report.warnings)
    unknown = [variant.name for variant in report.variants if isinstance(variant.accuracy, NotMeasured)]
    if unknown:
        red.append(f"{report.wording.label} not measured: {', '.join(unknown)}")
    # a picture travels without its table: what must be known of its figures stands in it
    grey = [line for note in report.notes for line in textwrap.wrap(note, _NOTE_WIDTH)]
    grey += [
        f"{variant.name}: {report.wording.label} with {variant.accuracy.measured_on}"
        for variant in report.variants
        if isinstance(variant.accuracy, MeasuredAccuracy) and variant.accuracy.measured_on not in places
    ]
    y = 0.115
    for colour, lines in (("#b00000", red), ("#444444", grey)):
        for line in lines:
            figure.text(0.085, y, line, fontsize=8, color=colour, va="top")
            y -= 0.028
