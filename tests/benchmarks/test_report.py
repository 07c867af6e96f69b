"""One report in its four forms: what was measured is in each, what was not is never a number."""

import copy
import csv
import io
import json
import re
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posedge.benchmarks.coco import CocoFigures
from posedge.benchmarks.report.csv_file import COLUMNS, csv_text, write_csv
from posedge.benchmarks.report.plot import write_plot
from posedge.benchmarks.report.receipt import read_receipt, receipt_text, write_receipt
from posedge.benchmarks.report.results import (
    BuiltEngine,
    EvaluatedData,
    Interval,
    MeasuredAccuracy,
    MeasuredSpeed,
    Report,
    VariantReport,
)
from posedge.benchmarks.report.table import WIDTH, remarks, show, tables, text
from posedge.benchmarks.self_test import SelfTest
from posedge.benchmarks.speed import NotMeasured, Percentiles, Speed
from posedge.errors import BundleError, OutputError
from posedge.runtime.images import read_image
from posedge.runtime.spec import ModelSpec

ROOT = Path(__file__).resolve().parent.parent.parent
DEVICE = "Intel(R) Xeon(R) Processor @ 2.90GHz, 2 cores"
PLACE = f"onnxruntime 1.31.1 on {DEVICE}"
NO_GPU = NotMeasured("a TensorRT-RTX engine needs an NVIDIA RTX GPU to run, and this machine has none")
SIMULATED = NotMeasured("its number type is simulated on this processor, so its speed here means nothing")


def accuracy(ap: float) -> MeasuredAccuracy:
    return MeasuredAccuracy(CocoFigures(ap, 0.895, 0.773, None, 0.7, 0.706, 0.9, 0.8, None, 0.72), PLACE)


def speed(factor: float) -> MeasuredSpeed:
    one = Speed(1, Percentiles(8.1 * factor, 8.9 * factor, 11.2 * factor), 118 / factor, 370)
    eight = Speed(8, Percentiles(61.2 * factor, 66.25 * factor, None), 131 / factor, 49)
    return MeasuredSpeed((eight, one), PLACE)


def engine(size: int) -> BuiltEngine:
    return BuiltEngine(size, 1.3, "tensorrt_rtx", "1.7.1.116", "linux x86_64", ("relu0",))


