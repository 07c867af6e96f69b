"""The whole pipeline, from a frame and boxes to keypoints: its network alone, the usual way, many frames.

Throughput and latency are by the host's clock, from the call to the keypoints in the host's memory. The
pipeline and what it is compared with take turns, so that a device that warms up meets both alike; a ratio is
the median of those within a turn.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

from ...runtime.joints import find_joints
from ...runtime.pose import PoseEstimator
from ...runtime.preprocess import Preprocessor
from .bench import Bench
from .figures import Figure, Target
from .networks import Network
from .scenes import draw_boxes, draw_frame

THROUGHPUT = Target("pipeline throughput", 0.9, False, "of the network alone")
LATENCY = Target("pipeline latency, p99", 1.2, True, "of p50")
USUAL = Target("against the usual way", 5.0, False, "times its speed")
ALLOCATIONS = Target("allocations after warm-up", 0, True, "calls")
MEMORY = Target("device memory lost", 0, True, "bytes")

_FRAMES = 4  # that differ


@dataclass(frozen=True)
class Scene:
    """A frame, uint8 HWC BGR, and boxes (N, 4) xyxy of its persons."""

    frame: NDArray[np.uint8]
    boxes: NDArray[np.float32]


def pipeline_figures(bench: Bench, network: Network | None, frames: int) -> list[Figure]:
    """The figures of the pipeline around a network, which is closed afterwards.

    frames: how many show that memory stays as it is.
    """
    if network is None:
        reason = "there is no network here"
        return [target.not_measured(reason) for target in (THROUGHPUT, LATENCY, USUAL, ALLOCATIONS, MEMORY)]
    effort = bench.effort
    scenes = [
        Scene(draw_frame(effort.frame_wh, seed), draw_boxes(effort.batch, effort.frame_wh, seed))
        for seed in range(_FRAMES)
    ]
    with PoseEstimator.from_session(network, max_batch=effort.batch) as pose:
        _stream(pose, scenes, 2 * _FRAMES)
        for scene in scenes:
            pose(scene.frame, scene.boxes)
        network.warmup([1, effort.batch])
        return [
            _throughput(bench, network, pose, scenes),
            _latency(bench, pose, scenes),
            _against_the_usual_way(bench, network, pose, scenes),
            *_memory(bench, pose, scenes, frames),
        ]


def _throughput(bench: Bench, network: Network, pose: PoseEstimator, scenes: list[Scene]) -> Figure:
    count, batches = bench.effort.batch, bench.effort.batches

    def alone() -> None:
        for _ in range(batches):
            network.run_on_device(count)
        network.stream.synchronize()

    alone()
    turns = [(_seconds(alone), _stream(pose, scenes, batches)) for _ in range(bench.effort.turns)]
    ratio = statistics.median(network_s / pipeline_s for network_s, pipeline_s in turns)
    network_s, pipeline_s = (statistics.median(times) for times in zip(*turns, strict=True))
    stages = pose.profile(scenes[0].frame, scenes[0].boxes)
    return THROUGHPUT.measured(
        ratio,
        {
            "network alone persons/s": batches * count / network_s,
            "pipeline persons/s": batches * count / pipeline_s,
            "persons in a frame": count,
            **{f"{stage} us, without graph": 1000 * ms for stage, ms in stages.items()},
        },
    )


def _latency(bench: Bench, pose: PoseEstimator, scenes: list[Scene]) -> Figure:
    times = []
    for scene in islice(cycle(scenes), bench.effort.latencies):
        start = time.perf_counter()
        pose(scene.frame, scene.boxes)
        times.append(1e6 * (time.perf_counter() - start))
    p50, p99 = (float(value) for value in np.percentile(times, (50, 99)))
    details = {"p50 us": p50, "p99 us": p99, "slowest us": max(times), "frames": len(times)}
    return LATENCY.measured(p99 / p50, details)


def _against_the_usual_way(
    bench: Bench, network: Network, pose: PoseEstimator, scenes: list[Scene]
) -> Figure:
    frames = bench.effort.usual
    usual_way = UsualWay(network)

    def usual() -> None:
        for scene in islice(cycle(scenes), frames):
            usual_way(scene)

    usual()
    turns = [
        (_seconds(usual) / frames, _stream(pose, scenes, bench.effort.batches) / bench.effort.batches)
        for _ in range(bench.effort.turns)
    ]
    usual_s, pipeline_s = (statistics.median(times) for times in zip(*turns, strict=True))
    distance = np.abs(usual_way(scenes[0])[0] - pose(scenes[0].frame, scenes[0].boxes)[0]).max(axis=-1)
    return USUAL.measured(
        statistics.median(theirs / ours for theirs, ours in turns),
        {
            "usual way us per frame": 1e6 * usual_s,
            "pipeline us per frame": 1e6 * pipeline_s,
            "joints within 0.05 px of each other": float(np.mean(distance <= 0.05)),
            "warped by": usual_way.warps,
        },
    )


class UsualWay:
    """What most programs do: warp on the CPU, copy, run, copy, decode in numpy; a person at a time.

    The copies run from page-locked memory, which few programs trouble to do.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._preprocess = Preprocessor(network.spec)
        try:
            import cv2
        except ImportError:
            self.warps = "numpy (OpenCV is not installed)"
        else:
            self.warps = f"OpenCV {cv2.__version__}"

    def __call__(self, scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Keypoints (N, K, 2) in image pixels and scores (N, K)."""
        found = []
        for box in scene.boxes:
            crops = self._preprocess(scene.frame, box[None])
            outputs = self._network.run(crops.batch)
            found.append(find_joints(outputs, None, self._network.spec, crops.centre, crops.scale))
        return np.concatenate([points for points, _ in found]), np.concatenate([score for _, score in found])


def _memory(bench: Bench, pose: PoseEstimator, scenes: list[Scene], frames: int) -> list[Figure]:
    before, _ = bench.context.memory_info()
    allocations = bench.driver.allocations
    seconds = _stream(pose, scenes, frames)
    after, total = bench.context.memory_info()
    details = {"frames": frames, "seconds": seconds}
    free = {"free before": before, "free after": after, "total": total}
    return [
        ALLOCATIONS.measured(bench.driver.allocations - allocations, details),
        MEMORY.measured(max(0, before - after), {**details, **free}),
    ]


def _stream(pose: PoseEstimator, scenes: list[Scene], frames: int) -> float:
    """Seconds for so many frames through ``PoseEstimator.stream``."""

    def taken() -> Iterator[Scene]:
        return islice(cycle(scenes), frames)

    results = pose.stream((scene.frame for scene in taken()), (scene.boxes for scene in taken()))

    def work() -> None:
        for _ in results:
            pass

    return _seconds(work)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
