"""Read and check COCO keypoint annotations and detection files; every refusal names file and record.

The rules are mmpose 1.3's (``BaseCocoStyleDataset``): a ground-truth person is not a crowd region, has
labelled keypoints, and its box, clipped to width - 1 and height - 1, has a positive area. Detection boxes
are taken as they are.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

# no pixel coordinate is larger; float32 arithmetic on boxes stays far from its limits
_LARGEST = 1e9

_CORRECT = "Correct the record, or remove it from the file."


@dataclass(frozen=True, eq=False)
class Person:
    """One person to estimate.

    annotation_id: the annotation's id; for detections the index among the persons of the detections file.
    image_id: the image's id.
    box_xyxy: float32 (4,), left, top, right, bottom in pixels.
    box_score: confidence of the box, 1.0 for ground truth.
    area: pixels; the annotated area for ground truth, that of the box for detections.
    """

    annotation_id: int
    image_id: int
    box_xyxy: NDArray[np.float32]
    box_score: float
    area: float


# the name of a field of LeftOut
Reason: TypeAlias = str


@dataclass(frozen=True)
class LeftOut:
    """How many records of the files are no persons to estimate, by reason."""

    crowd_regions: int = 0
    without_keypoints: int = 0
    empty_boxes: int = 0
    repeated_ids: int = 0
    unlisted_images: int = 0
    other_categories: int = 0

    def __str__(self) -> str:
        """Such as "6 crowd regions, 87 without keypoints"; "nothing" where nothing was left out."""
        counts = [f"{count} {reason.replace('_', ' ')}" for reason, count in vars(self).items() if count]
        return ", ".join(counts) or "nothing"


@dataclass(frozen=True)
class Image:
    """The file name and size of an image as the annotation file gives them."""

    file_name: str
    width: int
    height: int


@dataclass(frozen=True)
class Annotations:
    """A checked annotation file: images by id in file order, its persons, and what was left out."""

    images: dict[int, Image]
    persons: tuple[Person, ...]
    num_joints: int
    categories: frozenset[int]
    left_out: LeftOut


def read_annotations(path: Path) -> Annotations:
    """Read a COCO keypoint annotation file.

    Raises DataError when the file is missing, empty, not JSON, has no keypoints, or a record is malformed.
    """
    document = _read_json(path)
    if not isinstance(document, dict) or not isinstance(document.get("annotations"), list):
        raise DataError(
            f"{path}: not a COCO annotation file; it needs a list 'annotations' and a list 'images'"
        )
    images = _read_images(document.get("images"), path)
    records = [
        _require_record(record, f"{path}: annotation {i}") for i, record in enumerate(document["annotations"])
    ]
    with_keypoints = [record for record in records if "keypoints" in record]
    if not records:
        raise DataError(
            f"{path}: its list 'annotations' is empty, so there is nobody to find. "
            "Give a file with annotated persons."
        )
    if not with_keypoints:
        raise DataError(
            f"{path}: none of its {len(records)} annotations has keypoints. Give the keypoint file "
            "(person_keypoints_*.json of COCO), not the instances or captions."
        )
    left_out: Counter[Reason] = Counter()
    num_joints = _num_joints(document.get("categories"), with_keypoints, path)
    persons: dict[tuple[int, int], Person] = {}
    for record in records:
        where = f"{path}: annotation {record.get('id')!r}"
        person = _read_person(record, images, num_joints, where)
        if not isinstance(person, Person):
            left_out[person] += 1
        elif (person.image_id, person.annotation_id) in persons:
            left_out["repeated_ids"] += 1
        else:
            persons[person.image_id, person.annotation_id] = person
    categories = frozenset(
        _integer(record.get("category_id", 1), f"{path}: category_id") for record in with_keypoints
    )
    return Annotations(images, tuple(persons.values()), num_joints, categories, LeftOut(**left_out))


def read_detections(path: Path, annotations: Annotations) -> tuple[tuple[Person, ...], LeftOut]:
    """Read a COCO detections file: a list of {image_id, category_id, bbox (xywh), score}.

    Detections of other categories than the annotated persons' are left out. So are boxes of zero area and
    boxes wholly outside their image, of which there is nothing to crop.

    Raises DataError for a malformed file or record, and for images that ``annotations`` does not list.
    """
    document = _read_json(path)
    if not isinstance(document, list):
        raise DataError(
            f"{path}: a detections file is a JSON list of detections, this is {type(document).__name__}. "
            "Give COCO's detection results, or gt for the annotated boxes."
        )
    left_out: Counter[Reason] = Counter()
    persons: list[Person] = []
    index = 0
    for i, item in enumerate(document):
        where = f"{path}: detection {i}"
        record = _require_record(item, where)
        if _integer(record.get("category_id"), f"{where}: category_id") not in annotations.categories:
            left_out["other_categories"] += 1
            continue
        box = _detection_box(record, annotations.images, where)
        score = _number(record.get("score"), f"{where}: score")
        if box is None:
            left_out["empty_boxes"] += 1
        else:
            area = float((box[2] - box[0]) * (box[3] - box[1]))
            persons.append(Person(index, int(record["image_id"]), box, score, area))
        index += 1
    return tuple(persons), LeftOut(**left_out)


def _read_json(path: Path) -> Any:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). Check the path; a JSON file is expected."
        ) from error
    if not text.strip():
        raise DataError(f"{path}: the file is empty. Fetch it again.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); was it downloaded completely?") from error


def _read_images(records: object, path: Path) -> dict[int, Image]:
    if not isinstance(records, list) or not records:
        raise DataError(f"{path}: it lists no images; a COCO file needs a list 'images'")
    images = {}
    for i, item in enumerate(records):
        where = f"{path}: image {i}"
        record = _require_record(item, where)
        name = record.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}: it has no file_name. {_CORRECT}")
        width = _integer(record.get("width"), f"{where}: width")
        height = _integer(record.get("height"), f"{where}: height")
        if width < 1 or height < 1:
            raise DataError(
                f"{where} ({name}): its size is {width}x{height}; both sides must be positive. {_CORRECT}"
            )
        images[_integer(record.get("id"), f"{where}: id")] = Image(name, width, height)
    return images


def _num_joints(categories: object, records: list[dict[str, Any]], path: Path) -> int:
    """The number of joints that the category declares, else that of the first annotation."""
    if isinstance(categories, list):
        for category in categories:
            if isinstance(category, dict) and isinstance(category.get("keypoints"), list):
                return len(category["keypoints"])
    keypoints = records[0]["keypoints"]
    if not isinstance(keypoints, list) or not keypoints or len(keypoints) % 3:
        raise DataError(
            f"{path}: annotation {records[0].get('id')!r}: keypoints must be a list of "
            f"x, y, visibility for each joint. {_CORRECT}"
        )
    return len(keypoints) // 3


def _read_person(
    record: dict[str, Any], images: dict[int, Image], num_joints: int, where: str
) -> Person | Reason:
    """One annotation as a person, or the reason for which the rules leave it out."""
    annotation_id = _integer(record.get("id"), f"{where}: id")
    image_id = _integer(record.get("image_id"), f"{where}: image_id")
    image = images.get(image_id)
    if image is None:
        return "unlisted_images"
    if record.get("iscrowd"):
        return "crowd_regions"
    if "keypoints" not in record or not _is_labelled(record, num_joints, where):
        return "without_keypoints"
    x, y, width, height = _box(record, where)
    corners = np.array([x, y, x + width, y + height])
    box = np.clip(corners, 0, np.array([image.width - 1, image.height - 1] * 2)).astype(np.float32)
    if box[2] <= box[0] or box[3] <= box[1]:
        return "empty_boxes"
    # mmpose's estimate where a file gives no area: COCO's people fill 0.53 of their boxes
    estimate = max(0.53 * float(box[2] - box[0]) * float(box[3] - box[1]), 1.0)
    area = _number(record["area"], f"{where}: area") if "area" in record else estimate
    return Person(annotation_id, image_id, box, 1.0, area)


def _detection_box(
    record: dict[str, Any], images: dict[int, Image], where: str
) -> NDArray[np.float32] | None:
    """A detection's box as xyxy, not clipped; None where there is nothing to crop."""
    image_id = _integer(record.get("image_id"), f"{where}: image_id")
    image = images.get(image_id)
    if image is None:
        raise DataError(
            f"{where}: image {image_id} is not in the annotation file; do the two belong together?"
        )
    x, y, width, height = _box(record, where)
    left, top, right, bottom = box = np.array([x, y, x + width, y + height], np.float32)
    inside = left < image.width and top < image.height and right > 0 and bottom > 0
    return box if right > left and bottom > top and inside else None


