"""Data that the main job cannot use are refused before it works; what it does not use is not asked for."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from posedge.calibration.datasets import CocoPersons
from posedge.deploy import deploy
from posedge.errors import DataError
from posedge.options import DeployOptions
from posedge.progress import SilentProgress, Task


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
