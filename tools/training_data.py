"""Endless training crops of posed persons, drawn or of a COCO-format set, made in a process of its own."""

import json
import multiprocessing
import os
import queue
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from posedge.benchmarks.drawn.scene import sample_scene
from posedge.calibration.datasets import CocoPersons
from posedge.errors import DataError
from posedge.runtime.boxes import boxes_to_centre_scale, xywh_to_xyxy
from posedge.runtime.images import read_image
from posedge.runtime.preprocess import warp_matrix
from posedge.runtime.spec import ModelSpec

_TRAINING, _HELD_OUT = 0x7261696E, 0x6865_6C64  # first words of seeds, apart from any set that is written
_POOL = 4  # batches among which crops are shuffled: those of one picture should not meet in one batch


@dataclass(frozen=True)
class Augmentation:
    """Largest random changes: of the box's size (factor), place (of its size), angle (degrees) and colour."""

    zoom: float = 0.15
    shift: float = 0.05
    angle: float = 15.0
    rotated: float = 0.5  # how many of the crops are turned at all
    colour: float = 0.1
    mirrored: float = 0.5


NONE = Augmentation(zoom=0, shift=0, angle=0, rotated=0, colour=0, mirrored=0)


@dataclass(frozen=True)
class Source:
    """Where pictures come from: ``annotations`` and ``images`` of a COCO-format set, or drawn where None."""

    seed: int
    annotations: Path | None = None
    images: Path | None = None


@dataclass(frozen=True)
class Batch:
    """Crops and what they show.

    crops: (N, H, W, 3) uint8 BGR. keypoints: (N, K, 3), pixels of the crop and COCO's flag.
    areas: (N,), of the persons in pixels of the crop, for the similarity of poses.
    """

    crops: NDArray[np.uint8]
    keypoints: NDArray[np.float32]
    areas: NDArray[np.float32]


# a picture, boxes xyxy (N, 4), keypoints (N, K, 3), areas (N,)
Picture = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]


def drawn_pictures(first_word: int, seed: int, start: int = 0) -> Iterator[Picture]:
    """Drawn pictures without end."""
    index = start
    while True:
        image, figures = sample_scene((first_word, seed, index))
        index += 1
        figures = [figure for figure in figures if (figure.keypoints[:, 2] > 0).sum() >= 4]
        if figures:
            boxes = xywh_to_xyxy(np.array([figure.box_xywh for figure in figures]))
            keypoints = np.stack([figure.keypoints for figure in figures])
            yield image, boxes, keypoints, np.array([figure.area for figure in figures])


def coco_pictures(source: Source, joints: int, rng: np.random.Generator) -> Iterator[Picture]:
    """The pictures of a COCO-format set in random order, again and again."""
    assert source.annotations is not None
    assert source.images is not None
    dataset = CocoPersons.load(source.annotations, source.images)
    if dataset.num_joints != joints:
        raise DataError(
            f"{source.annotations}: persons have {dataset.num_joints} joints, the model has {joints}. "
            "Choose a model or a file that fits."
        )
    document = json.loads(source.annotations.read_text("utf-8"))
    keypoints = {
        record["id"]: np.array(record["keypoints"], np.float64).reshape(-1, 3)
        for record in document["annotations"]
        if "keypoints" in record
    }
    while True:
        for index in rng.permutation(len(dataset.images)):
            record = dataset.images[int(index)]
            persons = record.persons
            yield (
                read_image(record.path),
                np.stack([person.box_xyxy for person in persons]),
                np.stack([keypoints[person.annotation_id] for person in persons]),
                np.array([person.area for person in persons]),
            )


