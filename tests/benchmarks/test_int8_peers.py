"""The comparison of INT8 calibrators: what counts as INT8, and a run over a small network."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from posedge.benchmarks.int8_peers import main
from posedge.calibration.macs import int8_share
from posedge.runtime.spec import ModelSpec


def graph(body: str) -> onnx.ModelProto:
    """Two convolutions on 8 x 8 pixels: 4 to 4 channels of 3x3, and 4 to 2 of 1x1."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[n, 4, 8, 8] x) => (float[n, 2, 8, 8] y)'
        f"{{ {body} }}"
    )
    constants = {
        "w": np.ones((4, 4, 3, 3), np.float32),
        "v": np.ones((2, 4, 1, 1), np.float32),
        "wq": np.ones((4, 4, 3, 3), np.int8),
        "s": np.array(0.1, np.float32),
        "z": np.array(0, np.int8),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return model


ALL = 64 * (4 * 4 * 9 + 2 * 4)
FIRST = 64 * 4 * 4 * 9

# body, multiply-accumulates in INT8
GRAPHS = [
    ("a = Conv<pads = [1, 1, 1, 1]>(x, w) y = Conv(a, v)", 0),
    (
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) e = DequantizeLinear(wq, s, z) "
        "a = Conv<pads = [1, 1, 1, 1]>(d, e) y = Conv(a, v)",
        FIRST,
    ),
    # INT8 weights alone are a smaller file and no INT8 arithmetic
    ("e = DequantizeLinear(wq, s, z) a = Conv<pads = [1, 1, 1, 1]>(x, e) y = Conv(a, v)", 0),
    (
        "q = QuantizeLinear(x, s, z) a = QLinearConv<pads = [1, 1, 1, 1]>(q, s, z, wq, s, z, s, z) "
        "d = DequantizeLinear(a, s, z) y = Conv(d, v)",
        FIRST,
    ),
]


@pytest.mark.parametrize(("body", "macs"), GRAPHS)
def test_int8_is_counted_in_multiply_accumulates(body: str, macs: int) -> None:
    assert int8_share(graph(body)) == pytest.approx(macs / ALL)


def test_a_graph_without_convolutions_has_no_share() -> None:
    assert int8_share(graph("p = Relu(x) y, r = Split<axis = 1>(p)")) == 0


def test_peers_are_measured_on_the_same_data(
    coco: Path,
    small_pose: Path,
    small_spec: ModelSpec,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "spec.json").write_text(small_spec.to_json())
    arguments = ["--model", str(small_pose), "--spec", str(tmp_path / "spec.json")]
    arguments += ["--images", str(coco / "images"), "--annotations", str(coco / "val.json")]
    arguments += ["--calibration-annotations", str(coco / "train.json"), "--persons", "6", "--crops", "8"]
    peers = ["--recipes", "default", "--peers", "onnxruntime-minmax", "modelopt-max"]
    assert main([*arguments, *peers, "-o", str(tmp_path / "peers.json")]) == 0
    document = json.loads((tmp_path / "peers.json").read_text())
    assert document["data"] == "6 persons, calibrated on 8 crops"
    rows = {row["name"]: row for row in document["rows"]}
    assert list(rows) == ["float32", "posedge", "onnxruntime MinMax", "ModelOpt max"]
    assert (rows["float32"]["drop"], rows["float32"]["int8_share"]) == (0, 0)
    for name in ("posedge", "onnxruntime MinMax"):
        assert rows[name]["int8_share"] == 1
        assert rows[name]["drop"] == rows["float32"]["ap"] - rows[name]["ap"]
        assert rows[name]["seconds"] > 0
        assert rows[name]["peak_bytes"] > 50 << 20
    if find_spec("modelopt") is None:
        assert rows["ModelOpt max"] == {**dict.fromkeys(rows["posedge"]), "name": "ModelOpt max"} | {
            "note": "not installed"
        }
    said = capsys.readouterr().out
    assert all(name in said for name in rows)
    assert main([*arguments, "--memory-limit", "0.02"]) == 0
    assert "float32" in capsys.readouterr().out.splitlines()[-1]
    arguments[1] = "none.onnx"
    assert main(arguments) == 1
    assert "none.onnx" in capsys.readouterr().err
