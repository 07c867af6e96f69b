"""What is deployed, on which data, and how: the options of the main job."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from .calibration.datasets import GROUND_TRUTH
from .calibration.imagenet import class_folders
from .calibration.recipe import DEFAULT, Recipe
from .engines import BuildOptions
from .errors import DataError
from .export.graph_options import PLAIN, GraphOptions

REFERENCE = "fp32"
MAX_DROP = 0.01
PRECISIONS = ("fp32", "fp16", "int8")

_EXPECTED = {
    "precisions": f"Choose from {', '.join(PRECISIONS)}",
    "max_drop": "Give a number from 0 to 1",
    "calibration_crops and batch_sizes": "Give positive numbers",
    "limit": "Give a positive number, or None for all persons",
    "threads": "Give a positive number, or None for all cores",
    "seconds": "Give a positive number",
    "build_timeout_s": "Give a positive number of seconds",
    "build_memory_bytes": "Give a positive number of bytes, or None for no limit",
}


@dataclass(frozen=True)
class DataPaths:
    """COCO-format keypoints with the directories of their images.

    annotations, images: persons to measure accuracy on.
    calibration_annotations, calibration_images: other persons, to calibrate INT8 on and to find what float16
        cannot hold; the images may lie in one directory.
    """

    annotations: Path
    images: Path
    calibration_annotations: Path | None = None
    calibration_images: Path | None = None

    @classmethod
    def coco(cls, root: Path) -> "DataPaths":
        """Where COCO 2017 keeps them below ``root``."""
        labels = root / "annotations"
        return cls(
            labels / "person_keypoints_val2017.json",
            root / "val2017",
            labels / "person_keypoints_train2017.json",
            root / "train2017",
        )


@dataclass(frozen=True)
class ImageNetPaths:
    """Labelled images of a classifier.

    images: folder of synset folders, or a flat folder with the text file ``labels`` ("NAME.JPEG LABEL").
    calibration_images: folder of other images, to calibrate INT8 on and to find what float16 cannot hold;
        their labels do not matter.
    """

    images: Path
    labels: Path | None = None
    calibration_images: Path | None = None

    @classmethod
    def imagenet(cls, root: Path, labels: Path | None = None) -> "ImageNetPaths":
        """Where they usually lie below ``root``: val/, with val.txt or meta/val.txt if flat; train/."""
        images = root / "val" if (root / "val").is_dir() else root
        if labels is None and images.is_dir() and not class_folders(images):
            usual = (root / "val.txt", root / "meta" / "val.txt", images / "val.txt")
            labels = next((path for path in usual if path.is_file()), None)
        train = root / "train"
        return cls(images, labels, train if train.is_dir() else None)


@dataclass(frozen=True)
class DeployOptions:
    """What is deployed, on which data, and how.

    model: a name of the zoo, or the path of an ONNX file with ``spec`` beside it or inside.
    output: the bundle goes to ``output``/NAME.
    data: persons (of a classifier, images) to measure and to calibrate on. boxes: "gt" or a COCO detections
        file.
    checkpoint: weights of a zoo model. flip_test: average with the mirrored crop, as zoo figures do.
    precisions: variants to make; fp32 is always among them, as the reference of every drop.
    max_drop: the drop of AP or top-1 that is acceptable; search: leave as many layers of INT8 in float as it
        takes to keep it. limit: measure on so many persons or images only.
    build: how engines are built, batch sizes among it; build_timeout_s and build_memory_bytes bound each.
    batch_sizes: those to time, each for ``seconds``. threads: of the CPU session.
    recipe: how INT8 is calibrated.
    graph: rewrites of the exported graph that suit one accelerator and not another.
    notes: lines for the report, such as that the pictures are drawn.

    Raises DataError for a number that no job could use, so that it is not found after an hour.
    """

    model: str
    output: Path
    data: DataPaths | ImageNetPaths
    checkpoint: Path | None = None
    spec: Path | None = None
    boxes: str = GROUND_TRUTH
    flip_test: bool = True
    precisions: tuple[str, ...] = PRECISIONS
    max_drop: float = MAX_DROP
    search: bool = False
    build: BuildOptions = field(default_factory=BuildOptions)
    recipe: Recipe = DEFAULT
    calibration_crops: int = 128
    limit: int | None = None
    batch_sizes: tuple[int, ...] = (1, 8)
    seconds: float = 3.0
    threads: int | None = None
    build_timeout_s: float = 1800.0
    build_memory_bytes: int | None = None
    graph: GraphOptions = PLAIN
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts = (self.calibration_crops, *self.batch_sizes)
        checks = {
            "precisions": set(self.precisions) <= set(PRECISIONS),
            "max_drop": 0 <= self.max_drop <= 1,
            "calibration_crops and batch_sizes": min(counts) >= 1,
            "limit": self.limit is None or self.limit >= 1,
            "threads": self.threads is None or self.threads >= 1,
            "seconds": 0 < self.seconds < math.inf,
            "build_timeout_s": 0 < self.build_timeout_s < math.inf,
            "build_memory_bytes": self.build_memory_bytes is None or self.build_memory_bytes >= 1,
        }
        for name, fits in checks.items():
            if not fits:
                values = ", ".join(str(getattr(self, field)) for field in name.split(" and "))
                raise DataError(f"{name}: {values} cannot be used. {_EXPECTED[name]}")
