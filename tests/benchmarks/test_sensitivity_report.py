"""The sensitivity of layers as table, CSV and picture."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from posedge.benchmarks.report.sensitivity import (
    COLUMNS,
    csv_text,
    read_layers,
    show_layers,
    table,
    text,
    write_layers,
)
from posedge.benchmarks.report.sensitivity_plot import curve, write_layer_plot
from posedge.calibration.sensitivity import LayerSensitivity
from posedge.errors import OutputError
from posedge.runtime.images import read_image

NAN = float("nan")
LAYERS = (
    LayerSensitivity("stem", "Conv", "input", 600, 1.5, 1e-3, 0.25, 4.0, 2e-3),
    LayerSensitivity("sum", "Add", "relu", 0, 3.0, 2e-3, 0.0, 1.0, 2e-3),
    LayerSensitivity(
        "stage1/unit0/bottleneck/branch2/conv1/output", "Conv", "a,b", 100, 80.0, 7e-3, 0.5, 9.0, 3e-2
    ),
    LayerSensitivity("head", "Conv", "last", 300, 1.0, 0.0, 0.0, 0.0, 0.0),
)
CLASSIFIER = (LayerSensitivity("fc", "Gemm", "pooled", 8, 2.0, 0.5, NAN, NAN, 0.6),)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_worst_comes_first() -> None:
    found = table(LAYERS)
    assert [row[0] for row in found.rows][1:] == ["sum", "stem", "head"]
    assert found.rows[0][1:] == ("Conv", "10.0 %", "80.0", "7.0e-03", "3.0e-02", "0.50", "9.00")
    assert found.rows[1][2] == "-", "an Add has no multiply-accumulates"
    assert [row[0] for row in table(LAYERS, rows=2).rows] == [found.rows[0][0], "sum"]
    assert "2 worst of 4 layers" in table(LAYERS, rows=2).title


def test_a_long_name_keeps_its_ends_and_the_table_its_width() -> None:
    name = table(LAYERS).rows[0][0]
    assert name.startswith("stage1/")
    assert "…" in name
    assert name.endswith("/conv1/output")
    assert max(map(len, text(LAYERS * 30).splitlines())) <= 100


def test_no_more_than_twenty_rows_by_default() -> None:
    assert len(table(LAYERS * 10).rows) == 20


def test_a_classifier_has_no_shifts() -> None:
    assert table(CLASSIFIER).rows[0][-2:] == ("-", "-")
    assert "joints" not in text(CLASSIFIER)
    assert "joints" in text(LAYERS)


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_what_is_shown_has_every_figure(stream: type[io.StringIO]) -> None:
    said = stream()
    show_layers(LAYERS, said)
    for word in ("stem", "sum", "7.0e-03", "80.0", "60.0 %", "shift p50 px"):
        assert word in said.getvalue()


@pytest.mark.parametrize("layers", [LAYERS, CLASSIFIER, ()])
def test_the_csv_has_every_layer_in_order_and_is_read_back_exactly(
    layers: tuple[LayerSensitivity, ...], tmp_path: Path
) -> None:
    write_layers(layers, tmp_path / "sensitivity.csv")
    with (tmp_path / "sensitivity.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert tuple(rows[0]) == COLUMNS
    assert [row[0] for row in rows[1:]] == [layer.node for layer in layers]
    found = read_layers(tmp_path / "sensitivity.csv")
    assert repr(found) == repr(layers)  # NaN is not equal to itself


def test_what_was_not_measured_is_an_empty_cell_and_shares_sum_to_one() -> None:
    (row,) = csv.DictReader(io.StringIO(csv_text(CLASSIFIER)))
    assert row["shift_p50_px"] == row["shift_p95_px"] == ""
    rows = list(csv.DictReader(io.StringIO(csv_text(LAYERS))))
    assert sum(float(row["macs_share"]) for row in rows) == pytest.approx(1)


def test_the_curve_takes_layers_by_their_error_per_work() -> None:
    points = curve(LAYERS)
    assert [layer.node.split("/")[0] for layer, _, _ in points] == ["sum", "stage1", "stem", "head"]
    assert [work for _, work, _ in points] == pytest.approx([0, 0.1, 0.7, 1])
    assert [error for _, _, error in points] == pytest.approx([0.2, 0.9, 1, 1])


def test_a_curve_without_errors_or_work_is_flat() -> None:
    silent = tuple(LayerSensitivity(f"c{i}", "Conv", "x", 0, 1.0, 0.0, 0.0, 0.0, 0.0) for i in range(3))
    assert [(work, error) for _, work, error in curve(silent)] == [(0, 0)] * 3
    assert curve(()) == []


@pytest.mark.parametrize("layers", [LAYERS, LAYERS * 20, CLASSIFIER, LAYERS[-1:], ()])
def test_every_set_of_layers_can_be_drawn(layers: tuple[LayerSensitivity, ...], tmp_path: Path) -> None:
    write_layer_plot(layers, "net", tmp_path / "a.png")
    drawn = read_image(tmp_path / "a.png")
    assert drawn.shape == (648, 1080, 3)
    assert (drawn != 255).any()
    write_layer_plot(layers, "net", tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_largest_are_named_in_the_picture(tmp_path: Path) -> None:
    def red(layers: tuple[LayerSensitivity, ...]) -> int:
        write_layer_plot(layers, "net", tmp_path / "plot.png")
        blue, green, red = np.moveaxis(read_image(tmp_path / "plot.png").astype(int), -1, 0)
        return int(((red > 180) & (green < 90) & (blue < 90)).sum())

    assert red(LAYERS[-1:]) == 0  # no error, nobody to name
    assert red(LAYERS) > red(LAYERS[:1]) > 0


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write in (
        lambda path: write_layers(LAYERS, path),
        lambda path: write_layer_plot(LAYERS, "net", path),
    ):
        with pytest.raises(OutputError, match="cannot be written"):
            write(tmp_path / "file" / "result")
