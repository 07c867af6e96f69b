"""What can be known to be wrong with the data before any work is done on them."""

from .benchmarks.oks import COCO_SIGMAS
from .calibration.datasets import CocoPersons
from .errors import DataError
from .progress import SILENT, Progress
from .runtime.spec import ModelSpec


def check_data(
    spec: ModelSpec, data: CocoPersons, calibration: CocoPersons | None = None, progress: Progress = SILENT
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
