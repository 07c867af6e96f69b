"""ImageNet folders in both layouts, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from posedge.calibration.imagenet import ImageNet, image_batches
from posedge.errors import DataError
from posedge.runtime.classify import ImagePreprocessor
from posedge.runtime.images import write_png
from posedge.runtime.spec import ModelSpec

SPEC = ModelSpec("c", task="classification", input_wh=(8, 8), resize_short=8, num_classes=3)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three classes of four images; the grey level of an image is 50 * class + number."""
    for label, synset in enumerate(("n01", "n02", "n10")):
        for number in range(4):
            path = tmp_path / "val" / synset / f"{synset}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, np.full((9, 12, 3), 50 * label + number, np.uint8))
    (tmp_path / "val" / "n01" / "notes.txt").write_text("no image")
    (tmp_path / "val" / ".cache").mkdir()
    return tmp_path / "val"


@pytest.fixture
def flat(folders: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A flat folder and its label file, in another order."""
    directory = tmp_path / "flat"
    directory.mkdir()
    lines = []
    for label, synset in enumerate(("n01", "n02", "n10")):
        for path in sorted((folders / synset).glob("*.png"), reverse=True):
            path.rename(directory / path.name)
            lines.append(f"{path.name} {label}")
    (tmp_path / "val.txt").write_text("\n".join(reversed(lines)) + "\n\n")
    return directory, tmp_path / "val.txt"


def test_synset_folders_are_classes_in_sorted_order(folders: Path) -> None:
    dataset = ImageNet.load(folders, num_classes=3)
    assert [image.label for image in dataset.images] == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.images[4].path.name == "n02_0.png"


def test_a_flat_folder_has_the_labels_of_its_list(flat: tuple[Path, Path]) -> None:
    dataset = ImageNet.load(flat[0], 3, flat[1])
    assert [image.label for image in dataset.images] == [2] * 4 + [1] * 4 + [0] * 4
    assert all(image.path.name.startswith(("n01", "n02", "n10")[image.label]) for image in dataset.images)


def test_names_and_labels_stand_apart_by_any_blanks(flat: tuple[Path, Path]) -> None:
    directory, labels = flat
    (directory / "n01_0.png").rename(directory / "a b.png")
    labels.write_text("n02_1.png\t1\n  a b.png   0  \n")
    dataset = ImageNet.load(directory, 3, labels)
    assert [(image.path.name, image.label) for image in dataset.images] == [("n02_1.png", 1), ("a b.png", 0)]


def test_images_to_calibrate_on_need_no_labels(folders: Path) -> None:
    for directory, count in ((folders, 12), (folders / "n02", 4)):
        dataset = ImageNet.without_labels(directory)
        assert [image.label for image in dataset.images] == [-1] * count
    with pytest.raises(DataError, match="no images"):
        ImageNet.without_labels(folders / ".cache")


@pytest.mark.parametrize("size", [1, 5, 100])
def test_batches_have_every_image_once_with_its_label(folders: Path, size: int) -> None:
    dataset = ImageNet.load(folders, 3)
    parts = list(image_batches(dataset, ImagePreprocessor(SPEC), size))
    assert [len(part.labels) for part in parts[:-1]] == [size] * (len(parts) - 1)
    labels = np.concatenate([part.labels for part in parts])
    pixels = np.concatenate([part.batch for part in parts]).mean(axis=(2, 3))[:, 0]
    grey = pixels * SPEC.std[0] + SPEC.mean[0]
    np.testing.assert_allclose(grey, 50 * labels + np.tile(np.arange(4), 3), atol=1e-3)
    assert sum((part.names for part in parts), ())[5] == "n02_1.png"


def test_taking_some_is_even_and_the_hash_tells_datasets_apart(folders: Path) -> None:
    dataset = ImageNet.load(folders, 3)
    few = dataset.take(3)
    assert [image.label for image in few.images] == [0, 1, 2]
    assert dataset.take(100) is dataset
    before = dataset.image_list_sha256
    assert ImageNet.load(folders, 3).image_list_sha256 == before != few.image_list_sha256
    write_png(dataset.images[0].path, np.full((9, 12, 3), 77, np.uint8))
    assert ImageNet.load(folders, 3).image_list_sha256 != before
    with pytest.raises(DataError, match="positive"):
        dataset.take(0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("n01_0.png", "line 13: 'n01_0.png'"),
        ("n01_0.png x", "no image name and class index"),
        ("n01_0.png -1", "no image name"),
        ("n01_0.png 3", "class 3 of a model that has 0 to 2"),
        ("gone.png 1", "1 of the 13 images .*gone.png"),
        ("../val.txt 1", "outside"),
    ],
)
def test_bad_lines_are_named(flat: tuple[Path, Path], line: str, message: str) -> None:
    directory, labels = flat
    labels.write_text(labels.read_text().strip() + f"\n{line}\n")
    with pytest.raises(DataError, match=message):
        ImageNet.load(directory, 3, labels)


def test_bad_folders_are_named(folders: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (empty / "n01").mkdir(parents=True)
    for directory, labels, classes, message in (
        (tmp_path / "absent", None, 3, "does not exist"),
        (folders / "n01", None, 3, "no synset folders.*--imagenet-labels"),
        (folders, None, 1000, "3 folders and the model 1000 classes"),
        (empty, None, 1, "no images"),
        (folders, tmp_path / "absent.txt", 3, "cannot be read"),
        (folders, folders / "n01" / "n01_0.png", 3, "not text"),
    ):
        with pytest.raises(DataError, match=message):
            ImageNet.load(directory, classes, labels)


def test_an_unreadable_image_is_named(folders: Path) -> None:
    (folders / "n02" / "n02_1.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"n02_1\.png"):
        list(image_batches(ImageNet.load(folders, 3), ImagePreprocessor(SPEC), 4))