def _is_labelled(record: dict[str, Any], num_joints: int, where: str) -> bool:
    keypoints = record["keypoints"]
    if not isinstance(keypoints, list) or len(keypoints) != 3 * num_joints:
        length = len(keypoints) if isinstance(keypoints, list) else f"a {type(keypoints).__name__}"
        raise DataError(
            f"{where}: keypoints should be {3 * num_joints} numbers ({num_joints} joints), not {length}. "
            f"{_CORRECT}"
        )
    values = [_number(value, f"{where}: keypoints") for value in keypoints]
    visible = sum(flag > 0 for flag in values[2::3])
    coordinates = values[0::3] + values[1::3]
    return (
        _integer(record.get("num_keypoints", visible), f"{where}: num_keypoints") > 0 and max(coordinates) > 0
    )


def _box(record: dict[str, Any], where: str) -> list[float]:
    """A record's bbox as finite x, y, width, height."""
    box = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(
            f"{where}: bbox should be four numbers (x, y, width, height), not {box!r:.80}. {_CORRECT}"
        )
    return [_number(value, f"{where}: bbox") for value in box]


def _require_record(item: object, where: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise DataError(f"{where}: should be a JSON object, not {type(item).__name__}. {_CORRECT}")
    return item


def _number(value: object, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST:
        return float(value)
    raise DataError(f"{where}: should be a finite number, not {value!r:.80}. {_CORRECT}")


def _integer(value: object, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value  # not through float, which would round the 64-bit ids that some tools write
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise DataError(f"{where}: should be a whole number, not {value!r:.80}. {_CORRECT}")
