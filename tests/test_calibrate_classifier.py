"""`posedge calibrate` with a classifier: any images do, and no joints move."""

import csv
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from posedge.cli import main
from posedge.runtime.images import write_png
from posedge.runtime.spec import ModelSpec


@pytest.fixture
def classifier(tmp_path: Path) -> list[str]:
    """The command for a small classifier, without data; imagenet/ with two pictures is beside it."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[n, 3, 32, 32] input) => (float[n, 4] logits)'
        "{ a = Conv <strides = [2, 2]> (input, w) r = Relu(a) p = GlobalAveragePool(r) f = Flatten(p)"
        " logits = Gemm(f, v) }"
    )
    rng = np.random.default_rng(0)
    for name, shape in {"w": (8, 3, 3, 3), "v": (8, 4)}.items():
        value = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    onnx.save(model, tmp_path / "net.onnx")
    spec = ModelSpec("net", "classification", (32, 32), num_classes=4, resize_short=36, output_name="logits")
    (tmp_path / "net.json").write_text(spec.to_json())
    for number in range(2):
        picture = rng.integers(0, 256, (48, 40, 3)).astype(np.uint8)
        folder = tmp_path / "imagenet" / "train" / f"n{number}"
        folder.mkdir(parents=True)
        write_png(folder / "picture.png", picture)
    command = ["calibrate", str(tmp_path / "net.onnx"), "--spec", str(tmp_path / "net.json")]
    return [*command, "-o", str(tmp_path / "out")]


def test_a_classifier_takes_imagenet_or_any_folder(
    classifier: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*classifier, "--imagenet", str(tmp_path / "imagenet"), "--sensitivity"]) == 0
    said = capsys.readouterr().out
    assert "2 images from imagenet/train" in said
    with (tmp_path / "out" / "net" / "sensitivity.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["operator"], row["shift_p50_px"]) for row in rows] == [("Conv", ""), ("Gemm", "")]
    assert "shift: how far" not in said
    assert main([*classifier, "--images", str(tmp_path / "imagenet" / "train" / "n0")]) == 0
    assert "1 images from train/n0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (["--images", "imagenet", "--annotations", "a.json"], "give --images DIR without annotations"),
        (["--coco", "imagenet"], "is a classification model"),
        (["--imagenet", "imagenet/train"], "no folder train/"),
        (["--images", "absent"], "does not exist"),
    ],
)
def test_data_that_a_classifier_cannot_use(
    classifier: list[str], tmp_path: Path, data: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    placed = [part if part.startswith("--") else str(tmp_path / part) for part in data]
    assert main([*classifier, *placed]) == 1
    assert said in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.onnx"))
