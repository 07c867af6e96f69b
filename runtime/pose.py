"""PoseEstimator: images and boxes in, keypoints out, with the variant of a bundle that the caller chose."""

import warnings
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import BundleError, DataError, DeviceError, SessionError
from .bundle import open_bundle
from .host_pipeline import CLOSED
from .open_pipeline import Device, open_pipeline, session_pipeline
from .pipeline import Grouped, Labelled, Lane, Pipeline, group_persons, numbered, regroup_images
from .sessions import Session
from .spec import ModelSpec
from .stream import overlapped
from .warmup import black_image, whole_number, whole_numbers
from .yuv import check_yuv

Keypoints = NDArray[np.float32]
Scores = NDArray[np.float32]


class PoseEstimator:
    """Top-down pose estimation with one variant of a bundle, on a CUDA device or on the CPU.

    bundle: the directory that ``posedge deploy`` wrote.
    variant: "fp32", "fp16", "int8" ...; None takes the bundle's default.
    threads: threads of the network on the CPU; None takes every core that this process may use.
    flip_test: run each crop mirrored too and average the outputs: twice the work, a little more accuracy.
    max_batch: how many persons run at once at most; an engine for smaller batches lowers it.
    device: "cuda" runs the variant's engine with TensorRT, "cpu" its graph with onnxruntime. "auto" takes
        the GPU where driver, binding, library, device and an engine for it are; ``no_gpu`` says what was not.
    yuv: the colour standard of NV12 frames (see ``posedge.runtime.yuv``).

    Raises BundleError when the bundle is incomplete or altered or has no such variant, what
    OnnxRuntimeSession raises, and on a GPU what TensorRTSession raises; DeviceError for "cuda" with the first
    thing that is missing.

    On a GPU an estimator must be closed: one that is forgotten keeps its memory on the device, and there is a
    ResourceWarning.

        with PoseEstimator("out/rsn_18_256x192") as pose:
            keypoints, scores = pose(image, boxes)
    """

    _opened_device = False  # rather than having got an open session

    def __init__(
        self,
        bundle: Path | str,
        variant: str | None = None,
        threads: int | None = None,
        flip_test: bool = False,
        max_batch: int = 8,
        *,
        device: Device = "auto",
        yuv: str = "bt601",
    ) -> None:
        opened = open_bundle(Path(bundle))
        name = opened.default_variant if variant is None else variant
        opened.variant(name)
        _check(opened.spec, max_batch, yuv)
        pipeline, self._no_gpu = open_pipeline(opened, name, device, threads, flip_test, yuv)
        self._start(pipeline, name, max_batch)
        self._opened_device = True

    @classmethod
    def from_session(
        cls,
        session: Session,
        flip_test: bool = False,
        max_batch: int = 8,
        variant: str | None = None,
        *,
        yuv: str = "bt601",
    ) -> "PoseEstimator":
        """An estimator on a session that is open already; closing the estimator closes it.

        On a TensorRTSession all the work is done on its device.
        """
        _check(session.spec, max_batch, yuv)
        estimator = cls.__new__(cls)
        pipeline = session_pipeline(session, flip_test, yuv)
        estimator._no_gpu = (
            f"it was made from a session on {session.name}" if pipeline.device == "cpu" else None
        )
        estimator._start(pipeline, variant, max_batch)
        return estimator

    def _start(self, pipeline: Pipeline, variant: str | None, max_batch: int) -> None:
        self._pipeline: Pipeline | None = pipeline
        self._device = pipeline.device
        self._spec = pipeline.spec
        self._variant = variant
        self._max_batch = max_batch if pipeline.largest is None else min(max_batch, pipeline.largest)

    @property
    def spec(self) -> ModelSpec:
        """How the model is fed and read."""
        return self._spec

    @property
    def variant(self) -> str | None:
        """The variant that runs; None for an estimator made from a session without naming it."""
        return self._variant

    @property
    def device(self) -> str:
        """What it runs on: "cpu", or the name of the GPU."""
        return self._device

    @property
    def no_gpu(self) -> str | None:
        """Why it runs on the CPU; None on a GPU."""
        return self._no_gpu

    def __call__(self, image: object, boxes: ArrayLike) -> tuple[Keypoints, Scores]:
        """Find the joints of the persons in ``boxes``.

        image: uint8 (height, width, 3) BGR: a numpy array, or what lends its memory by DLPack. On a GPU also
            what is there already, by DLPack or ``__cuda_array_interface__``, and an ``Nv12Frame``; it is
            read where it is.
        boxes: (N, 4) xyxy in pixels; N may be 0.

        Returns keypoints (N, K, 2) float32, x and y in image pixels, and scores (N, K) float32 in [0, 1].
        A joint whose heatmap (or a distribution) is empty or not finite has score 0.

        Raises DataError for an unusable image or box (with its index), SessionError when the estimator is
        closed or the backend fails, DeviceError when the device does.
        """
        with self._open_pipeline().lane() as lane:
            return self._one(lane, image, boxes)

    def stream(
        self, images: Iterable[object], boxes: Iterable[ArrayLike]
    ) -> Iterator[tuple[Keypoints, Scores]]:
        """Yield what ``__call__`` returns for each image and its boxes, in order, with overlapping work.

        ``images`` and ``boxes`` are iterated in a thread of their own: a generator that reads files overlaps
        with the network too, and on a GPU the next images are uploaded meanwhile. Persons of successive
        images share batches of ``max_batch``; an image waits until its last person's batch is full, or until
        ``max_batch`` images are waiting. ``max_batch=1`` has the shortest delay, 8 and more the most persons
        per second. An image on the GPU must stay as it is until its result came.

        Raises as ``__call__`` does, in the place of the image's result (the message names its position), and
        DataError when one of the two runs out before the other. Close the iterator
        (``contextlib.closing``) to stop early.
        """
        return self._stream(self._open_pipeline(), numbered(images, boxes))

    def warmup(self, image_wh: tuple[int, int] = (1920, 1080), sizes: Iterable[int] | None = None) -> None:
        """Do now what the first calls would: set up and capture batches, and take memory.

        image_wh: width and height of the largest images to come. sizes: how many persons the batches have;
        None is each from 1 to ``max_batch``. After it nothing is allocated on a GPU for such images, in calls
        and in one stream at a time.

        Raises as ``__call__`` does, and DataError for sizes that no image and no batch has.
        """
        image = black_image(image_wh)
        box = [0, 0, image.shape[1], image.shape[0]]
        if sizes is None:
            sizes = range(1, self._max_batch + 1)
        # graphs are limited: the largest batches, which streams run, come first
        for size in sorted(whole_numbers("sizes", sizes), reverse=True):
            self(image, [box] * size)
        for _ in self.stream([image] * (2 * self._max_batch), [[box]] * (2 * self._max_batch)):
            pass  # both sets of buffers have room for as many images as a batch can have
        self._open_pipeline().warmed_up()

    def profile(self, image: object, boxes: ArrayLike, rounds: int = 10) -> dict[str, float]:
        """Milliseconds of each stage for an image and its boxes: the median of ``rounds`` after a first one.

        On a GPU by events around "upload" (none for an image that is there), "warp", "network", "decode" and
        "download", started one by one: without the CUDA graph, so that the sum is above what a call takes.
        On the CPU "warp", "network" and "decode" by the host's clock. A stage that did not occur is left out.

        Raises as ``__call__`` does, and DataError for fewer than one round.
        """
        rounds = whole_number("rounds", rounds)
        found: dict[str, list[float]] = defaultdict(list)
        for round_ in range(rounds + 1):
            with self._open_pipeline().lane() as lane:
                lane.time_stages()
                self._one(lane, image, boxes)
                for stage, time in lane.times().items() if round_ else ():
                    found[stage].append(time)
        return {stage: median(times) for stage, times in found.items()}

    def close(self) -> None:
        """Free the model. A second call does nothing; a stream that is under way ends with SessionError."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.close()

    def __del__(self) -> None:
        pipeline = getattr(self, "_pipeline", None)
        # Not closed here: the collector runs in any thread, also in one that is at work with the device. A
        # session that was there before is its maker's to close.
        if pipeline is not None and self._opened_device and pipeline.leaks:
            warnings.warn(
                f"a PoseEstimator on {self._device} was forgotten: what it has on the device stays until the "
                "process ends. Close it, or use it in a with block.",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def __enter__(self) -> "PoseEstimator":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_pipeline(self) -> Pipeline:
        if self._pipeline is None:
            raise SessionError(CLOSED)
        if self._pipeline.lost is not None:
            raise DeviceError(
                f"this PoseEstimator is closed: the device was lost ({self._pipeline.lost}). Start the "
                "process again; look with nvidia-smi whether the device is well.",
                self._pipeline.lost,
            )
        return self._pipeline

    def _one(self, lane: Lane, image: object, boxes: ArrayLike) -> tuple[Keypoints, Scores]:
        groups = group_persons([("", image, boxes)], lane, self._max_batch)
        return next(regroup_images(_one_by_one(groups, lane), self._spec.num_joints))

    def _stream(
        self, pipeline: Pipeline, images: Iterator[Labelled]
    ) -> Generator[tuple[Keypoints, Scores], None, None]:
        with pipeline.lane() as lane:
            batches = overlapped(
                group_persons(images, lane, self._max_batch),
                lambda batch: Grouped(lane.run(batch.work), batch.image_sizes),
                lambda ran: Grouped(lane.finish(ran.work), ran.image_sizes),
                stop=lane.stop,
            )
            with closing(batches):
                yield from regroup_images(batches, self._spec.num_joints)


def _check(spec: ModelSpec, max_batch: int, yuv: str) -> None:
    if spec.task != "pose":
        raise BundleError(f"{spec.name} is a {spec.task} model and finds no joints. Open it with Classifier.")
    if max_batch < 1:
        raise DataError(f"max_batch is {max_batch}; a batch holds at least one person")
    check_yuv(yuv)


def _one_by_one(groups: Iterator[Grouped], lane: Lane) -> Generator[Grouped, None, None]:
    for batch in groups:
        yield Grouped(lane.finish(lane.run(batch.work)), batch.image_sizes)
