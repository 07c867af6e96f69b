"""Latency and throughput of a session alone, and of the whole pipeline from decoded image to keypoints.

Percentiles interpolate linearly between the closest ranks of the sorted samples (numpy's default). A
percentile is given only where enough samples lie beyond it for it to mean something: p90 from 10 samples on,
p99 from 100. Below that it is None, "not measured", instead of the slowest sample in disguise.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice, takewhile, tee

import numpy as np
from numpy.typing import NDArray

from ..calibration.datasets import CocoPersons
from ..calibration.imagenet import ImageNet
from ..errors import DataError
from ..progress import SILENT, Progress
from ..runtime.classify import Classifier
from ..runtime.images import read_image
from ..runtime.pose import PoseEstimator
from ..runtime.sessions import Session

_WARM_UP = 3
_FEWEST_SAMPLES = 5
_SAMPLES_FOR_P90 = 10
_SAMPLES_FOR_P99 = 100


@dataclass(frozen=True)
class NotMeasured:
    """In the place of a figure: nobody measured it, and why."""

    reason: str


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds that half, 90 % and 99 % of the calls stay below; None where samples are too few."""

    p50: float
    p90: float | None
    p99: float | None


@dataclass(frozen=True)
class Speed:
    """How fast batches of one size are.

    batch: persons in a call, or images of a classifier. latency_ms: of a call, so of the whole batch.
    persons_per_second: sustained, images of a classifier. samples: timed calls.
    """

    batch: int
    latency_ms: Percentiles
    persons_per_second: float
    samples: int


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image, uint8 HWC BGR, with the boxes (N, 4) xyxy of its persons."""

    image: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float32]


def percentiles(samples_ms: Sequence[float]) -> Percentiles:
    """The percentiles of at least one sample, by the rule at the top of this module."""
    count = len(samples_ms)
    p50, p90, p99 = (float(value) for value in np.percentile(samples_ms, (50, 90, 99)))
    return Percentiles(
        p50, p90 if count >= _SAMPLES_FOR_P90 else None, p99 if count >= _SAMPLES_FOR_P99 else None
    )


def measure_session(
    session: Session, batch_sizes: Sequence[int] = (1, 8), seconds: float = 3.0, progress: Progress = SILENT
) -> tuple[Speed, ...] | NotMeasured:
    """Time ``session.run`` alone, one entry for each batch size.

    seconds: time spent on each batch size after three calls to warm up; at least five calls are timed.
    Throughput is persons per second of these calls. The input is noise, the same in every run.

    A simulated session gives NotMeasured: its speed is not that of the variant.
    """
    if session.simulated:
        return _simulated()
    speeds = []
    width, height = session.spec.input_wh
    with progress.task("timing the session", float(len(batch_sizes))) as task:
        for done, batch in enumerate(_checked(batch_sizes)):
            noise = np.random.default_rng(0).standard_normal((batch, 3, height, width), np.float32)
            samples = _time_calls(partial(session.run, noise), seconds)
            rate = 1000 * batch * len(samples) / sum(samples)
            speeds.append(Speed(batch, percentiles(samples), rate, len(samples)))
            task.update(done + 1.0)
    return tuple(speeds)


def measure_pipeline(
    session: Session,
    pictures: Sequence[Picture],
    batch_sizes: Sequence[int] = (1, 8),
    *,
    flip_test: bool = False,
    seconds: float = 3.0,
    progress: Progress = SILENT,
) -> tuple[Speed, ...] | NotMeasured:
    """Time the deployed pipeline, from a decoded image and its boxes to keypoints.

    Latency is that of one call of ``PoseEstimator`` with one image and as many boxes as the batch size (the
    boxes of a picture repeat where it has fewer). Throughput is that of ``PoseEstimator.stream``, which
    overlaps its steps, over the pictures again and again, filling and emptying of the pipeline included.

    seconds: time spent on each of the two, for each batch size. The session stays open.
    A simulated session gives NotMeasured. Raises DataError without a picture that has a box.
    """
    if session.simulated:
        return _simulated()
    usable = [picture for picture in pictures if len(picture.boxes_xyxy)]
    if not usable:
        raise DataError("the pipeline cannot be timed: no picture has a box")
    speeds = []
    with progress.task("timing the pipeline", float(len(batch_sizes))) as task:
        for done, batch in enumerate(_checked(batch_sizes)):
            estimator = PoseEstimator.from_session(session, flip_test, max_batch=batch)
            samples = _call_latencies(estimator, usable, batch, seconds)
            rate = _stream_rate(estimator, usable, seconds, batch)
            speeds.append(Speed(batch, percentiles(samples), rate, len(samples)))
            task.update(done + 1.0)
    return tuple(speeds)


def measure_classifier(
    session: Session,
    images: Sequence[NDArray[np.uint8]],
    batch_sizes: Sequence[int] = (1, 8),
    *,
    seconds: float = 3.0,
    progress: Progress = SILENT,
) -> tuple[Speed, ...] | NotMeasured:
    """Time the deployed pipeline of a classifier, from decoded images to classes.

    Latency is that of one call of ``Classifier.batch``, throughput that of ``Classifier.stream``; otherwise
    as ``measure_pipeline``.
    """
    if session.simulated:
        return _simulated()
    if not images:
        raise DataError("the pipeline cannot be timed: there is no image")
    speeds = []
    classifier = Classifier.from_session(session)
    with progress.task("timing the pipeline", float(len(batch_sizes))) as task:
        for done, batch in enumerate(_checked(batch_sizes)):
            samples = _time_calls(partial(_classify_next, classifier, cycle(images), batch), seconds)
            rate = _classifier_rate(classifier, images, seconds, batch)
            speeds.append(Speed(batch, percentiles(samples), rate, len(samples)))
            task.update(done + 1.0)
    return tuple(speeds)


def sample_images(dataset: ImageNet, limit: int = 16) -> tuple[NDArray[np.uint8], ...]:
    """The first ``limit`` images of a dataset, decoded."""
    return tuple(read_image(image.path) for image in dataset.images[:limit])


def sample_pictures(dataset: CocoPersons, limit: int = 16) -> tuple[Picture, ...]:
    """The first ``limit`` images of a dataset, decoded, with their boxes."""
    return tuple(
        Picture(read_image(image.path), np.stack([person.box_xyxy for person in image.persons]))
        for image in dataset.images[:limit]
    )


def _simulated() -> NotMeasured:
    return NotMeasured("its number type is simulated on this processor, so its speed here means nothing")


def _checked(batch_sizes: Sequence[int]) -> Sequence[int]:
    if not batch_sizes or min(batch_sizes) < 1:
        raise DataError(
            f"batch sizes {list(batch_sizes)} cannot be timed; give at least one, and positive ones only"
        )
    return batch_sizes


def _time_calls(call: Callable[[], object], seconds: float) -> list[float]:
    """Milliseconds of each call, for ``seconds`` and at least five calls."""
    for _ in range(_WARM_UP):
        call()
    samples: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(samples) < _FEWEST_SAMPLES or time.perf_counter() < deadline:
        start = time.perf_counter()
        call()
        samples.append(1000 * (time.perf_counter() - start))
    return samples


def _call_latencies(
    estimator: PoseEstimator, pictures: Sequence[Picture], batch: int, seconds: float
) -> list[float]:
    turns = cycle([(picture.image, np.resize(picture.boxes_xyxy, (batch, 4))) for picture in pictures])
    return _time_calls(lambda: estimator(*next(turns)), seconds)


def _stream_rate(estimator: PoseEstimator, pictures: Sequence[Picture], seconds: float, batch: int) -> float:
    """Persons per second from the first image handed in to the last keypoints handed out."""
    start = time.perf_counter()
    for_images, for_boxes = tee(_repeated(pictures, start + seconds, _FEWEST_SAMPLES * batch))
    images = (picture.image for picture in for_images)
    boxes = (picture.boxes_xyxy for picture in for_boxes)
    persons = sum(len(scores) for _, scores in estimator.stream(images, boxes))
    return persons / (time.perf_counter() - start)


def _classify_next(classifier: Classifier, images: Iterator[NDArray[np.uint8]], batch: int) -> None:
    classifier.batch(list(islice(images, batch)))


def _classifier_rate(
    classifier: Classifier, images: Sequence[NDArray[np.uint8]], seconds: float, batch: int
) -> float:
    start = time.perf_counter()
    fewest = _FEWEST_SAMPLES * batch
    enough = takewhile(
        lambda turn: turn[0] < fewest or time.perf_counter() < start + seconds, enumerate(cycle(images))
    )
    count = sum(1 for _ in classifier.stream((image for _, image in enough), batch))
    return count / (time.perf_counter() - start)


def _repeated(pictures: Sequence[Picture], deadline: float, fewest_persons: int) -> Iterator[Picture]:
    persons = 0
    for picture in cycle(pictures):
        if persons >= fewest_persons and time.perf_counter() >= deadline:
            return
        yield picture
        persons += len(picture.boxes_xyxy)
