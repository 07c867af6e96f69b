import json
from pathlib import Path

import pytest

from posedge.calibration.table import CalibrationTable, TensorRange, load_table
from posedge.errors import CalibrationError
from posedge.files import sha256_file


@pytest.fixture
def table() -> CalibrationTable:
    return CalibrationTable(
        "0" * 64,
        None,
        "percentile 99.99",
        304,
        {"input": TensorRange(-2.1179039478302, 2.64, 2.64), "relu_1": TensorRange(0.0, 1e-30, 0.1 + 0.2)},
        {"relu_2": "it was zero on every crop"},
        {"input": (2.1, 0.1 + 0.2), "relu_1": (1e-30,)},
        "tensorrt",
        {"conv_1": (-0.1, 0.1 + 0.2)},
    )


def test_a_table_survives_the_file_bit_by_bit(table: CalibrationTable, tmp_path: Path) -> None:
    table.save(tmp_path / "table.json")
    again = load_table(tmp_path / "table.json")
    assert again == table
    assert list(again.tensors) == list(table.tensors)
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "table.json").read_bytes()


def test_a_table_of_another_graph_is_refused(table: CalibrationTable, tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"another graph")
    with pytest.raises(CalibrationError, match=r"model\.onnx: .*belongs to another graph"):
        table.require_graph(graph)
    CalibrationTable(sha256_file(graph), None, "minmax", 1, {}, {}, {}).require_graph(graph)


# how the saved document is changed, what the message must say
DAMAGED = [
    (lambda d: d.update(schema=99), "schema 3 .found 99"),
    (lambda d: d.pop("tensors"), "damaged .*tensors"),
    (lambda d: d.update(tensors=[]), "damaged"),
    (lambda d: d["tensors"].update(input={"amax": 1}), "damaged"),
    (lambda d: d["tensors"]["input"].update(amax=0.0), "'input' .*amax must be positive"),
    (lambda d: d["tensors"]["input"].update(amax=float("nan")), "'input' .*amax must be positive"),
    (lambda d: d["tensors"]["input"].update(amax="2"), "damaged"),
    (lambda d: d["tensors"]["input"].update(scale=2), "damaged"),
    (lambda d: d.update(graph_sha256=7), "damaged"),
    (lambda d: d.update(crops="many"), "damaged"),
    (lambda d: d.update(excluded=3), "damaged"),
    (lambda d: d.pop("target"), "damaged .*target"),
    (lambda d: d.update(bias_corrections={"conv_1": ["0.1a"]}), "damaged"),
    (lambda d: d.update(target="tensorflow"), "unknown target 'tensorflow'; there are tensorrt, "),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGED)
def test_a_damaged_table_is_named(table: CalibrationTable, tmp_path: Path, damage, message: str) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    document = json.loads(path.read_text())
    damage(document)
    path.write_text(json.dumps(document))
    with pytest.raises(CalibrationError, match=message) as caught:
        load_table(path)
    assert "table.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "\x00", "[]", "7"])
def test_what_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=r"table\.json: "):
        load_table(path)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"nothing\.json: .*cannot be read"):
        load_table(tmp_path / "nothing.json")