FP32 = VariantReport("fp32", 5346388, accuracy(0.673), engine(6100000), speed(1), speed(1.1), NO_GPU)
FP16 = VariantReport(
    "fp16",
    2746388,
    accuracy(0.6728),
    engine(3100000),
    SIMULATED,
    SIMULATED,
    NO_GPU,
    Interval(-0.0012, 0.0021),
)
TESTED = SelfTest("ab" * 32, 4, 0.0, 2e-7, None, 0.05, (8.25, 8.5, 9.0), PLACE)
INT8 = VariantReport(
    "int8",
    1946388,
    accuracy(0.011),
    engine(2100000),
    speed(0.7),
    speed(0.8),
    NO_GPU,
    Interval(0.631, 0.69),
    TESTED,
    0.835,
)
UNKNOWN = NotMeasured("the run was told to skip it")
NOTHING = VariantReport("mixed", 1, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
REPORT = Report(
    "pp_tinypose_256x192",
    ModelSpec("pp_tinypose_256x192"),
    EvaluatedData("val.json", 145, 420, "ground truth", False),
    "128 crops of train.json, percentile 99.99",
    {"posedge": "0.1.0", "onnxruntime": "1.31.1"},
    DEVICE,
    0.01,
    (FP32, FP16, INT8),
    ("The pictures are drawn, not photographed.",),
)
ALL = replace(REPORT, variants=(FP32, FP16, INT8, NOTHING))
ONE = replace(REPORT, variants=(FP32,), notes=())
REPORTS = pytest.mark.parametrize("report", [REPORT, ALL, ONE], ids=["typical", "gaps", "one"])


def test_drops_and_warnings() -> None:
    assert [REPORT.drop(variant) for variant in REPORT.variants] == pytest.approx([0, 0.0002, 0.662])
    assert REPORT.warnings == ("INT8 COLLAPSED: AP 0.011 of 0.673, a drop of 0.662 where 0.010 is accepted",)
    worse = replace(REPORT, variants=(FP32, replace(INT8, accuracy=accuracy(0.65))))
    assert worse.warnings == ("INT8 OVER BUDGET: AP 0.650 of 0.673, a drop of 0.023 where 0.010 is accepted",)
    assert replace(worse, max_drop=0.03).warnings == ()


def test_without_a_reference_there_is_no_drop_and_no_warning() -> None:
    alone = replace(REPORT, variants=(INT8,))
    assert isinstance(alone.drop(INT8), NotMeasured)
    assert alone.warnings == ()
    assert ALL.drop(NOTHING) == UNKNOWN


def test_speed_headlines() -> None:
    measured = speed(1)
    assert [entry.batch for entry in measured.by_batch] == [1, 8]
    assert (measured.smallest.batch, measured.fastest.batch) == (1, 8)


# receipt


@REPORTS
def test_a_receipt_reads_back_as_the_same_report(report: Report, tmp_path: Path) -> None:
    write_receipt(report, tmp_path / "receipt.json")
    assert read_receipt(tmp_path / "receipt.json") == report


def test_the_receipt_has_what_programs_look_for() -> None:
    variants = json.loads(receipt_text(ALL))["variants"]
    assert list(variants) == ["fp32", "fp16", "int8", "mixed"]
    int8, fp16, mixed = variants["int8"], variants["fp16"], variants["mixed"]
    assert int8["ap"] == 0.011
    assert int8["ap_drop"] == pytest.approx(0.662)
    assert int8["ap_drop_interval"] == [0.631, 0.69]
    assert variants["fp32"]["ap_drop_interval"] is None
    assert (int8["int8_share"], variants["fp32"]["int8_share"]) == (0.835, 0)
    assert int8["persons_per_second"] == pytest.approx(131 / 0.7)
    assert int8["latency_ms"]["p50"] == pytest.approx(8.1 * 0.7)
    assert int8["engine_bytes"] == 2100000
    assert int8["measured_on"]["persons_per_second"] == PLACE
    assert int8["not_measured"]["speed.session.1.latency_ms.p99"].startswith("too few samples (49)")
    assert fp16["ap"] == 0.6728
    assert fp16["persons_per_second"] is fp16["latency_ms"] is fp16["speed"]["session"] is None
    assert "simulated" in fp16["not_measured"]["persons_per_second"]
    assert mixed["not_measured"]["ap_drop_interval"] == "it was compared with no other variant"
    for key in ("ap", "ap_drop", "persons_per_second", "latency_ms", "engine_bytes", "figures", "engine"):
        assert mixed[key] is None
        assert mixed["not_measured"][key] == UNKNOWN.reason
    assert mixed["measured_on"] == {}


def nulls(value: Any, path: str = "") -> list[str]:
    if value is None:
        return [path]
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [found for key, child in children for found in nulls(child, f"{path}.{key}".lstrip("."))]


@REPORTS
def test_every_null_has_its_reason(report: Report) -> None:
    for variant in json.loads(receipt_text(report))["variants"].values():
        assert set(nulls(variant)) - {"latency_ms.p99"} <= set(variant["not_measured"])


def test_the_receipt_is_the_same_text_for_the_same_report() -> None:
    shuffled = replace(REPORT, versions=dict(reversed(list(REPORT.versions.items()))))
    assert receipt_text(REPORT) == receipt_text(shuffled)


def test_every_key_of_the_receipt_is_documented() -> None:
    document = json.loads(receipt_text(REPORT))
    described = (ROOT / "docs" / "receipt.md").read_text()
    variant = document["variants"]["int8"]
    entry = variant["speed"]["session"][0]
    keys = [
        *document,
        *document["data"],
        *variant,
        *variant["figures"],
        *variant["engine"],
        *variant["self_test"],
        *variant["speed"],
        *entry,
    ]
    assert [key for key in keys if f"`{key}`" not in described] == []
    assert [key for key in variant["measured_on"] if f"`{key}`" not in described] == []


def spoil(path: str, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(json.loads(receipt_text(REPORT)))
    at = document
    *parents, last = path.split("/")
    for key in parents:
        at = at[int(key)] if isinstance(at, list) else at[key]
    if value is ...:
        del at[last]
    else:
        at[int(last) if isinstance(at, list) else last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", 3, "schema 3, this posedge reads 4; .* measure again"),
        ("schema", 5, "schema 5"),
        ("variants/int8/ap_drop_interval", ..., "'ap_drop_interval' is missing"),
        ("variants/int8/ap_drop_interval", [0.6], "two numbers, low and high"),
        ("variants/int8/ap_drop_interval", [0.6, "0.7"], "ap_drop_interval should be float"),
        ("variants/int8/ap_drop_interval", [0.7, 0.6], "begin with its lower end"),
        ("variants/int8/ap_drop_interval", None, "'ap_drop_interval' is missing"),
        ("model", ..., "'model' is missing"),
        ("spec/codec", "other", "codec"),
        ("data/images", "145", "images should be int"),
        ("data/flip_test", 1, "flip_test should be bool"),
        ("versions/posedge", 1, "posedge should be str"),
        ("variants", [], "variants should be dict"),
        ("variants/int8/ap", "0.011", "ap is '0.011' but"),
        ("variants/int8/int8_share", ..., "'int8_share' is missing"),
        ("variants/int8/int8_share", 83.5, "int8_share should be from 0 to 1, not 83.5"),
        ("variants/int8/graph_bytes", True, "graph_bytes should be int"),
        ("variants/int8/figures/ap50", None, "ap50 should be float"),
        ("variants/int8/speed/session", [], "empty list"),
        ("variants/int8/speed/session/0/batch", ..., "'batch' is missing"),
        ("variants/int8/speed/session/0", 7, "entry should be dict"),
        ("variants/int8/measured_on/ap", ..., "'ap' is missing"),
        ("variants/fp16/not_measured/speed.session", ..., "'speed.session' is missing"),
        ("notes", [1], "notes should be a list of texts"),
        ("warnings", [], "warnings is .* figures give"),
        ("variants/int8/figures/ap", 0.67, "int8: ap is 0.011 but"),
        ("variants/int8/ap", 0.67, "int8: ap is 0.67 but"),
        ("variants/int8/persons_per_second", 1e9, "persons_per_second is 1000000000.0 but"),
        ("variants/int8/surplus", 1, "surplus is 1 but"),
        ("variants/int8/self_test", ..., "'self_test' is missing"),
        ("variants/int8/self_test/batch", "4", "batch should be int"),
        ("variants/int8/self_test/latency_ms", ["8"], "latency_ms should be float"),
        ("variants/int8/self_test/passed", True, "passed is True but"),
        ("variants/fp32/not_measured/self_test", ..., "'self_test' is missing"),
    ],
)
def test_a_spoilt_receipt_is_refused(path: str, value: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(spoil(path, value)))
    with pytest.raises(BundleError, match=message) as caught:
        read_receipt(file)
    assert str(file) in str(caught.value)


def test_a_receipt_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    with pytest.raises(BundleError, match="cannot be read"):
        read_receipt(file)
    for content in ("", "{", "[]", '{"schema": 1, "max_drop": NaN}'):
        file.write_text(content)
        with pytest.raises(BundleError, match=r"receipt\.json"):
            read_receipt(file)


# CSV


@REPORTS
def test_csv_has_a_row_for_each_variant_and_batch(report: Report, tmp_path: Path) -> None:
    write_csv(report, tmp_path / "report.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text())))
    expected = []
    for variant in report.variants:
        timed = isinstance(variant.session_speed, MeasuredSpeed)
        expected += [(variant.name, batch) for batch in (("1", "8") if timed else ("",))]
    assert [(row["variant"], row["batch"]) for row in rows] == expected
    assert all(tuple(row) == COLUMNS for row in rows)


def test_csv_cells() -> None:
    rows = {(row["variant"], row["batch"]): row for row in csv.DictReader(io.StringIO(csv_text(ALL)))}
    assert float(rows["int8", "8"]["ap_drop"]) == pytest.approx(0.662)
    assert (rows["int8", "8"]["ap_drop_low"], rows["int8", "8"]["ap_drop_high"]) == ("0.631", "0.69")
    assert rows["fp32", "1"]["ap_drop_low"] == rows["fp32", "1"]["ap_drop_high"] == ""
    assert float(rows["int8", "8"]["session_persons_per_second"]) == pytest.approx(131 / 0.7)
    assert rows["int8", "8"]["session_p99_ms"] == ""
    assert float(rows["int8", "1"]["pipeline_p99_ms"]) == pytest.approx(11.2 * 0.8)
    assert rows["fp16", ""]["session_persons_per_second"] == ""
    assert rows["fp16", ""]["engine_bytes"] == "3100000"
    assert set(rows["mixed", ""].values()) == {"pp_tinypose_256x192", "mixed", "1", ""}
    assert {field.name for field in fields(CocoFigures)} <= set(COLUMNS)


# table


@REPORTS
def test_the_table_fits_a_hundred_columns(report: Report) -> None:
    assert max(map(len, text(report).splitlines())) <= WIDTH


def test_the_table_says_what_was_not_measured_and_shouts_about_a_collapse() -> None:
    shown = text(ALL)
    assert "!! INT8 COLLAPSED: AP 0.011 of 0.673" in shown
    fp16 = [line for line in shown.splitlines() if line.startswith("fp16")]
    assert "0.673" in fp16[0]
    assert "+0.000  -0.001 to +0.002" in fp16[0]
    assert fp16[2].count("not measured") == 2
    assert not any(character.isdigit() for character in fp16[2].removeprefix("fp16"))
    joined = " ".join(shown.split())
    assert f"fp16 (speed, pipeline speed): {SIMULATED.reason}." in joined
    assert f"fp32, fp16, int8 (engine speed): {NO_GPU.reason}." in joined
    assert f"Measured with {PLACE}" in joined
    assert "a p99 100" in joined
    assert "95 % of the drops on 1000 samples" in joined
    assert "The pictures are drawn, not photographed." in joined


def test_a_drop_that_rounds_to_nothing_has_no_minus() -> None:
    better = replace(FP16, accuracy=accuracy(0.6732))
    figures, _, _ = tables(replace(REPORT, variants=(FP32, better)))
    assert figures.rows[1][2] == "+0.000"


def test_an_engine_that_was_timed_has_rows_of_its_own() -> None:
    timed = replace(REPORT, variants=(replace(FP32, engine_speed=speed(0.1)),))
    _, _, speeds = tables(timed)
    assert [row[0] for row in speeds.rows] == ["fp32", "", "fp32 engine", ""]
    assert speeds.rows[2][5] == "1180"


def test_a_reference_has_no_drop_and_a_batch_that_one_part_lacks_is_not_measured() -> None:
    one_size = MeasuredSpeed((speed(1).by_batch[0],), PLACE)
    figures, _, speeds = tables(replace(REPORT, variants=(replace(FP32, pipeline_speed=one_size),)))
    assert figures.rows[0][:4] == ("fp32", "0.673", "-", "-")
    assert speeds.rows[1][1] == "8"
    assert speeds.rows[1][-1] == "not measured"


def test_a_drop_without_an_interval_says_why_and_a_reference_needs_none() -> None:
    one_image = NotMeasured("an interval over images needs two images at least")
    shown = replace(REPORT, variants=(FP32, replace(INT8, drop_interval=one_image)))
    assert tables(shown)[0].rows[1][2:4] == ("+0.662", "-")
    assert f"Not measured: int8 (drop interval): {one_image.reason}." in remarks(shown)
    assert not any("samples of the images" in line for line in remarks(shown))
    assert not any("drop interval" in line for line in remarks(REPORT))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@REPORTS
def test_rich_shows_the_same_cells(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    show(report, stream)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert max(map(len, shown.splitlines())) <= WIDTH
    words = set(shown.split())
    for table in tables(report):
        assert table.title in " ".join(shown.split())
        for row in (table.header, *table.rows):
            assert set(" ".join(row).split()) <= words
    for line in (*report.warnings, *remarks(report)):
        assert line in " ".join(shown.split())


def test_plain_text_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    show(REPORT, stream)
    assert stream.getvalue() == text(REPORT)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    terminal = Terminal()
    show(REPORT, terminal)
    assert terminal.getvalue() == text(REPORT)


# plot


@REPORTS
def test_the_plot_is_a_picture_with_every_variant_in_its_colour(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.png"
    write_plot(report, path)
    image = read_image(path)
    assert image.shape == (696, 1080, 3)
    colours = np.unique(image.astype(int) @ [1, 256, 65536])  # BGR
    drawn = (0x1F77B4, 0xFF7F0E, 0x2CA02C)
    known = [variant for variant in report.variants if isinstance(variant.accuracy, MeasuredAccuracy)]
    assert [colour in colours for colour in drawn] == [index < len(known) for index in range(3)]


def test_a_variant_without_a_time_stands_at_the_side(tmp_path: Path) -> None:
    write_plot(replace(REPORT, variants=(FP32, FP16)), tmp_path / "report.png")
    image = read_image(tmp_path / "report.png")
    columns = np.flatnonzero((image == (0x0E, 0x7F, 0xFF)).all(axis=-1).any(axis=0))
    assert columns.min() > 0.75 * image.shape[1]


def test_a_plot_of_nothing_says_so(tmp_path: Path) -> None:
    write_plot(replace(REPORT, variants=(NOTHING,)), tmp_path / "report.png")
    assert read_image(tmp_path / "report.png").std() > 0


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_plot(REPORT, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "report.png").mkdir()
    for write in (write_receipt, write_csv, write_plot):
        with pytest.raises(OutputError, match=r"report\.png"):
            write(REPORT, tmp_path / "report.png")
