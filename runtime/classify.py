"""Classifier: an image in, the likeliest classes out, with the variant of a bundle that the caller chose."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, DataError, SessionError
from .bundle import open_bundle
from .preprocess import check_image, packing
from .resize import resize_part
from .sessions import Session
from .sessions.onnxruntime import OnnxRuntimeSession
from .spec import ModelSpec
from .stream import overlapped

TOP = 5

Classes = tuple[NDArray[np.intp], NDArray[np.float32]]


class ImagePreprocessor:
    """The deployed preprocessing of one classifier: short edge, centre crop, normalisation (mmpretrain's)."""

    def __init__(self, spec: ModelSpec) -> None:
        self._input_wh = spec.input_wh
        self._short = spec.resize_short
        self._channels, self._tables = packing(spec)

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """A batch (N, 3, H, W) float32 of N images, uint8 HWC BGR. Raises DataError for an unusable image."""
        width, height = self._input_wh
        batch = np.empty((len(images), 3, height, width), np.float32)
        for planes, image in zip(batch, images, strict=True):
            crop = self._crop(image)
            for plane, channel, table in zip(planes, self._channels, self._tables, strict=True):
                table.take(crop[..., channel], out=plane, mode="clip")
        return batch

    def _crop(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        check_image(image)
        height, width = image.shape[:2]
        short = min(width, height)
        # the longer side is cut to whole pixels, the corner rounded half to even
        size = (self._short * width // short, self._short * height // short)
        corner = tuple(round((side - part) / 2) for side, part in zip(size, self._input_wh, strict=True))
        return resize_part(image, size, (corner[0], corner[1]), self._input_wh)


def top_classes(logits: NDArray[np.float32]) -> Classes:
    """Indices (N, 5) of the likeliest classes of logits (N, C), best first, and their probabilities.

    Of equal logits the lower index comes first. There are C columns where C is below five. Logits that are
    not a number come last, with probability 0.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.nan_to_num(logits.astype(np.float64), nan=-np.inf, neginf=-np.inf, posinf=np.inf)
        highest = finite.max(axis=1, keepdims=True)
        powers = np.nan_to_num(np.exp(finite - highest), nan=0.0)
        powers[finite == np.inf] = 1.0
        total = powers.sum(axis=1, keepdims=True)
        probabilities = np.divide(powers, total, out=np.zeros_like(powers), where=total > 0)
    indices = np.argsort(-finite, axis=1, kind="stable")[:, :TOP]
    return indices, np.take_along_axis(probabilities, indices, axis=1).astype(np.float32)


class Classifier:
    """Image classification with one variant of a bundle, on onnxruntime: on the CPU, wherever it runs.

    bundle: the directory that ``posedge deploy`` wrote.
    variant: "fp32", "fp16", "int8" ...; None takes the bundle's default.
    threads: threads of the network; None takes every core that this process may use.

    Raises BundleError when the bundle is incomplete or altered, has no such variant or is no classifier's,
    and what OnnxRuntimeSession raises.

        with Classifier("out/resnext50-32x4d") as classifier:
            classes, probabilities = classifier(image)
    """

    def __init__(self, bundle: Path | str, variant: str | None = None, threads: int | None = None) -> None:
        opened = open_bundle(Path(bundle))
        name = opened.default_variant if variant is None else variant
        graph = opened.path(opened.variant(name).graph)
        _require_classifier(opened.spec)
        self._start(OnnxRuntimeSession(graph, opened.spec, threads), name)

    @classmethod
    def from_session(cls, session: Session, variant: str | None = None) -> "Classifier":
        """A classifier on a session that is open already; closing the classifier closes it."""
        _require_classifier(session.spec)
        classifier = cls.__new__(cls)
        classifier._start(session, variant)
        return classifier

    def _start(self, session: Session, variant: str | None) -> None:
        self._session: Session | None = session
        self._variant = variant
        self._spec = session.spec
        self._preprocess = ImagePreprocessor(session.spec)

    @property
    def spec(self) -> ModelSpec:
        """How the model is fed and read."""
        return self._spec

    @property
    def variant(self) -> str | None:
        """The variant that runs; None for a classifier made from a session without naming it."""
        return self._variant

    def __call__(self, image: NDArray[np.uint8]) -> Classes:
        """The five likeliest classes of an image, uint8 (height, width, 3) BGR, best first.

        Returns class indices (5,) and probabilities (5,) float32; fewer where the model has fewer classes.

        Raises DataError for an unusable image, SessionError when the classifier is closed or the backend
        fails.
        """
        classes, probabilities = self.batch([image])
        return classes[0], probabilities[0]

    def batch(self, images: Sequence[NDArray[np.uint8]]) -> Classes:
        """What ``__call__`` returns for each of N images, as (N, 5) each, in one run of the network."""
        self._open_session()
        return top_classes(self._run(self._preprocess(images)))

    def stream(self, images: Iterable[NDArray[np.uint8]], max_batch: int = 8) -> Iterator[Classes]:
        """Yield what ``__call__`` returns for each image, in order, with overlapping work.

        ``images`` is iterated in a thread of its own; batches of ``max_batch`` run at once. Raises as
        ``__call__`` does, after the results of the batches before.
        """
        self._open_session()
        if max_batch < 1:
            raise DataError(f"max_batch is {max_batch}; a batch holds at least one image")
        return self._stream(images, max_batch)

    def _stream(self, images: Iterable[NDArray[np.uint8]], max_batch: int) -> Iterator[Classes]:
        groups = (self._preprocess(group) for group in _groups(images, max_batch))
        with closing(overlapped(groups, self._run, top_classes)) as results:
            for classes, probabilities in results:
                yield from zip(classes, probabilities, strict=True)

    def close(self) -> None:
        """Free the model. A second call does nothing; a stream that is under way ends with SessionError."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def __enter__(self) -> "Classifier":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_session(self) -> Session:
        if self._session is None:
            raise SessionError("this Classifier is closed. Open the bundle again.")
        return self._session

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        (logits,) = self._open_session().run(batch)
        return logits


def _groups(images: Iterable[NDArray[np.uint8]], size: int) -> Iterator[list[NDArray[np.uint8]]]:
    turn = iter(images)
    while group := list(islice(turn, size)):
        yield group


def _require_classifier(spec: ModelSpec) -> None:
    if spec.task != "classification":
        raise BundleError(f"{spec.name} is a {spec.task} model, no classifier. Open it with PoseEstimator.")
