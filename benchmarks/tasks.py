"""What is measured and calibrated on, by task: persons for a pose model, labelled images for a classifier."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from ..calibration.datasets import CocoPersons, PersonCrops, batches
from ..calibration.imagenet import ImageBatch, ImageNet, image_batches
from ..files import sha256_file, short_name
from ..progress import SILENT, Progress
from ..runtime.classify import ImagePreprocessor
from ..runtime.preprocess import Preprocessor
from ..runtime.sessions import Session
from ..runtime.spec import ModelSpec
from .accuracy import evaluate, match
from .arrays import read_arrays, write_arrays
from .bootstrap import PerImage
from .coco import CocoFigures, Predictions
from .imagenet import Classification, ImageNetFigures, evaluate_classifier
from .report.results import EvaluatedData, EvaluatedImages
from .speed import (
    NotMeasured,
    Speed,
    measure_classifier,
    measure_pipeline,
    sample_images,
    sample_pictures,
)


class TaskData(ABC):
    """A dataset, with how a model of its task is fed from it and measured on it."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many inputs of the network it gives."""

    @property
    @abstractmethod
    def described(self) -> str:
        """For one line of the report: "304 persons from train.json"."""

    @property
    @abstractmethod
    def image_paths(self) -> frozenset[Path]:
        """Its image files, resolved."""

    @property
    @abstractmethod
    def images_sha256(self) -> str:
        """SHA-256 of what ``batches`` gives."""

    @property
    @abstractmethod
    def content(self) -> Mapping[str, str]:
        """Hashes of everything that decides figures measured on it."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the report must know of it."""
        return ()

    @abstractmethod
    def take(self, limit: int) -> "TaskData":
        """At most ``limit`` inputs, the same ones each time."""

    @abstractmethod
    def halves(self) -> tuple["TaskData", "TaskData"]:
        """Every other image from the first on, and those between. Raises DataError for fewer than 4 images,
        since an interval over images needs two."""

    @abstractmethod
    def batches(self, spec: ModelSpec, batch: int) -> Iterator[PersonCrops | ImageBatch]:
        """Inputs as the deployed model is fed."""

    @abstractmethod
    def evaluated(self, flip_test: bool) -> EvaluatedData | EvaluatedImages:
        """How the report describes it."""

    @abstractmethod
    def accuracy(
        self, session: Session, flip_test: bool, progress: Progress = SILENT, found: Path | None = None
    ) -> CocoFigures | ImageNetFigures:
        """Evaluate what ``session`` finds in it, and keep that in the file ``found``."""

    @abstractmethod
    def per_image(self, spec: ModelSpec, found: Path) -> PerImage:
        """What ``accuracy`` kept in the file ``found``, to be compared with that of another variant.

        Raises BundleError when the file is unusable.
        """

    @abstractmethod
    def pipeline_speed(
        self,
        session: Session,
        batch_sizes: tuple[int, ...],
        flip_test: bool,
        seconds: float,
        progress: Progress = SILENT,
    ) -> tuple[Speed, ...] | NotMeasured:
        """Time the deployed pipeline on its first images."""


