"""From images and boxes to batches and back, the same for every device.

A pipeline is where the work is done: ``HostPipeline`` on the CPU, ``DevicePipeline`` on a GPU. Each call and
each stream of an estimator takes a lane of it. Persons of successive images share batches.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError
from .boxes import check_boxes
from .heatmaps import Poses
from .spec import ModelSpec

Labelled = tuple[str, object, ArrayLike]  # how messages name the image, the image, its boxes


class Seen(Protocol):
    """An image that was looked at and is usable."""

    @property
    def wh(self) -> tuple[int, int]:
        """Width and height in pixels."""


class Lane(Protocol):
    """The way of one call's or one stream's batches through a pipeline.

    ``look``, ``add`` and ``cut`` are called from one thread, ``run`` from one, ``finish`` from one; a batch
    passes them in that order.
    """

    def look(self, image: object) -> Seen:
        """Check an image; little work. Raises DataError for an unusable one."""

    def add(self, image: Any, boxes: NDArray[np.float32], last: bool) -> None:
        """Put persons of an image into the batch that waits. last: the image has no more of them."""

    def cut(self) -> Any:
        """The batch that waits; the next ``add`` begins another."""

    def run(self, batch: Any) -> Any:
        """Start the network on a batch."""

    def finish(self, ran: Any) -> Poses:
        """Keypoints (N, K, 2) in image pixels and scores (N, K) in [0, 1] of a batch."""

    def stop(self) -> None:
        """Let nobody wait in this lane any more: its user has ended."""

    def time_stages(self) -> None:
        """Measure from now on, at the price of what is saved by not measuring."""

    def times(self) -> dict[str, float]:
        """Milliseconds of each stage since ``time_stages``."""


class Pipeline(Protocol):
    """Where batches are made, run and decoded."""

    @property
    def spec(self) -> ModelSpec:
        """How the model is fed and read."""

    @property
    def device(self) -> str:
        """What it runs on, for people."""

    @property
    def largest(self) -> int | None:
        """The most persons of one batch; None for any number."""

    @property
    def leaks(self) -> bool:
        """Whether something outside of Python's memory stays if it is forgotten now."""

    @property
    def lost(self) -> str | None:
        """Why it cannot work any more, None while it can."""

    def warmed_up(self) -> None:
        """What is ready now may be kept for the next process."""

    def lane(self) -> AbstractContextManager[Lane]:
        """A lane for one call or stream."""

    def close(self) -> None:
        """Free what it holds. A second call does nothing; lanes in use fail with SessionError."""


@dataclass(frozen=True)
class Grouped:
    """A batch in any state, and for each image that begins in it how many persons that image has."""

    work: Any
    image_sizes: list[int]


def numbered(images: Iterable[object], boxes: Iterable[ArrayLike]) -> Iterator[Labelled]:
    """zip() that numbers the images and refuses different lengths with an error of ours."""
    end = object()
    all_images, all_boxes = iter(images), iter(boxes)
    for index in count():
        image: Any = next(all_images, end)
        image_boxes: Any = next(all_boxes, end)
        if image is end and image_boxes is end:
            return
        if image is end or image_boxes is end:
            short = "images" if image is end else "boxes"
            raise DataError(f"{short} ran out after {index}: give one array of boxes for each image.")
        yield f"image {index}: ", image, image_boxes


def group_persons(images: Iterable[Labelled], lane: Lane, max_batch: int) -> Iterator[Grouped]:
    """Cut the persons of successive images into batches of at most ``max_batch``.

    What waits is handed on before an error is raised, so the images before a bad one keep their results.
    """
    waiting = False
    image_sizes: list[int] = []
    room = max_batch
    try:
        for label, image, image_boxes in images:
            seen, boxes = _checked(label, image, image_boxes, lane)
            image_sizes.append(len(boxes))
            while True:
                part, boxes = boxes[:room], boxes[room:]
                room -= len(part)
                waiting = True
                lane.add(seen, part, len(boxes) == 0)
                if room == 0 or len(image_sizes) == max_batch:
                    yield Grouped(lane.cut(), image_sizes)
                    waiting, image_sizes, room = False, [], max_batch
                if len(boxes) == 0:
                    break
            del seen, image  # nothing of an image is kept while the next one is waited for
    except Exception:
        if waiting:
            yield Grouped(lane.cut(), image_sizes)
        raise
    if waiting:
        yield Grouped(lane.cut(), image_sizes)


def _checked(label: str, image: object, boxes: ArrayLike, lane: Lane) -> tuple[Seen, NDArray[np.float32]]:
    """Check all of an image's boxes at once, so that a message counts them as the caller does."""
    try:
        seen = lane.look(image)
        return seen, check_boxes(boxes, seen.wh)
    except DataError as error:
        raise DataError(f"{label}{error}") from error


def regroup_images(batches: Generator[Grouped, None, None], num_joints: int) -> Iterator[Poses]:
    """Undo ``group_persons``: one pair of arrays per image, as soon as its last person is there."""
    keypoints = np.zeros((0, num_joints, 2), np.float32)
    scores = np.zeros((0, num_joints), np.float32)
    image_sizes: deque[int] = deque()
    with closing(batches):
        for batch in batches:
            found, found_scores = batch.work
            keypoints = np.concatenate([keypoints, found])
            scores = np.concatenate([scores, found_scores])
            image_sizes.extend(batch.image_sizes)
            while image_sizes and image_sizes[0] <= len(keypoints):
                size = image_sizes.popleft()
                yield keypoints[:size], scores[:size]
                keypoints, scores = keypoints[size:], scores[size:]
