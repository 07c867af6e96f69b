"""PoseEstimator: images and boxes in, keypoints out, with the variant of a bundle that the caller chose."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import BundleError, DataError, SessionError
from .boxes import check_boxes
from .bundle import open_bundle
from .joints import find_joints
from .preprocess import Crops, Preprocessor, check_image
from .sessions import Outputs, Session
from .sessions.onnxruntime import OnnxRuntimeSession
from .spec import ModelSpec
from .stream import overlapped

Keypoints = NDArray[np.float32]
Scores = NDArray[np.float32]
_Labelled = tuple[str, NDArray[np.uint8], ArrayLike]  # how messages name the image, the image, its boxes


@dataclass(frozen=True)
class _Persons:
    """A batch of persons, and for each image that begins in it how many persons that image has."""

    crops: Crops
    image_sizes: list[int]


@dataclass(frozen=True)
class _Raw:
    """What the network made of a batch, as it is and mirrored."""

    persons: _Persons
    outputs: Outputs
    mirrored: Outputs | None


@dataclass(frozen=True)
class _Results:
    """The joints of a batch, and its images as in _Persons."""

    keypoints: Keypoints
    scores: Scores
    image_sizes: list[int]


class PoseEstimator:
    """Top-down pose estimation with one variant of a bundle, on onnxruntime.

    bundle: the directory that ``posedge deploy`` wrote.
    variant: "fp32", "fp16", "int8" ...; None takes the bundle's default.
    threads: threads of the network; None takes every core that this process may use.
    flip_test: run each crop mirrored too and average the outputs: twice the work, a little more accuracy.
    max_batch: how many persons run at once at most.

    Raises BundleError when the bundle is incomplete or altered or has no such variant, and what
    OnnxRuntimeSession raises.

        with PoseEstimator("out/rsn_18_256x192") as pose:
            keypoints, scores = pose(image, boxes)
    """

    def __init__(
        self,
        bundle: Path | str,
        variant: str | None = None,
        threads: int | None = None,
        flip_test: bool = False,
        max_batch: int = 8,
    ) -> None:
        opened = open_bundle(Path(bundle))
        name = opened.default_variant if variant is None else variant
        graph = opened.path(opened.variant(name).graph)
        self._start(OnnxRuntimeSession(graph, opened.spec, threads), name, flip_test, max_batch)

    @classmethod
    def from_session(
        cls, session: Session, flip_test: bool = False, max_batch: int = 8, variant: str | None = None
    ) -> "PoseEstimator":
        """An estimator on a session that is open already; closing the estimator closes it."""
        estimator = cls.__new__(cls)
        estimator._start(session, variant, flip_test, max_batch)
        return estimator

    def _start(self, session: Session, variant: str | None, flip_test: bool, max_batch: int) -> None:
        if session.spec.task != "pose":
            raise BundleError(
                f"{session.spec.name} is a {session.spec.task} model and finds no joints. "
                "Open it with Classifier."
            )
        if max_batch < 1:
            raise DataError(f"max_batch is {max_batch}; a batch holds at least one person")
        self._session: Session | None = session
        self._variant = variant
        self._spec = session.spec
        self._flip_test = flip_test
        self._max_batch = max_batch
        self._preprocess = Preprocessor(session.spec)

    @property
    def spec(self) -> ModelSpec:
        """How the model is fed and read."""
        return self._spec

    @property
    def variant(self) -> str | None:
        """The variant that runs; None for an estimator made from a session without naming it."""
        return self._variant

    def __call__(self, image: NDArray[np.uint8], boxes: ArrayLike) -> tuple[Keypoints, Scores]:
        """Find the joints of the persons in ``boxes``.

        image: uint8 (height, width, 3) BGR. boxes: (N, 4) xyxy in pixels; N may be 0.

        Returns keypoints (N, K, 2) float32, x and y in image pixels, and scores (N, K) float32 in [0, 1].
        A joint whose heatmap (or a distribution) is empty or not finite has score 0.

        Raises DataError for an unusable image or box (with its index), SessionError when the estimator is
        closed or the backend fails.
        """
        self._open_session()
        groups = _group_persons([("", image, boxes)], self._preprocess, self._max_batch)
        finished = (self._finish(self._run(persons)) for persons in groups)
        return next(_regroup_images(finished, self._spec.num_joints))

    def stream(
        self, images: Iterable[NDArray[np.uint8]], boxes: Iterable[ArrayLike]
    ) -> Iterator[tuple[Keypoints, Scores]]:
        """Yield what ``__call__`` returns for each image and its boxes, in order, with overlapping work.

        ``images`` and ``boxes`` are iterated in a thread of their own: a generator that reads files overlaps
        with the network too. Persons of successive images share batches of ``max_batch``; an image waits
        until its last person's batch is full, or until ``max_batch`` images are waiting. ``max_batch=1``
        has the shortest delay, 8 and more the most persons per second.

        Raises as ``__call__`` does, in the place of the image's result (the message names its position), and
        DataError when one of the two runs out before the other. Close the iterator
        (``contextlib.closing``) to stop early.
        """
        self._open_session()
        groups = _group_persons(_pairs(images, boxes), self._preprocess, self._max_batch)
        return _regroup_images(overlapped(groups, self._run, self._finish), self._spec.num_joints)

    def close(self) -> None:
        """Free the model. A second call does nothing; a stream that is under way ends with SessionError."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def __enter__(self) -> "PoseEstimator":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_session(self) -> Session:
        if self._session is None:
            raise SessionError("this PoseEstimator is closed. Open the bundle again.")
        return self._session

    def _run(self, persons: _Persons) -> _Raw:
        session, batch = self._open_session(), persons.crops.batch
        mirrored = session.run(self._preprocess.mirror(batch)) if self._flip_test else None
        return _Raw(persons, session.run(batch), mirrored)

    def _finish(self, raw: _Raw) -> _Results:
        crops = raw.persons.crops
        keypoints, scores = find_joints(raw.outputs, raw.mirrored, self._spec, crops.centre, crops.scale)
        scores = np.clip(np.nan_to_num(scores, nan=0.0, posinf=0.0, neginf=0.0), 0, 1)
        return _Results(keypoints, scores, raw.persons.image_sizes)


