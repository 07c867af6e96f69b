"""What the kernels are measured and compared on, drawn from a seed, and what numpy makes of it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.boxes import boxes_to_centre_scale
from ...runtime.preprocess import warp_matrix
from ...runtime.spec import ModelSpec

Frame = NDArray[np.uint8]


def draw_frame(frame_wh: tuple[int, int], seed: int = 0) -> Frame:
    """A uint8 HWC BGR image of noise: the worst case for a wrong tap."""
    width, height = frame_wh
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def draw_boxes(persons: int, frame_wh: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
    """xyxy boxes (N, 4) of upright persons, a quarter to nine tenths of the frame high, inside it."""
    rng = np.random.default_rng(seed)
    width, height = frame_wh
    high = rng.uniform(0.25, 0.9, persons) * height
    wide = high * rng.uniform(0.3, 0.6, persons)
    left, top = rng.uniform(0, width - wide), rng.uniform(0, height - high)
    return np.stack([left, top, left + wide, top + high], axis=1).astype(np.float32)


def draw_outputs(spec: ModelSpec, persons: int, half: bool, seed: int = 0) -> list[NDArray[Any]]:
    """A network's outputs: a peak of sigma 2 in each map or distribution, and a little noise."""
    rng = np.random.default_rng(seed)
    outputs = []
    for shape in spec.output_shapes:
        maps = rng.normal(0, 0.005, (persons, *shape))
        peak = np.ones(1)
        for axis in range(1, len(shape)):
            place = rng.uniform(3, shape[axis] - 4, (persons, shape[0]))
            distance = np.arange(shape[axis]) - place[..., None]
            across = np.exp(-(distance**2) / 8)
            peak = across if peak.ndim == 1 else peak[..., None] * across[..., None, :]
        maps += peak
        if spec.codec == "megvii":
            maps *= 255  # what such networks are trained to reach
        outputs.append(maps.astype(np.float16 if half else np.float32))
    return outputs


def crops_of(boxes: NDArray[np.float32], spec: ModelSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centre and scale (N, 2) of the crops of boxes (N, 4) xyxy."""
    return boxes_to_centre_scale(boxes, spec.input_wh, spec.box_padding)


def exact_batch(
    frame: Frame, centre: NDArray[np.float32], scale: NDArray[np.float32], spec: ModelSpec
) -> NDArray[np.float64]:
    """The network's input (N, 3, H, W), bilinear without any rounding, zero outside the frame."""
    batch = np.empty((len(centre), 3, spec.input_wh[1], spec.input_wh[0]))
    for planes, matrix in zip(batch, warp_matrix(centre, scale, spec.input_wh), strict=True):
        rows, columns = (_taps(matrix, axis, spec, frame) for axis in (1, 0))
        crop = np.zeros((spec.input_wh[1], spec.input_wh[0], 3))
        for row, row_weight in rows:
            for column, column_weight in columns:
                weight = row_weight[:, None, None] * column_weight[None, :, None]
                crop += weight * frame[row[:, None], column[None]]
        if spec.colour_order == "rgb":
            crop = crop[..., ::-1]
        planes[:] = ((crop - np.array(spec.mean)) / np.array(spec.std)).transpose(2, 0, 1)
    return batch


def pixels_read(
    frame: Frame, centre: NDArray[np.float32], scale: NDArray[np.float32], spec: ModelSpec
) -> int:
    """How many pixels of the frame all crops together need; one that several crops need counts once."""
    read = np.zeros(frame.shape[:2], bool)
    for matrix in warp_matrix(centre, scale, spec.input_wh):
        rows, columns = (
            np.unique(
                np.concatenate([place[weight > 0] for place, weight in _taps(matrix, axis, spec, frame)])
            )
            for axis in (1, 0)
        )
        read[rows[:, None], columns[None]] = True
    return int(read.sum())


def _taps(
    matrix: NDArray[np.float64], axis: int, spec: ModelSpec, frame: Frame
) -> list[tuple[NDArray[np.intp], NDArray[np.float64]]]:
    """The two pixels between which each sample of an axis lies (0 is x), with their weights.

    Outside the frame the weight is 0 and the pixel one that is there.
    """
    limit = frame.shape[1 - axis]
    position = (np.arange(spec.input_wh[axis]) - matrix[axis, 2]) / matrix[axis, axis]
    first = np.floor(position)
    found = []
    for tap, weight in ((first, 1 - (position - first)), (first + 1, position - first)):
        outside = (tap < 0) | (tap > limit - 1)
        found.append((np.clip(tap, 0, limit - 1).astype(np.intp), np.where(outside, 0.0, weight)))
    return found
