"""The decoders: compared with numpy's, then timed against the bytes of the maps that they read.

Their bytes are the network's outputs read once and the keypoints written once. What lies between their
kernels is not counted: an implementation could do without it.
"""

from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.cuda.crops import DeviceImage, crop_records
from ...runtime.cuda.decode import Decoder
from ...runtime.cuda.memory import DeviceBuffer
from ...runtime.joints import find_joints
from ...runtime.spec import ModelSpec
from .bench import Bench, Work
from .figures import Check, Figure, Target
from .scenes import draw_outputs

CODECS = ("msra", "unbiased", "megvii", "simcc")

_TARGET = 2.0
_PIXELS = 0.01  # of an image in which a crop has the input's own size
_SCORES = 1e-4
_RECTANGLE = 8  # bytes of the record's unused image: it must have a pixel


def decode_figures(bench: Bench, bandwidth: float) -> list[Figure]:
    """Time of each decoder over the time of its bytes, for each type of number.

    bandwidth: of a copy, in bytes per microsecond.
    """
    return [_figure(bench, codec, half, bandwidth) for codec in CODECS for half in (False, True)]


def check_decoders(bench: Bench) -> list[Check]:
    """Each decoder's keypoints and scores against numpy's, with and without the flip test."""
    checks = []
    for codec in CODECS:
        for half in (False, True):
            for flip_test in (False, True):
                checks += _compare(bench, codec, half, flip_test)
    return checks


def _compare(bench: Bench, codec: str, half: bool, flip_test: bool) -> list[Check]:
    spec, persons = _spec(codec), bench.effort.persons
    outputs = draw_outputs(spec, persons, half)
    mirrored = draw_outputs(spec, persons, half, seed=1) if flip_test else []
    centre, scale = _rectangles(spec, persons)
    floats = [tuple(array.astype(np.float32) for array in arrays) for arrays in (outputs, mirrored)]
    points, scores = find_joints(floats[0], floats[1] or None, spec, centre, scale)
    found = np.empty((persons, spec.num_joints, 3), np.float32)
    with ExitStack() as made:
        work, keypoints = _work(bench, made, spec, outputs, mirrored)
        work()
        keypoints.download(found, stream=bench.stream)
        bench.stream.synchronize()
    name = f"{_name(codec, half)}{', flip test' if flip_test else ''}"
    distance = float(np.max(np.abs(found[..., :2] - points)))
    difference = float(np.max(np.abs(found[..., 2] - scores)))
    return [
        Check(f"{name}, keypoints", distance, _PIXELS, "pixels"),
        Check(f"{name}, scores", difference, _SCORES, "of a score"),
    ]


def _figure(bench: Bench, codec: str, half: bool, bandwidth: float) -> Figure:
    spec, persons = _spec(codec), bench.effort.persons
    outputs = draw_outputs(spec, persons, half)
    read = sum(array.nbytes for array in outputs)
    written = persons * spec.num_joints * 12
    with ExitStack() as made:
        works = [_work(bench, made, spec, outputs, [])[0] for _ in range(bench.sets(read + written))]
        alone, in_graph = bench.launched(works), bench.replayed(works)
    needed = (read + written) / bandwidth
    target = Target(_name(codec, half), _TARGET, True, "of the time that its bytes take to copy")
    return target.measured(
        in_graph / needed,
        {
            "in a graph us": in_graph,
            "one launch us": alone,
            "bytes alone us": needed,
            "copy of as many bytes us": bench.copy_time(read + written),
            "bytes written": written,
            "bytes read": read,
            "inputs in rotation": len(works),
        },
    )


def _work(
    bench: Bench,
    made: ExitStack,
    spec: ModelSpec,
    outputs: list[NDArray[Any]],
    mirrored: list[NDArray[Any]],
) -> tuple[Work, DeviceBuffer]:
    """The launches on buffers of their own, and the buffer of keypoints (N, K, 3) float32."""
    persons = len(outputs[0])
    half = outputs[0].dtype == np.float16
    decoder = Decoder(spec, persons, flip_test=bool(mirrored), half=half)
    records = crop_records(DeviceImage(1, 1, 1, _RECTANGLE), *_rectangles(spec, persons), spec.input_wh)
    workspace = made.enter_context(DeviceBuffer(bench.context, decoder.workspace_bytes))
    workspace.upload(np.frombuffer(decoder.constants, np.uint8), stream=bench.stream)
    keypoints = made.enter_context(DeviceBuffer(bench.context, persons * spec.num_joints * 12))
    launches = decoder.launches(
        persons,
        [bench.uploaded(array, made).address for array in outputs],
        [bench.uploaded(array, made).address for array in mirrored],
        bench.uploaded(records, made).address,
        keypoints.address,
        workspace.address,
        clip=False,
    )
    return lambda: bench.kernels.launch(launches, stream=bench.stream), keypoints


def _rectangles(spec: ModelSpec, persons: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Crops of the input's own size, so that a pixel of a map is four of the image."""
    size = np.tile(np.asarray(spec.input_wh, np.float32), (persons, 1))
    return size * np.float32(0.5), size


def _spec(codec: str) -> ModelSpec:
    return ModelSpec(f"{codec}_256x192", codec=codec)


def _name(codec: str, half: bool) -> str:
    return f"decode {codec} {'float16' if half else 'float32'}"
