"""The sensitivity of layers on a terminal, worst first, and as CSV with every layer."""

import csv
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ...files import write_text
from .table import WIDTH, Table, plain, rich_table

if TYPE_CHECKING:
    from ...calibration.sensitivity import LayerSensitivity

COLUMNS = (
    "layer", "operator", "tensor", "macs", "macs_share",
    "outlier_ratio", "error", "shift_p50_px", "shift_p95_px", "error_p90",
)  # fmt: skip

ROWS = 20
_NAME_WIDTH = 34
_NOTHING = "-"


def table(layers: "Sequence[LayerSensitivity]", rows: int = ROWS) -> Table:
    """The ``rows`` layers with the largest error. A share is of the work of all ``layers``."""
    worst = sorted(layers, key=lambda layer: -layer.error)[:rows]
    total = _total(layers)
    title = f"Sensitivity: the {len(worst)} worst of {len(layers)} layers, each alone in INT8"
    header = ("layer", "operator", "MACs", "outliers", "error", "p90", "shift p50 px", "p95")
    return Table(title, header, tuple(_cells(layer, total) for layer in worst))


def text(layers: "Sequence[LayerSensitivity]", rows: int = ROWS) -> str:
    """The table without rich, with a line on what the columns are."""
    return f"{plain(table(layers, rows))}\n\n{_legend(layers)}\n"


def show_layers(layers: "Sequence[LayerSensitivity]", stream: TextIO | None = None, rows: int = ROWS) -> None:
    """Print the table, with rich where it is installed and ``stream`` (standard output) is a terminal."""
    stream = stream or sys.stdout
    if stream.isatty():
        try:
            from rich.console import Console

            console = Console(file=stream, width=WIDTH)
            console.print(rich_table(table(layers, rows)))
            console.print(_legend(layers), markup=False, highlight=False)
            return
        except ImportError:
            pass
    print(text(layers, rows), file=stream, end="")


def csv_text(layers: "Sequence[LayerSensitivity]") -> str:
    """Every layer in the order of the graph as CSV with a header line; an empty cell was not measured."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    total = _total(layers)
    for layer in layers:
        figures = (layer.outlier_ratio, layer.error, layer.shift_p50, layer.shift_p95, layer.error_p90)
        cells = ("" if math.isnan(figure) else repr(figure) for figure in figures)
        writer.writerow(
            (layer.node, layer.operator, layer.tensor, layer.macs, repr(layer.macs / total), *cells)
        )
    return stream.getvalue()


def write_layers(layers: "Sequence[LayerSensitivity]", path: Path) -> None:
    """Write the CSV atomically. Raises OutputError."""
    write_text(path, csv_text(layers))


def read_layers(path: Path) -> "tuple[LayerSensitivity, ...]":
    """What ``write_layers`` wrote, to the last digit."""
    from ...calibration.sensitivity import LayerSensitivity

    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return tuple(
        LayerSensitivity(
            row["layer"],
            row["operator"],
            row["tensor"],
            int(row["macs"]),
            *(float(row[column] or "nan") for column in COLUMNS[5:]),
        )
        for row in rows
    )


def _cells(layer: "LayerSensitivity", total: int) -> tuple[str, ...]:
    shifts = (
        _NOTHING if math.isnan(shift) else f"{shift:.2f}" for shift in (layer.shift_p50, layer.shift_p95)
    )
    share = f"{100 * layer.macs / total:.1f} %" if layer.macs else _NOTHING
    return (
        shortened(layer.node, _NAME_WIDTH),
        layer.operator,
        share,
        f"{layer.outlier_ratio:.1f}",
        f"{layer.error:.1e}",
        f"{layer.error_p90:.1e}",
        *shifts,
    )


def shortened(name: str, width: int) -> str:
    """``name`` in at most ``width`` characters: the ends of a path tell more than its middle."""
    if len(name) <= width:
        return name
    head = (width - 1) // 3
    return f"{name[:head]}…{name[head + 1 - width :]}"


def _legend(layers: "Sequence[LayerSensitivity]") -> str:
    lines = [
        "MACs: share of the multiply-accumulates of the layers measured. outliers: largest channel of what",
        "the layer reads over the median one. error: energy of the outputs' change over that of the outputs,",
        "of the median crop; nine crops of ten stay below p90.",
    ]
    if any(not math.isnan(layer.shift_p50) for layer in layers):
        lines.append("shift: how far joints move, in pixels of the network's input.")
    return "\n".join(lines)


def _total(layers: "Sequence[LayerSensitivity]") -> int:
    """Of the multiply-accumulates; at least 1, to divide by."""
    return max(1, sum(layer.macs for layer in layers))
