"""ImageNet folders: the images that a classifier is calibrated with and measured on.

Two layouts. Synset folders: one folder a class (``n01440764`` and so on), and the index of a class is its
place in the sorted order of the names. A flat folder with a text file beside it that has a line
``NAME.JPEG LABEL`` for each image, as the validation list usually comes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files import sha256_file
from ..runtime.classify import ImagePreprocessor
from ..runtime.images import read_image

_SUFFIXES = frozenset((".jpeg", ".jpg", ".png", ".bmp", ".webp"))
_NAMED_MISSING = 3
_FEWEST_TO_HALVE = 4


@dataclass(frozen=True)
class LabelledImage:
    """An image file and the index of its class."""

    path: Path
    label: int


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """One batch of images as a classifier is fed; every field has N entries.

    batch: float32 (N, 3, H, W). labels: class indices. names: for messages.
    """

    batch: NDArray[np.float32]
    labels: NDArray[np.intp]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ImageNet:
    """Labelled images.

    images: in the order of the label file, or class by class and sorted by name.
    source: the label file, or the folder of the synset folders.
    """

    images: tuple[LabelledImage, ...]
    source: Path

    @classmethod
    def load(cls, directory: Path, num_classes: int, labels: Path | None = None) -> "ImageNet":
        """Read synset folders below ``directory``, or a flat ``directory`` with the text file ``labels``.

        num_classes: those of the model.

        Raises DataError when something is missing, empty or malformed (naming the line), for a label that
        the model does not have, and when there are not as many synset folders as classes.
        """
        folders = _folders(directory)
        if labels is not None:
            images, source = _from_list(directory, labels, num_classes), labels
        else:
            _check_folders(directory, folders, num_classes)
            images, source = _from_folders(folders), directory
        return cls(_some(images, source), source)

    @classmethod
    def without_labels(cls, directory: Path) -> "ImageNet":
        """All images of a folder, or of the folders in it, for calibration: labels are -1.

        Raises DataError when the folder is missing or has no images.
        """
        folders = _folders(directory)
        images = tuple(replace(image, label=-1) for image in _from_folders(folders or (directory,)))
        return cls(_some(images, directory), directory)

    @cached_property
    def image_list_sha256(self) -> str:
        """SHA-256 over each image's name, label and content, in order. It reads every image file once."""
        digest = sha256()
        for image in self.images:
            digest.update(f"{image.path.name} {image.label} {sha256_file(image.path)}\n".encode())
        return digest.hexdigest()

    def take(self, limit: int) -> "ImageNet":
        """At most ``limit`` images, evenly spread, the same ones each time. Raises DataError below one."""
        if limit < 1:
            raise DataError(f"at most {limit} images were asked for; the number must be positive")
        total = len(self.images)
        if total <= limit:
            return self
        return replace(self, images=tuple(self.images[i * total // limit] for i in range(limit)))

    def halves(self) -> tuple["ImageNet", "ImageNet"]:
        """Every other image from the first on, and those between. Raises DataError for fewer than 4."""
        if len(self.images) < _FEWEST_TO_HALVE:
            raise DataError(
                f"{self.source}: {len(self.images)} images are too few to search on one half and confirm on "
                f"the other; give {_FEWEST_TO_HALVE} at least"
            )
        return replace(self, images=self.images[::2]), replace(self, images=self.images[1::2])


def image_batches(dataset: ImageNet, preprocess: ImagePreprocessor, batch: int) -> Iterator[ImageBatch]:
    """Yield the dataset's images, ``batch`` at a time (the last may be smaller).

    Raises DataError naming the image when one is unreadable.
    """
    if batch < 1:
        raise DataError(f"a batch of {batch} was asked for; the size must be positive")
    return (
        ImageBatch(
            preprocess([read_image(image.path) for image in part]),
            np.array([image.label for image in part], np.intp),
            tuple(image.path.name for image in part),
        )
        for part in (dataset.images[i : i + batch] for i in range(0, len(dataset.images), batch))
    )


def class_folders(directory: Path) -> tuple[Path, ...]:
    """The folders in ``directory``, one a class, in the order of their classes."""
    return tuple(
        sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    )


def _folders(directory: Path) -> tuple[Path, ...]:
    if not directory.is_dir():
        raise DataError(f"{directory}: the image directory does not exist")
    return class_folders(directory)


def _some(images: tuple[LabelledImage, ...], source: Path) -> tuple[LabelledImage, ...]:
    if not images:
        raise DataError(f"{source}: no images in it")
    return images


def _check_folders(directory: Path, folders: Sequence[Path], num_classes: int) -> None:
    if not folders:
        raise DataError(
            f"{directory}: no synset folders in it; a flat folder of images needs the text file with a line "
            "NAME LABEL for each (--imagenet-labels)"
        )
    if len(folders) != num_classes:
        raise DataError(
            f"{directory}: it has {len(folders)} folders and the model {num_classes} classes; the index of a "
            "class is the place of its folder among all, so none may be missing"
        )


def _from_folders(folders: Sequence[Path]) -> tuple[LabelledImage, ...]:
    return tuple(
        LabelledImage(path, label)
        for label, folder in enumerate(folders)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in _SUFFIXES
    )


def _from_list(directory: Path, labels: Path, num_classes: int) -> tuple[LabelledImage, ...]:
    try:
        lines = labels.read_text("utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{labels}: the label file cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{labels}: the label file is not text") from error
    images = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            name, label = _entry(line, f"{labels}, line {number}", num_classes)
            images.append(LabelledImage(directory / name, label))
    missing = [image.path.name for image in images if not image.path.is_file()]
    if missing:
        named = ", ".join(missing[:_NAMED_MISSING]) + (", ..." if len(missing) > _NAMED_MISSING else "")
        raise DataError(
            f"{directory}: {len(missing)} of the {len(images)} images that {labels} lists "
            f"are missing: {named}"
        )
    return tuple(images)


def _entry(line: str, where: str, num_classes: int) -> tuple[str, int]:
    name, *rest = line.strip().rsplit(None, 1)
    label = "".join(rest)
    if not label.isascii() or not label.isdigit():
        raise DataError(f"{where}: {line!r:.60} is no image name and class index, such as 'NAME.JPEG 65'")
    if int(label) >= num_classes:
        raise DataError(f"{where}: class {label} of a model that has 0 to {num_classes - 1}")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"{where}: {name!r} lies outside the image directory")
    return name, int(label)
