"""warp_normalize: compared with exact bilinear interpolation, then timed against the bytes that it moves.

Its bytes are those that no implementation can do without: the batch written once (twice with the mirrored
copy), and each pixel of the frame that some crop needs read once, three bytes. A pixel that several crops
need, or several pixels of a crop, counts once, although the kernel asks for it again and hopes for a cache.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.cuda.crops import DeviceImage, crop_records
from ...runtime.cuda.memory import DeviceBuffer
from ...runtime.cuda.warp import warp_launch
from ...runtime.spec import ModelSpec
from .bench import Bench, Work
from .figures import Check, Figure, Target
from .scenes import crops_of, draw_boxes, draw_frame, exact_batch, pixels_read

SPEC = ModelSpec("256x192")

_TARGET = 1.5
_EXACT = 1e-3  # after normalisation, without rounding to grey levels
_LEVELS = 0.6  # with it: half a level, and what float32 positions add in a frame of noise
_HALF = 2.0**-11  # relative rounding of float16


@dataclass(frozen=True)
class _Variant:
    half: bool
    mirror: bool

    @property
    def name(self) -> str:
        return f"warp_normalize {_kind(self.half)}{', with mirrored' if self.mirror else ''}"


_VARIANTS = tuple(_Variant(half, mirror) for half in (False, True) for mirror in (False, True))


def warp_figures(bench: Bench, bandwidth: float) -> list[Figure]:
    """Time of the kernel over the time of its bytes: float32 and float16, with and without mirrored crops.

    bandwidth: of a copy, in bytes per microsecond.
    """
    return [_figure(bench, variant, bandwidth) for variant in _VARIANTS]


def check_warp(bench: Bench) -> list[Check]:
    """The kernel's batches against exact ones, with and without rounding to grey levels."""
    frame, centre, scale = _scene(bench)
    expected = exact_batch(frame, centre, scale, SPEC)
    checks = []
    for half in (False, True):
        rounding = _HALF * float(np.abs(expected).max()) if half else 0.0
        for levels, allowed in ((False, _EXACT), (True, _LEVELS / min(SPEC.std))):
            found, mirrored = _run(bench, half, levels)
            largest = _largest(found, expected)
            largest = max(largest, _largest(mirrored[..., ::-1], expected))
            name = f"warp_normalize {_kind(half)}{', whole levels' if levels else ''}"
            checks.append(Check(name, largest, allowed + rounding, "after normalisation"))
    return checks


def _figure(bench: Bench, variant: _Variant, bandwidth: float) -> Figure:
    frame, centre, scale = _scene(bench)
    size = _batch_bytes(bench, variant.half)
    written = size * (2 if variant.mirror else 1)
    read = 3 * pixels_read(frame, centre, scale, SPEC)
    with ExitStack() as made:
        works = [_work(bench, made, frame, variant)[0] for _ in range(bench.sets(written + frame.nbytes))]
        alone, in_graph = bench.launched(works), bench.replayed(works)
    needed = (written + read) / bandwidth
    target = Target(variant.name, _TARGET, True, "of the time that its bytes take to copy")
    return target.measured(
        in_graph / needed,
        {
            "in a graph us": in_graph,
            "one launch us": alone,
            "bytes alone us": needed,
            "copy of as many bytes us": bench.copy_time(written + read),
            "bytes written": written,
            "bytes read": read,
            "inputs in rotation": len(works),
        },
    )


def _run(bench: Bench, half: bool, whole_levels: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """The batch and the mirrored batch that the kernel makes."""
    frame = _scene(bench)[0]
    shape = (bench.effort.persons, 3, SPEC.input_wh[1], SPEC.input_wh[0])
    found = [np.empty(shape, np.float16 if half else np.float32) for _ in range(2)]
    with ExitStack() as made:
        work, buffers = _work(bench, made, frame, _Variant(half, True), whole_levels)
        work()
        for array, buffer in zip(found, buffers, strict=True):
            buffer.download(array, stream=bench.stream)
        bench.stream.synchronize()
    return found[0], found[1]


def _work(
    bench: Bench, made: ExitStack, frame: NDArray[np.uint8], variant: _Variant, whole_levels: bool = True
) -> tuple[Work, list[DeviceBuffer]]:
    """A launch on buffers of its own, and those of its results. whole_levels: as it is deployed."""
    _, centre, scale = _scene(bench)
    size = _batch_bytes(bench, variant.half)
    pixels = bench.uploaded(frame, made)
    image = DeviceImage(pixels.address, frame.shape[1], frame.shape[0], frame.strides[0])
    records = bench.uploaded(crop_records(image, centre, scale, SPEC.input_wh), made)
    results = [made.enter_context(DeviceBuffer(bench.context, size)) for _ in range(1 + variant.mirror)]
    launches = warp_launch(
        SPEC,
        len(centre),
        records.address,
        results[0].address,
        results[1].address if variant.mirror else 0,
        half=variant.half,
        whole_levels=whole_levels,
    )
    return lambda: bench.kernels.launch(launches, stream=bench.stream), results


def _scene(bench: Bench) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    frame_wh = bench.effort.frame_wh
    return draw_frame(frame_wh), *crops_of(draw_boxes(bench.effort.persons, frame_wh), SPEC)


def _batch_bytes(bench: Bench, half: bool) -> int:
    return bench.effort.persons * 3 * SPEC.input_wh[0] * SPEC.input_wh[1] * (2 if half else 4)


def _largest(found: NDArray[Any], expected: NDArray[np.float64]) -> float:
    """NaN where one is a NaN, which no limit passes."""
    return float(np.max(np.abs(found.astype(np.float64) - expected)))


def _kind(half: bool) -> str:
    return "float16" if half else "float32"
