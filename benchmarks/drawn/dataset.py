"""Sets of drawn pictures as files: images and a COCO keypoint file, the same bytes from the same seed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ... import files
from ...errors import DataError
from ...progress import SILENT, Progress
from .figure import JOINT_NAMES
from .scene import FigureAnnotation, sample_scene

ANNOTATION_FILE = "keypoints.json"
IMAGE_DIRECTORY = "images"

_JPEG_QUALITY = 95
# COCO's limbs, joints counted from 1
_SKELETON = (
    (16, 14),
    (14, 12),
    (17, 15),
    (15, 13),
    (12, 13),
    (6, 12),
    (7, 13),
    (6, 7),
    (6, 8),
    (7, 9),
    (8, 10),
    (9, 11),
    (2, 3),
    (1, 2),
    (1, 3),
    (2, 4),
    (3, 5),
    (4, 6),
    (5, 7),
)


@dataclass(frozen=True)
class DrawnSet:
    """Where a written set is, and how large.

    annotations: COCO keypoint file. images: directory of its pictures. pictures, figures: how many.
    """

    annotations: Path
    images: Path
    pictures: int
    figures: int


def write_dataset(directory: Path, images: int, seed: int, progress: Progress = SILENT) -> DrawnSet:
    """Write ``images`` drawn pictures and their annotations into ``directory``.

    Picture i belongs to ``seed`` and i alone, so a smaller set is the start of a larger one. The annotation
    file appears last, when all pictures are there.

    Raises DataError when ``images`` is not positive, OutputError when the files cannot be written.
    """
    if images < 1:
        raise DataError(f"a drawn set of {images} pictures was asked for; it needs at least one")
    pictures: list[dict[str, Any]] = []
    people: list[dict[str, Any]] = []
    with progress.task(f"drawing {images} pictures", images) as task:
        for index in range(images):
            image, figures = sample_scene((seed, index))
            name = f"{index:06d}.jpg"
            files.write_bytes(directory / IMAGE_DIRECTORY / name, _encode(image))
            height, width = image.shape[:2]
            pictures.append({"id": index, "file_name": name, "width": width, "height": height})
            for figure in figures:
                people.append(_record(len(people) + 1, index, figure))
            task.update(index + 1)
    document = {
        "info": {"description": f"drawn figures, seed {seed}"},
        "images": pictures,
        "annotations": people,
        "categories": [_category()],
    }
    annotations = directory / ANNOTATION_FILE
    files.write_text(annotations, json.dumps(document, sort_keys=True))
    return DrawnSet(annotations, directory / IMAGE_DIRECTORY, images, len(people))


def _encode(image: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise DataError(
            "OpenCV cannot write JPEG here; install opencv-python-headless from the package index"
        )
    return bytes(data.tobytes())


def _record(annotation_id: int, image_id: int, figure: FigureAnnotation) -> dict[str, Any]:
    keypoints = [
        value for x, y, flag in figure.keypoints.tolist() for value in (round(x, 2), round(y, 2), int(flag))
    ]
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": list(figure.box_xywh),
        "area": figure.area,
        "num_keypoints": int((figure.keypoints[:, 2] > 0).sum()),
        "keypoints": keypoints,
    }


def _category() -> dict[str, Any]:
    return {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(JOINT_NAMES),
        "skeleton": [list(limb) for limb in _SKELETON],
    }
