"""How much of the bare session's throughput the whole pipeline keeps, on real images.

    python -m posedge.benchmarks.pipeline_overlap --model model.onnx --spec model.json \
        --images DIR --annotations FILE

Compares, on the same persons:

    session     ``session.run`` on crops that were made beforehand: the upper limit
    pipeline    ``PoseEstimator.stream`` from decoded images to keypoints
    with files  the same, reading and decoding the image files too
    one by one  a call of ``PoseEstimator`` per image: no overlap, and an image's persons alone in a batch

The four take turns, so that other load on the machine meets all of them alike; a ratio is the median of the
ratios within a turn. The processor time of a person, over all threads, hardly depends on other load; where
the network keeps every core busy, nothing can overlap and the ratio of these times is the one to expect.
"""

import argparse
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..calibration.datasets import CocoPersons, batches
from ..errors import PosedgeError
from ..runtime.images import read_image
from ..runtime.pose import PoseEstimator
from ..runtime.preprocess import Preprocessor
from ..runtime.sessions import Session
from ..runtime.sessions.onnxruntime import OnnxRuntimeSession
from ..runtime.spec import read_spec
from .place import device_description

_TARGET = 0.85
_VERSIONS_OF = ("numpy", "onnxruntime", "opencv-python-headless", "opencv-python")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 when the pipeline keeps 0.85 of the session's throughput, 1 when not."""
    options = _parser().parse_args(arguments)
    try:
        turns = _measure(options)
    except PosedgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print_turns(turns)
    ratio = _ratio(turns, "pipeline")
    print(f"\npipeline / session: {ratio:.3f} (target: at least {_TARGET})")
    return 0 if ratio >= _TARGET else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m posedge.benchmarks.pipeline_overlap")
    parser.add_argument("--model", type=Path, required=True, help="ONNX file")
    parser.add_argument("--spec", type=Path, help="spec of the model, when the ONNX file carries none")
    parser.add_argument("--images", type=Path, required=True, help="directory of the images")
    parser.add_argument("--annotations", type=Path, required=True, help="COCO keypoint annotation file")
    parser.add_argument("--persons", type=int, default=160, help="how many persons a turn takes (160)")
    parser.add_argument("--batch", type=int, default=8, help="persons per batch (8)")
    parser.add_argument("--threads", type=int, help="threads of the network (every core)")
    parser.add_argument("--repeats", type=int, default=7, help="turns (7)")
    return parser


@dataclass(frozen=True)
class _Turn:
    """One way's figures in one turn: persons per second, and milliseconds of processor time per person."""

    rate: float
    processor_ms: float


def _measure(options: argparse.Namespace) -> dict[str, list[_Turn]]:
    """What each way did, one entry for each turn."""
    spec = None if options.spec is None else read_spec(options.spec)
    dataset = CocoPersons.load(options.annotations, options.images).take(options.persons)
    with OnnxRuntimeSession(options.model, spec, options.threads) as session:
        _print_conditions(options, session, dataset)
        ways = _ways(session, dataset, options.batch)
        for way in ways.values():
            way()  # warms caches and memory pools
        turns: dict[str, list[_Turn]] = {name: [] for name in ways}
        for _ in range(options.repeats):
            for name, way in ways.items():
                turns[name].append(_timed(way, len(dataset.persons)))
    return turns


def _timed(way: Callable[[], None], persons: int) -> _Turn:
    start, start_processor = time.perf_counter(), time.process_time()
    way()
    seconds, processor_seconds = time.perf_counter() - start, time.process_time() - start_processor
    return _Turn(persons / seconds, 1000 * processor_seconds / persons)


def _ways(session: Session, dataset: CocoPersons, batch: int) -> dict[str, Callable[[], None]]:
    preprocessor = Preprocessor(session.spec)
    crops = [part.batch for part in batches(dataset, preprocessor, batch)]
    images = [read_image(record.path) for record in dataset.images]
    boxes = [np.stack([person.box_xyxy for person in record.persons]) for record in dataset.images]
    pose = PoseEstimator.from_session(session, max_batch=batch)

    def run_session() -> None:
        for part in crops:
            session.run(part)

    def run_files() -> None:
        _exhaust(pose, (read_image(record.path) for record in dataset.images), boxes)

    def run_one_by_one() -> None:
        for image, image_boxes in zip(images, boxes, strict=True):
            pose(image, image_boxes)

    return {
        "session": run_session,
        "pipeline": partial(_exhaust, pose, images, boxes),
        "with files": run_files,
        "one by one": run_one_by_one,
    }


def _exhaust(
    pose: PoseEstimator, images: Iterable[NDArray[np.uint8]], boxes: Iterable[NDArray[np.float32]]
) -> None:
    for _ in pose.stream(images, boxes):
        pass


def _print_conditions(options: argparse.Namespace, session: OnnxRuntimeSession, dataset: CocoPersons) -> None:
    print(f"command   {shlex.join(sys.argv)}")
    print(f"device    {device_description()}; network threads: {session.threads}")
    print(f"versions  Python {platform.python_version()}, {', '.join(_versions())}")
    print(
        f"data      {len(dataset.persons)} persons in {len(dataset.images)} images, "
        f"batches of {options.batch}, {options.repeats} turns"
    )
    if session.simulated:
        print("The model's number type is simulated here: its persons per second say nothing of a device.")


def _versions() -> Iterator[str]:
    for package in _VERSIONS_OF:
        with suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"


def _print_turns(turns: dict[str, list[_Turn]]) -> None:
    print(f"\n{'':12}{'persons/s':>10}{'lowest':>9}{'highest':>9}{'of session':>12}{'CPU ms/person':>15}")
    for name, mine in turns.items():
        rates = [turn.rate for turn in mine]
        processor_ms = statistics.median(turn.processor_ms for turn in mine)
        print(
            f"{name:12}{statistics.median(rates):10.1f}{min(rates):9.1f}{max(rates):9.1f}"
            f"{_ratio(turns, name):12.3f}{processor_ms:15.2f}"
        )


def _ratio(turns: dict[str, list[_Turn]], name: str) -> float:
    """The median over the turns of a way's throughput as a part of the session's."""
    pairs = zip(turns[name], turns["session"], strict=True)
    return statistics.median(mine.rate / bare.rate for mine, bare in pairs)


if __name__ == "__main__":
    sys.exit(main())
