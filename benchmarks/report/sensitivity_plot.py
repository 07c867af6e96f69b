"""sensitivity.png: how much of the error goes with how much of the work, if layers are left in float.

Layers are taken in the order of their error per multiply-accumulate, so the curve shows the best that can be
had for each share of the work: where it rises steeply, few layers do the harm. Errors of layers that are each
alone in INT8 do not add up exactly; the sum stands for what they do together.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import require
from ...files import replacing
from .sensitivity import shortened

if TYPE_CHECKING:
    from ...calibration.sensitivity import LayerSensitivity

LABELS = 5

_LINE, _POINT, _GREY = "#1f77b4", "#d62728", "#444444"
_NAME_WIDTH = 40
_DPI = 120

# places of the names, in per cent as the axes have them; a letter is about one wide
_BELOW, _BESIDE, _STEP, _END = 4, 4, 6, 99


def curve(layers: "Sequence[LayerSensitivity]") -> "list[tuple[LayerSensitivity, float, float]]":
    """Each layer with the shares of the work and of the error, 0 to 1, of all layers up to it.

    Layers without work, such as the shortcuts of Adds, come first: to leave them in float costs none. Where
    no layer makes an error, or none has work, the share is 0.
    """
    ordered = sorted(layers, key=_order)
    work = max(sum(layer.macs for layer in layers), 1)
    error = sum(layer.error for layer in layers) or math.inf
    points, macs, errors = [], 0, 0.0
    for layer in ordered:
        macs, errors = macs + layer.macs, errors + layer.error
        points.append((layer, macs / work, min(errors / error, 1.0)))
    return points


def write_layer_plot(layers: "Sequence[LayerSensitivity]", model: str, path: Path) -> None:
    """Draw the curve of one model's layers as PNG, atomically.

    Raises OutputError, and MissingExtraError without matplotlib.
    """
    require("matplotlib", "bench")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.4), dpi=_DPI)
    FigureCanvasAgg(figure)
    _draw(figure, layers, model)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _draw(figure: Any, layers: "Sequence[LayerSensitivity]", model: str) -> None:
    axis = figure.add_axes((0.09, 0.13, 0.87, 0.72))
    points = curve(layers)
    axis.plot(
        [0.0, *(100 * work for _, work, _ in points)],
        [0.0, *(100 * error for _, _, error in points)],
        "-", color=_LINE, linewidth=1.5, marker=".", markersize=4, zorder=2,
    )  # fmt: skip
    axis.plot((0, 100), (0, 100), "--", color="#bbbbbb", linewidth=0.8, zorder=1)
    axis.set_xlim(-1, 101)
    axis.set_ylim(-2, 104)
    axis.set_xlabel("share of the multiply-accumulates, %")
    axis.set_ylabel("share of the summed error, %")
    axis.grid(True, color="#dddddd", linewidth=0.6)
    figure.suptitle(f"{model}: sensitivity of layers to INT8", x=0.085, y=0.975, ha="left", fontsize=13)
    figure.text(
        0.085, 0.885, f"{len(layers)} layers, each alone in INT8, by their error per multiply-accumulate; "
        "dashed: all alike", fontsize=8, color=_GREY,
    )  # fmt: skip
    total = sum(layer.error for layer in layers)
    if total:
        _name_worst(axis, points, total)
    else:
        axis.text(50, 50, "no layer changes the outputs", ha="center", color=_GREY)


def _name_worst(axis: Any, points: "list[tuple[LayerSensitivity, float, float]]", total: float) -> None:
    """Mark the layers with the largest errors. Their names stand below the curve, which is never hollow."""
    worst = sorted(points, key=lambda point: -point[0].error)[:LABELS]
    named = sorted((point for point in worst if point[0].error), key=lambda point: -point[2])
    above, works = 100.0, [0.0, *(100 * work for _, work, _ in points)]
    errors = [0.0, *(100 * error for _, _, error in points)]
    for left, (layer, work, error) in zip(range(len(named), 0, -1), named, strict=True):
        x, y = 100 * work, 100 * error
        name = f"{shortened(layer.node, _NAME_WIDTH)} ({layer.operator}): {100 * layer.error / total:.1f} %"
        start = min(x + _BESIDE, _END - len(name))
        # the curve rises: a name is below it where its first letter is. Room is left for those that follow
        below = min(y, float(np.interp(start, works, errors))) - _BELOW
        above = max(min(below, above - _STEP), _STEP * left)
        axis.plot(x, y, "o", color=_POINT, markersize=6, zorder=3)
        axis.annotate(
            name, (x, y), xytext=(start, above), ha="left", va="center", fontsize=9, color=_POINT, zorder=4,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
            arrowprops={"arrowstyle": "-", "color": _POINT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip


def _order(layer: "LayerSensitivity") -> tuple[float, float]:
    ratio = layer.error / layer.macs if layer.macs else math.inf
    return -ratio, -layer.error
