"""COCO figures of one variant of a model, with the preprocessing and decoding that ship."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..calibration.datasets import CocoPersons, PersonCrops, batches
from ..errors import DataError
from ..progress import SILENT, Progress
from ..runtime.joints import find_joints
from ..runtime.preprocess import Preprocessor
from ..runtime.sessions import Outputs, Session
from ..runtime.spec import ModelSpec
from ..runtime.stream import overlapped
from .bootstrap import Matches, match_persons
from .coco import CocoFigures, Predictions, ScoringRules, evaluate_keypoints


@dataclass(frozen=True, eq=False)
class Accuracy:
    """What evaluation found.

    figures: the ten COCO figures.
    predictions: what the model found, person by person in the order of the dataset: two variants that
        were evaluated on the same dataset can be compared pair by pair.
    persons, images: how many were looked at.
    """

    figures: CocoFigures
    predictions: Predictions
    persons: int
    images: int


def evaluate(
    session: Session,
    dataset: CocoPersons,
    *,
    flip_test: bool = False,
    batch: int = 8,
    progress: Progress = SILENT,
) -> Accuracy:
    """Run the dataset's persons through ``session`` and evaluate what it finds.

    With ground-truth boxes only the dataset's persons count, so one that was cut with ``take`` has the
    figures of the persons that it kept; with detection boxes every annotated person of the dataset's
    ``evaluated_images`` should be found.

    flip_test: run each crop mirrored too and average the outputs, as the spec says.
    batch: crops per call of the session.

    Raises DataError for unusable images, annotations that are not COCO's 17 joints, or a dataset without
    anybody to find, and what the session raises.
    """
    with progress.task("evaluating", float(len(dataset.persons))) as task:
        crops = batches(dataset, Preprocessor(session.spec), batch)
        predictions = predict(session, _counted(crops, task.update), flip_test)
    figures = evaluate_keypoints(
        dataset.annotations,
        predictions,
        ScoringRules.of(session.spec),
        image_ids=dataset.evaluated_images,
        person_ids=_persons_to_find(dataset),
    )
    return Accuracy(figures, predictions, len(predictions), len(dataset.images))


def match(dataset: CocoPersons, predictions: Predictions, spec: ModelSpec) -> Matches:
    """What ``evaluate`` found in the dataset, image by image: the AP of ``figures`` for any choice of images.

    Raises DataError as ``evaluate`` does.
    """
    return match_persons(
        dataset.annotations,
        predictions,
        ScoringRules.of(spec),
        image_ids=dataset.evaluated_images,
        person_ids=_persons_to_find(dataset),
    )


def predict(session: Session, crops: Iterable[PersonCrops], flip_test: bool = False) -> Predictions:
    """Keypoints of every person in ``crops``, which must have been cut out by the session's own spec.

    Reading, the network and decoding overlap, as they do where the model is deployed. Joint scores are as
    decoded: they are not clipped to [0, 1] as the estimator's are, because the instance score ranks by them.
    """
    spec, mirror = session.spec, Preprocessor(session.spec).mirror

    def run(part: PersonCrops) -> tuple[PersonCrops, Outputs, Outputs | None]:
        mirrored = session.run(mirror(part.batch)) if flip_test else None
        return part, session.run(part.batch), mirrored

    def finish(result: tuple[PersonCrops, Outputs, Outputs | None]) -> Predictions:
        part, outputs, mirrored = result
        points, scores = find_joints(outputs, mirrored, spec, part.centre, part.scale)
        return _as_predictions(part, points, scores)

    with closing(overlapped(crops, run, finish)) as parts:
        return _join(list(parts))


def _counted(crops: Iterable[PersonCrops], update: Callable[[float], None]) -> Iterator[PersonCrops]:
    done = 0
    for part in crops:
        yield part
        done += len(part.persons)
        update(done)


def _as_predictions(
    part: PersonCrops, keypoints: NDArray[np.float32], scores: NDArray[np.float32]
) -> Predictions:
    # an overflow of the network gives joints that are nowhere: they count as not found, at the crop's corner
    lost = ~(np.isfinite(keypoints).all(axis=-1) & np.isfinite(scores))
    corner = (part.centre - part.scale / 2)[:, None]
    return Predictions(
        image_ids=np.array([person.image_id for person in part.persons], np.int64),
        instance_ids=np.array([person.annotation_id for person in part.persons], np.int64),
        keypoints=np.where(lost[..., None], corner, keypoints).astype(np.float32),
        scores=np.where(lost, 0, scores).astype(np.float32),
        boxes_xyxy=np.stack([person.box_xyxy for person in part.persons]),
        box_scores=np.array([person.box_score for person in part.persons], np.float32),
        areas=part.scale.prod(axis=1),
    )


def _join(parts: list[Predictions]) -> Predictions:
    if not parts:
        raise DataError("there is no person to evaluate")
    return Predictions(*(np.concatenate(columns) for columns in zip(*map(_columns, parts), strict=True)))


def _columns(part: Predictions) -> list[NDArray[np.generic]]:
    return list(vars(part).values())


def _persons_to_find(dataset: CocoPersons) -> set[tuple[int, int]] | None:
    """With annotated boxes the persons that the dataset holds; None, for all, with detections."""
    if not dataset.annotated_boxes:
        return None
    return {(person.image_id, person.annotation_id) for person in dataset.persons}
