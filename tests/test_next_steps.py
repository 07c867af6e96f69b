"""A refusal says what to do next, not only what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posedge.cli import main
from posedge.runtime.spec import ModelSpec

Spoil = Callable[[Path], None]


@pytest.fixture
def folder(small_pose: Path, small_spec: ModelSpec, tmp_path: Path) -> Path:
    """model.onnx with spec.json, one person in val.json, images/ without the image."""
    (tmp_path / "model.onnx").write_bytes(small_pose.read_bytes())
    (tmp_path / "spec.json").write_text(small_spec.to_json())
    (tmp_path / "images").mkdir()
    write_annotations(tmp_path)
    return tmp_path


def write_annotations(folder: Path, annotations: list[object] | None = None, **changes: object) -> None:
    person = {"id": 1, "image_id": 1, "bbox": [1, 1, 20, 20], "keypoints": [5, 5, 2] * 17, **changes}
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 40}],
        "annotations": [person] if annotations is None else annotations,
    }
    (folder / "val.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("spoil", "problem", "next_step"),
    [
        (lambda f: (f / "model.onnx").unlink(), "no such ONNX file", "Check the path"),
        (lambda f: (f / "model.onnx").write_text("text"), "is not ONNX", "Export or copy it again"),
        (lambda f: (f / "val.json").unlink(), "cannot be read", "Check the path"),
        (lambda f: (f / "val.json").write_text(""), "the file is empty", "Fetch it again"),
        (lambda f: write_annotations(f, []), "nobody to find", "Give a file with annotated persons"),
        (lambda f: write_annotations(f, iscrowd=1), "no person", "Give a file with persons"),
        (lambda f: write_annotations(f, bbox=[1, 1, 1e30, 1]), "finite number", "Correct the record"),
        (lambda f: write_annotations(f, bbox=[1]), "four numbers", "Correct the record"),
        (lambda f: write_annotations(f, id="x"), "whole number", "Correct the record"),
        (lambda f: (f / "images").rmdir(), "does not exist", "Give the directory that holds the images"),
        (lambda f: None, "missing: a.jpg", "Fetch them, or give the directory"),
        (lambda f: (f / "images" / "a.jpg").write_text("text"), "not an image", "Fetch it again or leave"),
    ],
)
def test_deploy_says_what_to_do(
    folder: Path, spoil: Spoil, problem: str, next_step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(folder)
    command = [
        "deploy",
        str(folder / "model.onnx"),
        "--spec",
        str(folder / "spec.json"),
        "--precision",
        "fp32",
    ]
    command += ["--images", str(folder / "images"), "--annotations", str(folder / "val.json")]
    assert main([*command, "-o", str(folder / "out")]) == 1
    said = capsys.readouterr().err
    assert problem in said
    assert next_step in said
    assert "none of its 0" not in said


def test_a_directory_is_no_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["deploy", "rsn_18_256x192", "--checkpoint", str(folder), "--coco", str(folder)]
    assert main(command) == 1
    assert "this is a directory. Give the checkpoint file" in capsys.readouterr().err
