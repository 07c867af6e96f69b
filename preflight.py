"""What can be known to be wrong with the data before any work is done on them."""

from pathlib import Path

from .benchmarks.oks import COCO_SIGMAS
from .benchmarks.tasks import ClassificationData, PoseData, TaskData
from .calibration.datasets import GROUND_TRUTH, CocoPersons
from .calibration.imagenet import ImageNet
from .errors import DataError
from .options import DataPaths, DeployOptions, ImageNetPaths
from .progress import SILENT, Progress
from .runtime.spec import ModelSpec


def open_data(
    options: DeployOptions, spec: ModelSpec, progress: Progress = SILENT
) -> tuple[TaskData, TaskData | None]:
    """What a job measures on, and the crops that show the ranges of an INT8 or a float16 variant.

    INT8 cannot do without such crops. float16 can where none are given: only its constants are looked at.

    Raises DataError when they are not there, or cannot be what a model of this spec is measured with.
    """
    if not isinstance(options.data, ImageNetPaths):
        return _persons(options.data, spec, options, progress)
    data, calibration = _images(options.data, spec, options.precisions)
    if options.limit is not None:
        data = data.take(options.limit)
    _check_search(options, data)
    return data, None if calibration is None else calibration.take(options.calibration_crops)


def _persons(
    paths: DataPaths, spec: ModelSpec, options: DeployOptions, progress: Progress
) -> tuple[TaskData, TaskData | None]:
    if spec.task != "pose":
        raise DataError(f"{spec.name} is a {spec.task} model; give it labelled images with --imagenet DIR")
    boxes = "ground truth" if options.boxes == GROUND_TRUTH else Path(options.boxes).name
    persons = CocoPersons.load(paths.annotations, paths.images, options.boxes, options.limit)
    _check_search(options, PoseData(persons))
    calibration = None
    if "int8" in options.precisions and paths.calibration_annotations is None:
        raise DataError(
            "INT8 needs images to calibrate on: give --calibration-annotations FILE (persons that are "
            "not measured afterwards), or leave INT8 out with --precision fp32,fp16"
        )
    if _looks_at_ranges(options.precisions) and paths.calibration_annotations is not None:
        images = paths.calibration_images or paths.images
        calibration = CocoPersons.load(paths.calibration_annotations, images, limit=options.calibration_crops)
    _check_persons(spec, persons, calibration, progress)
    return PoseData(persons, boxes), None if calibration is None else PoseData(calibration)


def _check_search(options: DeployOptions, data: TaskData) -> None:
    """Raise DataError where INT8 is to be searched and there are too few images to search and to confirm."""
    if options.search and "int8" in options.precisions:
        data.halves()


def _looks_at_ranges(precisions: tuple[str, ...]) -> bool:
    return "int8" in precisions or "fp16" in precisions


def _images(
    paths: ImageNetPaths, spec: ModelSpec, precisions: tuple[str, ...]
) -> tuple[TaskData, TaskData | None]:
    if spec.task != "classification":
        raise DataError(
            f"{spec.name} is a {spec.task} model; --imagenet is for classifiers, give it --coco DIR"
        )
    data = ClassificationData(ImageNet.load(paths.images, spec.num_classes, paths.labels))
    if "int8" in precisions and paths.calibration_images is None:
        raise DataError(
            "INT8 needs images to calibrate on: give --calibration-images DIR (images that are not "
            "measured afterwards), or leave INT8 out with --precision fp32,fp16"
        )
    if not _looks_at_ranges(precisions) or paths.calibration_images is None:
        return data, None
    return data, ClassificationData(ImageNet.without_labels(paths.calibration_images))


def _check_persons(
    spec: ModelSpec, data: CocoPersons, calibration: CocoPersons | None, progress: Progress
) -> None:
    """Raise DataError when ``data`` cannot measure such a model, or an image file of either is unusable.

    Every image file is read once, for the hashes that later stages need anyway.
    """
    _check_joints(spec, data)
    for persons in (data, calibration):
        if persons is not None:
            with progress.task(f"reading {len(persons.images)} images"):
                persons.check_images()


def _check_joints(spec: ModelSpec, data: CocoPersons) -> None:
    if data.num_joints != spec.num_joints:
        raise DataError(
            f"{data.annotations}: its persons have {data.num_joints} joints and the model {spec.name} finds "
            f"{spec.num_joints}. Give annotations of the joints that the model was trained on, or correct "
            "num_joints in the spec."
        )
    if spec.num_joints != len(COCO_SIGMAS):
        raise DataError(
            f"{spec.name}: accuracy is measured with COCO's {len(COCO_SIGMAS)} joints and this model has "
            f"{spec.num_joints}. Give a model of COCO's joints."
        )
