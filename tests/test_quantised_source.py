"""A graph that is quantised already is refused when it is opened, by its own name and with nothing left."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from posedge.calibration.calibrate import quantize
from posedge.calibration.recipe import Recipe
from posedge.cli import main
from posedge.errors import GraphError
from posedge.export.source import open_source
from posedge.options import DeployOptions
from posedge.runtime.spec import ModelSpec


@pytest.fixture
def quantised(small_pose: Path, tmp_path: Path) -> Path:
    """``small_pose`` with Q/DQ."""
    crops = np.random.default_rng(0).normal(size=(8, 3, 64, 48)).astype(np.float32)
    path = tmp_path / "by_another_tool.onnx"
    quantize(small_pose, [crops], path, Recipe(equalized=False, rounded=False))
    return path


@pytest.mark.parametrize("command", ["deploy", "calibrate", "export"])
def test_it_is_refused_by_name_and_nothing_is_left(
    quantised: Path, options: DeployOptions, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--images", str(options.data.images), "--annotations", str(options.data.annotations)]
    said = [command, str(quantised), "--spec", str(options.spec), "-o", str(options.output)]
    more = {"deploy": ["--precision", "fp32", *data], "calibrate": data, "export": []}[command]
    assert main([*said, *more]) == 1
    assert f"{quantised}: the graph is quantised already (it holds " in capsys.readouterr().err
    assert not options.output.exists()


@pytest.mark.parametrize(
    ("operator", "body"),
    [
        ("DynamicQuantizeLinear", "q, s, z = DynamicQuantizeLinear(x) y = Cast<to = 1>(q)"),
        ("ConvInteger", "i = Cast<to = 2>(x) q = ConvInteger(i, i) y = Cast<to = 1>(q)"),
    ],
)
def test_other_forms_of_integers_are_seen(
    tmp_path: Path, small_spec: ModelSpec, operator: str, body: str
) -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> net (float[1, 3, 4, 4] x) => (float[a, b, c, d] y)'
    onnx.save(parser.parse_model(f"{text} {{ {body} }}"), tmp_path / "net.onnx")
    (tmp_path / "spec.json").write_text(small_spec.to_json())
    with pytest.raises(GraphError, match=rf"net\.onnx: .*\(it holds {operator}\); give its float32 form"):
        open_source(str(tmp_path / "net.onnx"), None, tmp_path / "spec.json")
