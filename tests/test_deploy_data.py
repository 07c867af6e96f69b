"""Data that the main job cannot use are refused before it works; what it does not use is not asked for."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from posedge.calibration.datasets import CocoPersons
from posedge.cli import main
from posedge.deploy import deploy
from posedge.errors import DataError
from posedge.options import DeployOptions
from posedge.preflight import open_data
from posedge.progress import SilentProgress, Task
from posedge.runtime.spec import read_spec


class Recorder(SilentProgress):
    """Keeps the names of tasks, and stops the job at the first one that works."""

    def __init__(self) -> None:
        self.tasks: list[str] = []

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Task]:
        self.tasks.append(description)
        if not description.startswith("reading"):
            raise KeyboardInterrupt
        with super().task(description, total) as task:
            yield task


def copied(options: DeployOptions, directory: Path, change: Callable[[dict], None] = lambda document: None):
    """The options with a copy of the measured images and, after ``change``, of their annotations."""
    document = json.loads(options.data.annotations.read_text())
    change(document)
    directory.mkdir()
    shutil.copytree(options.data.images, directory / "images")
    (directory / "val.json").write_text(json.dumps(document))
    data = replace(options.data, annotations=directory / "val.json", images=directory / "images")
    return replace(options, data=replace(data, calibration_images=options.data.images))


def refusal_before_any_work(options: DeployOptions) -> str:
    with pytest.raises(DataError) as refusal:
        deploy(options, Recorder())
    return str(refusal.value)


def test_other_joints_than_the_models_are_refused_before_any_work(
    options: DeployOptions, tmp_path: Path
) -> None:
    def drop_two_joints(document: dict) -> None:
        for category in document["categories"]:
            category["keypoints"] = category["keypoints"][:15]
        for annotation in document["annotations"]:
            annotation["keypoints"] = annotation["keypoints"][:45]

    said = refusal_before_any_work(copied(options, tmp_path / "copy", drop_two_joints))
    assert "15 joints" in said
    assert "finds 17" in said
    assert "num_joints in the spec" in said


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2000]), "cut off"),
        (lambda path: path.write_text("no picture"), "not an image"),
        (lambda path: path.unlink(), "missing"),
    ],
    ids=["empty", "cut off", "text", "missing"],
)
def test_an_unusable_image_is_refused_before_any_work(
    options: DeployOptions, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    changed = copied(options, tmp_path / "copy")
    used = CocoPersons.load(changed.data.annotations, changed.data.images, limit=changed.limit).images
    spoil(used[-1].path)
    said = refusal_before_any_work(changed)
    assert used[-1].path.name in said
    assert message in said


def test_persons_to_calibrate_on_are_read_for_float16_too(options: DeployOptions) -> None:
    spec = read_spec(options.spec)
    found = {
        precision: open_data(replace(options, precisions=(precision,)), spec)[1]
        for precision in ("fp32", "fp16", "int8")
    }
    assert found["fp32"] is None
    assert found["fp16"].count == found["int8"].count == 8
    missing = replace(options.data, calibration_annotations=Path("absent.json"))
    with pytest.raises(DataError, match=r"absent\.json"):
        open_data(replace(options, data=missing, precisions=("fp16",)), spec)


def test_float16_does_without_the_training_part_of_coco(
    options: DeployOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not there, so the command goes on to the next thing that is wrong: the joints."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "person_keypoints_val2017.json").symlink_to(options.data.annotations)
    (root / "val2017").symlink_to(options.data.images)
    options.spec.write_text(replace(read_spec(options.spec), num_joints=5, flip_pairs=()).to_json())
    command = ["deploy", options.model, "--spec", str(options.spec), "--coco", str(root), "--precision"]
    assert main([*command, "fp16"]) == 1
    assert "17 joints" in capsys.readouterr().err
    assert main([*command, "fp16,int8"]) == 1
    assert "person_keypoints_train2017.json" in capsys.readouterr().err


def test_only_the_images_that_are_used_need_be_there(options: DeployOptions, tmp_path: Path) -> None:
    changed = copied(options, tmp_path / "copy")
    used = {
        image.path.name
        for image in CocoPersons.load(
            changed.data.annotations, changed.data.images, limit=changed.limit
        ).images
    }
    for path in changed.data.images.iterdir():
        if path.name not in used:
            path.unlink()
    assert len(list(changed.data.images.iterdir())) == 12
    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt):
        deploy(changed, recorder)
    assert recorder.tasks == ["reading 12 images", "reading 8 images", "prepare small_pose"]