@dataclass(frozen=True, eq=False)
class PoseData(TaskData):
    """Persons of a COCO file. boxes: "ground truth", or the name of the detections file."""

    persons: CocoPersons
    boxes: str = "ground truth"

    @property
    def count(self) -> int:
        return len(self.persons.persons)

    @property
    def described(self) -> str:
        return f"{self.count} persons from {short_name(self.persons.annotations)}"

    @cached_property
    def image_paths(self) -> frozenset[Path]:
        return frozenset(image.path.resolve() for image in self.persons.images)

    @property
    def images_sha256(self) -> str:
        return self.persons.image_list_sha256

    @property
    def content(self) -> Mapping[str, str]:
        return {"annotations": sha256_file(self.persons.annotations), "images": self.images_sha256}

    @property
    def notes(self) -> tuple[str, ...]:
        reasons = str(self.persons.left_out)
        source = short_name(self.persons.annotations)
        return () if reasons == "nothing" else (f"Left out of {source}: {reasons}.",)

    def take(self, limit: int) -> "PoseData":
        return PoseData(self.persons.take(limit), self.boxes)

    def halves(self) -> tuple["PoseData", "PoseData"]:
        first, second = self.persons.halves()
        return PoseData(first, self.boxes), PoseData(second, self.boxes)

    def batches(self, spec: ModelSpec, batch: int) -> Iterator[PersonCrops]:
        return batches(self.persons, Preprocessor(spec), batch)

    def evaluated(self, flip_test: bool) -> EvaluatedData:
        data = self.persons
        return EvaluatedData(
            annotations=short_name(data.annotations),
            images=len(data.evaluated_images),
            persons=self.count,
            boxes=self.boxes,
            flip_test=flip_test,
        )

    def accuracy(
        self, session: Session, flip_test: bool, progress: Progress = SILENT, found: Path | None = None
    ) -> CocoFigures:
        accuracy = evaluate(session, self.persons, flip_test=flip_test, progress=progress)
        if found:
            write_arrays(found, vars(accuracy.predictions))
        return accuracy.figures

    def per_image(self, spec: ModelSpec, found: Path) -> PerImage:
        return match(self.persons, Predictions(**read_arrays(found, _fields(Predictions))), spec)

    def pipeline_speed(
        self,
        session: Session,
        batch_sizes: tuple[int, ...],
        flip_test: bool,
        seconds: float,
        progress: Progress = SILENT,
    ) -> tuple[Speed, ...] | NotMeasured:
        pictures = sample_pictures(self.persons)
        return measure_pipeline(
            session, pictures, batch_sizes, flip_test=flip_test, seconds=seconds, progress=progress
        )


@dataclass(frozen=True, eq=False)
class ClassificationData(TaskData):
    """Labelled images. A classifier has no flip test."""

    dataset: ImageNet

    @property
    def count(self) -> int:
        return len(self.dataset.images)

    @property
    def described(self) -> str:
        return f"{self.count} images from {short_name(self.dataset.source)}"

    @cached_property
    def image_paths(self) -> frozenset[Path]:
        return frozenset(image.path.resolve() for image in self.dataset.images)

    @property
    def images_sha256(self) -> str:
        return self.dataset.image_list_sha256

    @property
    def content(self) -> Mapping[str, str]:
        return {"images": self.images_sha256}

    def take(self, limit: int) -> "ClassificationData":
        return ClassificationData(self.dataset.take(limit))

    def halves(self) -> tuple["ClassificationData", "ClassificationData"]:
        first, second = self.dataset.halves()
        return ClassificationData(first), ClassificationData(second)

    def batches(self, spec: ModelSpec, batch: int) -> Iterator[ImageBatch]:
        return image_batches(self.dataset, ImagePreprocessor(spec), batch)

    def evaluated(self, flip_test: bool) -> EvaluatedImages:
        return EvaluatedImages(short_name(self.dataset.source), self.count)

    def accuracy(
        self, session: Session, flip_test: bool, progress: Progress = SILENT, found: Path | None = None
    ) -> ImageNetFigures:
        classification = evaluate_classifier(session, self.dataset, progress=progress)
        if found:
            write_arrays(found, vars(classification))
        return classification.figures

    def per_image(self, spec: ModelSpec, found: Path) -> PerImage:
        return Classification(**read_arrays(found, _fields(Classification)))

    def pipeline_speed(
        self,
        session: Session,
        batch_sizes: tuple[int, ...],
        flip_test: bool,
        seconds: float,
        progress: Progress = SILENT,
    ) -> tuple[Speed, ...] | NotMeasured:
        images = sample_images(self.dataset)
        return measure_classifier(session, images, batch_sizes, seconds=seconds, progress=progress)


def _fields(kind: type[Predictions] | type[Classification]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
