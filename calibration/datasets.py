"""Person crops from COCO-format files: what calibration observes and what benchmarks evaluate.

Images are read one at a time and crops are made by the deployed preprocessing, so what is calibrated and
measured is what ships.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files import sha256_bytes
from ..runtime.images import read_image, read_image_bytes
from ..runtime.preprocess import Preprocessor
from .annotations import Annotations, LeftOut, Person, read_annotations, read_detections

GROUND_TRUTH = "gt"

_NAMED_MISSING = 3
_FEWEST_TO_HALVE = 4


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """An image file with the persons to estimate in it, in the order of the annotation file."""

    id: int
    path: Path
    width: int
    height: int
    persons: tuple[Person, ...]


@dataclass(frozen=True, eq=False)
class PersonCrops:
    """One batch of crops with the persons they show; every field has N entries.

    batch: float32 (N, 3, H, W), what the network is fed.
    centre, scale: float32 (N, 2), centre and size in pixels of the padded boxes, as ``Crops`` has them.
    names: such as "000000000036.jpg, annotation 1210718": for messages.
    """

    batch: NDArray[np.float32]
    centre: NDArray[np.float32]
    scale: NDArray[np.float32]
    persons: tuple[Person, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class CocoPersons:
    """The persons of a COCO-format file.

    images: those that have persons to estimate, in the order of the annotation file.
    annotations: path of the annotation file, for those who evaluate.
    num_joints: joints per person in the annotation file.
    left_out: the records that are no persons to estimate, by reason.
    annotated_boxes: whether the persons are the annotated ones; otherwise they are detections.
    evaluated_images: ids of the images that an evaluation counts. With detections these are all images of
        the annotation file, because a person in an image without any detection was missed.
    """

    images: tuple[ImageRecord, ...]
    annotations: Path
    num_joints: int
    left_out: LeftOut
    annotated_boxes: bool
    evaluated_images: tuple[int, ...]

    @classmethod
    def load(
        cls,
        annotations: Path,
        images: Path,
        boxes: str | Path = GROUND_TRUTH,
        limit: int | None = None,
    ) -> "CocoPersons":
        """Read a COCO keypoint annotation file whose images lie in the directory ``images``.

        ``boxes``: "gt" for the annotated boxes, or the path of a COCO detections file. ``limit``: at most so
        many persons, chosen as ``take`` does; the images of the others need not be there.

        Raises DataError when a file is missing, empty or malformed (naming the record), when images are
        missing, and when there is no person at all.
        """
        checked = read_annotations(annotations)
        persons, left_out, source = checked.persons, checked.left_out, annotations
        if boxes != GROUND_TRUTH:
            source = Path(boxes)
            persons, left_out = read_detections(source, checked)
        if not persons:
            raise DataError(
                f"{source}: no person to estimate in it (left out: {left_out}). Give a file with persons: "
                "annotations with labelled keypoints, or detections of the annotated category."
            )
        records = _group_by_image(checked, persons, images)
        annotated = boxes == GROUND_TRUTH
        evaluated = tuple(record.id for record in records) if annotated else tuple(checked.images)
        found = cls(records, annotations, checked.num_joints, left_out, annotated, evaluated)
        found = found if limit is None else found.take(limit)
        _require_files(found.images, images, annotations)
        return found

    @property
    def persons(self) -> tuple[Person, ...]:
        """All persons, image by image: the order in which ``batches`` yields them."""
        return tuple(person for image in self.images for person in image.persons)

    @cached_property
    def image_list_sha256(self) -> str:
        """SHA-256 over each image's name and content and each person's id and box, in order.

        Two datasets share it exactly when they give the same crops. It reads every image file once and
        raises DataError as ``check_images`` does.
        """
        digest = sha256()
        for image in self.images:
            digest.update(f"{image.path.name} {sha256_bytes(read_image_bytes(image.path))}\n".encode())
            for person in image.persons:
                box = " ".join(float(side).hex() for side in person.box_xyxy)
                digest.update(f"{person.annotation_id} {box}\n".encode())
        return digest.hexdigest()

    def check_images(self) -> str:
        """Read every image file once, without decoding it where its format shows whether it is whole.

        Returns ``image_list_sha256``. Raises DataError naming the first file that is unreadable, empty, cut
        off or no image.
        """
        return self.image_list_sha256

    def take(self, limit: int) -> "CocoPersons":
        """At most ``limit`` persons, the same ones each time, spread over as many images as possible.

        Of annotated persons every image gives one before any gives a second; the last round is thinned
        evenly. Detections are not thinned within an image, since the persons of the others would seem to be
        missed: whole images are taken, evenly spread, until the next would go over the limit (at least one).
        Raises DataError when ``limit`` is not positive.
        """
        if limit < 1:
            raise DataError(f"at most {limit} persons were asked for; the number must be positive")
        if len(self.persons) <= limit:
            return self
        kept = self._thinned(limit) if self.annotated_boxes else self._whole_images(limit)
        return replace(self, images=kept, evaluated_images=tuple(image.id for image in kept))

    def halves(self) -> tuple["CocoPersons", "CocoPersons"]:
        """Every other evaluated image from the first on, and those between.

        Raises DataError where a half would have fewer than two images.
        """
        if len(self.evaluated_images) < _FEWEST_TO_HALVE:
            raise DataError(
                f"{self.annotations}: {len(self.evaluated_images)} images are too few to search on one half "
                f"and confirm on the other; give {_FEWEST_TO_HALVE} at least"
            )
        first, second = (self._only(self.evaluated_images[start::2]) for start in (0, 1))
        return first, second

    def _only(self, ids: tuple[int, ...]) -> "CocoPersons":
        kept = frozenset(ids)
        images = tuple(image for image in self.images if image.id in kept)
        return replace(self, images=images, evaluated_images=ids)

    def _thinned(self, limit: int) -> tuple[ImageRecord, ...]:
        rounds: dict[int, list[Person]] = {}
        for image in self.images:
            for rank, person in enumerate(image.persons):
                rounds.setdefault(rank, []).append(person)
        chosen: set[int] = set()
        for people in rounds.values():
            wanted = min(limit - len(chosen), len(people))
            chosen.update(id(people[i * len(people) // wanted]) for i in range(wanted))
        kept = (
            replace(image, persons=tuple(person for person in image.persons if id(person) in chosen))
            for image in self.images
        )
        return tuple(image for image in kept if image.persons)

    def _whole_images(self, limit: int) -> tuple[ImageRecord, ...]:
        """The most images, taken at even steps, whose persons stay within the limit."""
        total = len(self.images)
        for count in range(min(limit, total), 1, -1):
            kept = tuple(self.images[index * total // count] for index in range(count))
            if sum(len(image.persons) for image in kept) <= limit:
                return kept
        return self.images[:1]


def batches(
    dataset: CocoPersons, preprocessor: Preprocessor, batch: int, limit: int | None = None
) -> Iterator[PersonCrops]:
    """Yield the dataset's crops, ``batch`` at a time (the last may be smaller), reading one image at a time.

    ``limit``: at most so many persons, chosen as ``CocoPersons.take`` does.

    Raises DataError naming the image when one is unreadable or not of the annotated size.
    """
    if batch < 1:
        raise DataError(f"a batch of {batch} was asked for; the size must be positive")
    chosen = dataset if limit is None else dataset.take(limit)
    return _stream(chosen, preprocessor, batch)


def _stream(dataset: CocoPersons, preprocessor: Preprocessor, batch: int) -> Iterator[PersonCrops]:
    waiting: list[PersonCrops] = []
    held = 0
    for record in dataset.images:
        crops = _crop_image(record, preprocessor)
        waiting.append(crops)
        held += len(crops.persons)
        while held >= batch:
            joined = _join(waiting)
            yield _part(joined, 0, batch)
            held -= batch
            waiting = [_part(joined, batch, None)] if held else []
    if held:
        yield _join(waiting)


def _crop_image(record: ImageRecord, preprocessor: Preprocessor) -> PersonCrops:
    image = read_image(record.path)
    height, width = image.shape[:2]
    if (width, height) != (record.width, record.height):
        raise DataError(
            f"{record.path}: the image is {width}x{height} but the annotation file says "
            f"{record.width}x{record.height}; was it resized or rotated?"
        )
    crops = preprocessor(image, np.stack([person.box_xyxy for person in record.persons]))
    names = tuple(f"{record.path.name}, annotation {person.annotation_id}" for person in record.persons)
    return PersonCrops(crops.batch, crops.centre, crops.scale, record.persons, names)


def _join(parts: list[PersonCrops]) -> PersonCrops:
    if len(parts) == 1:
        return parts[0]
    return PersonCrops(
        np.concatenate([part.batch for part in parts]),
        np.concatenate([part.centre for part in parts]),
        np.concatenate([part.scale for part in parts]),
        tuple(person for part in parts for person in part.persons),
        tuple(name for part in parts for name in part.names),
    )


def _part(crops: PersonCrops, start: int, stop: int | None) -> PersonCrops:
    piece = slice(start, stop)
    return PersonCrops(
        crops.batch[piece], crops.centre[piece], crops.scale[piece], crops.persons[piece], crops.names[piece]
    )


def _group_by_image(
    checked: Annotations, persons: tuple[Person, ...], images: Path
) -> tuple[ImageRecord, ...]:
    of_image: dict[int, list[Person]] = {}
    for person in persons:
        of_image.setdefault(person.image_id, []).append(person)
    return tuple(
        ImageRecord(image_id, images / image.file_name, image.width, image.height, tuple(of_image[image_id]))
        for image_id, image in checked.images.items()
        if image_id in of_image
    )


def _require_files(records: tuple[ImageRecord, ...], images: Path, annotations: Path) -> None:
    if not images.is_dir():
        raise DataError(
            f"{images}: the image directory does not exist. Give the directory that holds the images of "
            f"{annotations}."
        )
    missing = [record.path.name for record in records if not record.path.is_file()]
    if missing:
        named = ", ".join(missing[:_NAMED_MISSING]) + (", ..." if len(missing) > _NAMED_MISSING else "")
        raise DataError(
            f"{images}: {len(missing)} of the {len(records)} images that {annotations} needs "
            f"are missing: {named}. Fetch them, or give the directory that holds them."
        )