def _pairs(images: Iterable[NDArray[np.uint8]], boxes: Iterable[ArrayLike]) -> Iterator[_Labelled]:
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


def _group_persons(
    images: Iterable[_Labelled], preprocess: Preprocessor, max_batch: int
) -> Iterator[_Persons]:
    """Cut the persons of successive images into batches of at most ``max_batch``.

    What waits is handed on before an error is raised, so the images before a bad one keep their results.
    """
    waiting: list[Crops] = []
    image_sizes: list[int] = []
    room = max_batch
    try:
        for label, image, image_boxes in images:
            boxes = _checked_boxes(label, image, image_boxes)
            image_sizes.append(len(boxes))
            while True:
                waiting.append(preprocess(image, boxes[:room]))
                boxes, room = boxes[room:], room - len(waiting[-1].batch)
                if room == 0 or len(image_sizes) == max_batch:
                    yield _Persons(_join(waiting), image_sizes)
                    waiting, image_sizes, room = [], [], max_batch
                if len(boxes) == 0:
                    break
    except Exception:
        if waiting:
            yield _Persons(_join(waiting), image_sizes)
        raise
    if waiting:
        yield _Persons(_join(waiting), image_sizes)


def _checked_boxes(label: str, image: NDArray[np.uint8], boxes: ArrayLike) -> NDArray[np.float32]:
    """Check all of an image's boxes at once, so that a message counts them as the caller does."""
    try:
        check_image(image)
        return check_boxes(boxes, (image.shape[1], image.shape[0]))
    except DataError as error:
        raise DataError(f"{label}{error}") from error


def _join(crops: list[Crops]) -> Crops:
    if len(crops) == 1:
        return crops[0]
    return Crops(
        np.concatenate([part.batch for part in crops]),
        np.concatenate([part.centre for part in crops]),
        np.concatenate([part.scale for part in crops]),
    )


def _regroup_images(
    batches: Generator[_Results, None, None], num_joints: int
) -> Iterator[tuple[Keypoints, Scores]]:
    """Undo ``_group_persons``: one pair of arrays per image, as soon as its last person is there."""
    keypoints = np.zeros((0, num_joints, 2), np.float32)
    scores = np.zeros((0, num_joints), np.float32)
    image_sizes: deque[int] = deque()
    with closing(batches):
        for batch in batches:
            keypoints = np.concatenate([keypoints, batch.keypoints])
            scores = np.concatenate([scores, batch.scores])
            image_sizes.extend(batch.image_sizes)
            while image_sizes and image_sizes[0] <= len(keypoints):
                size = image_sizes.popleft()
                yield keypoints[:size], scores[:size]
                keypoints, scores = keypoints[size:], scores[size:]