def crop_batches(
    pictures: Iterator[Picture],
    spec: ModelSpec,
    batch: int,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> Iterator[Batch]:
    """Crops of ``pictures`` in batches, shuffled among their neighbours where there is augmentation."""
    pool: list[tuple[NDArray[np.uint8], NDArray[np.float32], float]] = []
    size = batch * (_POOL if augmentation != NONE else 1)
    for image, boxes, keypoints, areas in pictures:
        for box, joints, area in zip(boxes, keypoints, areas, strict=True):
            pool.append(_crop(image, box, joints, float(area), spec, augmentation, rng))
        while len(pool) >= size:
            if augmentation != NONE:
                chosen = set(rng.choice(len(pool), batch, replace=False).tolist())
            else:
                chosen = set(range(batch))
            taken = [item for index, item in enumerate(pool) if index in chosen]
            pool = [item for index, item in enumerate(pool) if index not in chosen]
            crops, points, sizes = zip(*taken, strict=True)
            yield Batch(np.stack(crops), np.stack(points), np.array(sizes, np.float32))


def check_batches(source: Source, spec: ModelSpec, batch: int, count: int) -> list[Batch]:
    """``count`` batches, cropped as deployed, on which accuracy is checked.

    Drawn figures that no training sees; for a COCO-format set its own persons, which shows how closely it is
    fitted.
    """
    rng = np.random.default_rng(0)
    if source.annotations is None:
        pictures = drawn_pictures(_HELD_OUT, 0)
    else:
        pictures = coco_pictures(source, spec.num_joints, rng)
    batches = crop_batches(pictures, spec, batch, NONE, rng)
    return [next(batches) for _ in range(count)]


def _crop(
    image: NDArray[np.uint8],
    box: NDArray[np.float32],
    keypoints: NDArray[np.float64],
    area: float,
    spec: ModelSpec,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], float]:
    """The deployed crop of a box, moved, turned, mirrored and recoloured at random."""
    centre, scale = boxes_to_centre_scale(box[None], spec.input_wh, spec.box_padding)
    scale = scale * np.float32(rng.uniform(1 - augmentation.zoom, 1 + augmentation.zoom))
    shift = rng.uniform(-augmentation.shift, augmentation.shift, 2)
    centre = (centre + scale * shift).astype(np.float32)
    matrix = warp_matrix(centre, scale, spec.input_wh)[0]
    zoom = float(matrix[0, 0])
    width, height = spec.input_wh
    if rng.random() < augmentation.rotated:
        angle = np.radians(rng.uniform(-augmentation.angle, augmentation.angle))
        matrix = _turned(matrix, angle, (width / 2, height / 2))
    if mirrored := rng.random() < augmentation.mirrored:
        matrix = matrix.copy()
        matrix[0] = -matrix[0]
        matrix[0, 2] += width - 1
    crop = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
    points = keypoints.astype(np.float64).copy()
    points[:, :2] = keypoints[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    if mirrored:
        for left, right in spec.flip_pairs:
            points[[left, right]] = points[[right, left]]
    if augmentation.colour:
        gain = 1 + rng.uniform(-augmentation.colour, augmentation.colour, 3)
        tables = np.clip(
            np.arange(256)[:, None] * gain + rng.uniform(-20, 20) * augmentation.colour * 5, 0, 255
        )
        crop = cv2.LUT(crop, tables.astype(np.uint8)[None])
    return np.asarray(crop, np.uint8), points.astype(np.float32), area * zoom**2


def _turned(matrix: NDArray[np.float64], angle: float, about: tuple[float, float]) -> NDArray[np.float64]:
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, sine], [-sine, cosine]])
    turned = turn @ matrix
    turned[:, 2] += np.array(about) - turn @ np.array(about)
    return turned


def _produce(output: Any, source: Source, spec: ModelSpec, batch: int, start: int) -> None:
    """Body of the worker: fill ``output`` with batches until the trainer is gone."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to handle
    os.nice(10)
    cv2.setNumThreads(1)
    rng = np.random.default_rng((source.seed, start))
    pictures = (
        drawn_pictures(_TRAINING, source.seed, start)
        if source.annotations is None
        else coco_pictures(source, spec.num_joints, rng)
    )
    parent = os.getppid()
    try:
        for made in crop_batches(pictures, spec, batch, Augmentation(), rng):
            while True:
                try:
                    output.put(made, timeout=5)
                    break
                except queue.Full:
                    if os.getppid() != parent:
                        output.cancel_join_thread()  # nobody will read what is in the pipe
                        return
    except Exception as error:  # the trainer raises it again
        output.put(error)


class CropWorker:
    """A process that makes training batches. ``start`` goes on with other pictures after a resumption."""

    def __init__(self, source: Source, spec: ModelSpec, batch: int, start: int = 0) -> None:
        context = multiprocessing.get_context("spawn")
        self._output: Any = context.Queue(maxsize=8)
        self._process = context.Process(
            target=_produce, args=(self._output, source, spec, batch, start), daemon=True
        )
        self._process.start()

    def batch(self) -> Batch:
        """The next batch. Raises what the worker raised."""
        while True:
            try:
                made = self._output.get(timeout=5)
            except queue.Empty:
                if not self._process.is_alive():
                    raise RuntimeError("the process that makes training crops died") from None
                continue
            if isinstance(made, Exception):
                raise made
            assert isinstance(made, Batch)
            return made

    def waiting(self) -> int:
        """Batches made ahead of time; always 0 means that training waits for pictures."""
        return int(self._output.qsize())

    def close(self) -> None:
        self._process.terminate()
        self._process.join()
        self._output.close()
        self._output.cancel_join_thread()
