"""From an image and boxes to the network's input: warp, pack, normalise.

One affine warp a box (bilinear, zero border), then every channel goes through a table of 256 float32 values
that holds (value - mean) / std, straight into its plane of the NCHW batch. The table gives the same bits as
the arithmetic and costs less.

OpenCV does the warp where it is installed, numpy elsewhere. OpenCV 5 and numpy are exact bilinear (they agree
within one grey level); OpenCV 4 rounds coordinates to 1/32 pixel.
"""

import threading
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError
from .boxes import boxes_to_centre_scale, check_boxes
from .spec import ModelSpec

# OpenCV 4 refuses to warp images with a longer side
_OPENCV_SIDE = 32766
# pixels of image per pixel of crop up to which a fourth channel was measured to pay
_MANY_PIXELS = 16


@dataclass(frozen=True)
class Crops:
    """Persons cut out of one image, ready for a session.

    batch: (N, 3, H, W) float32, normalised, channels in the spec's colour order.
    centre, scale: (N, 2) float32, centre and size in image pixels of the rectangle that each crop shows.
    """

    batch: NDArray[np.float32]
    centre: NDArray[np.float32]
    scale: NDArray[np.float32]


class Preprocessor:
    """The deployed preprocessing of one model. Threads may share it."""

    def __init__(self, spec: ModelSpec) -> None:
        self._input_wh = spec.input_wh
        self._padding = spec.box_padding
        self._channels, self._tables = packing(spec)
        self._buffer = _ImageBuffer()

    def __call__(self, image: NDArray[np.uint8], boxes_xyxy: ArrayLike) -> Crops:
        """Cut the boxes (N, 4), xyxy in pixels, out of a uint8 HWC BGR image.

        Raises DataError for an image or a box that is unusable (see check_image and check_boxes).
        """
        check_image(image)
        boxes = check_boxes(boxes_xyxy, (image.shape[1], image.shape[0]))
        centre, scale = boxes_to_centre_scale(boxes, self._input_wh, self._padding)
        width, height = self._input_wh
        batch = np.empty((len(boxes), 3, height, width), np.float32)
        matrices = warp_matrix(centre, scale, self._input_wh)
        cv2 = _opencv(image)
        if cv2 is None:
            self._fill_numpy(batch, image, matrices)
        else:
            self._fill_opencv(cv2, batch, image, matrices)
        return Crops(batch, centre, scale)

    def mirror(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """The batch (N, 3, H, W) mirrored left to right, for the flip test."""
        return np.ascontiguousarray(batch[..., ::-1])

    def _fill_numpy(
        self, batch: NDArray[np.float32], image: NDArray[np.uint8], matrices: NDArray[np.float64]
    ) -> None:
        crop = np.empty((*batch.shape[2:], 3), np.uint8)
        for planes, matrix in zip(batch, matrices, strict=True):
            _warp_numpy(image, matrix, crop)
            for plane, channel, table in zip(planes, self._channels, self._tables, strict=True):
                # every index is in range; "clip" only spares numpy a buffer against errors half-way
                table.take(crop[..., channel], out=plane, mode="clip")

    def _fill_opencv(
        self, cv2: Any, batch: NDArray[np.float32], image: NDArray[np.uint8], matrices: NDArray[np.float64]
    ) -> None:
        # OpenCV 5 warps four channels in 0.4 of its time for three, to the same bytes. Adding the fourth is
        # one cheap pass over the image, repaid unless the image is much larger than all crops together.
        if image.size < _MANY_PIXELS * batch.size:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2BGRA, dst=self._buffer.like(image))
        crop = np.empty((*batch.shape[2:], image.shape[2]), np.uint8)
        channels = [np.empty(batch.shape[2:], np.uint8) for _ in range(image.shape[2])]
        for planes, matrix in zip(batch, matrices, strict=True):
            _warp_opencv(cv2, image, matrix, crop)
            cv2.split(crop, channels)
            for plane, channel, table in zip(planes, self._channels, self._tables, strict=True):
                cv2.LUT(channels[channel], table, dst=plane)


class _ImageBuffer(threading.local):
    """Room for one image of four channels, kept for as long as its thread lives.

    Memory fresh from the system for each call can cost more, in page faults, than the warps.
    """

    _pixels: NDArray[np.uint8] = np.empty(0, np.uint8)

    def like(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        size = height * width * 4
        if self._pixels.size < size:
            self._pixels = np.empty(size, np.uint8)
        return self._pixels[:size].reshape(height, width, 4)


def packing(spec: ModelSpec) -> tuple[tuple[int, int, int], list[NDArray[np.float32]]]:
    """Which channel of a BGR crop each plane of the batch reads, and the table (256,) of each plane."""
    grey = np.arange(256, dtype=np.float32)
    tables = [
        (grey - np.float32(mean)) / np.float32(std) for mean, std in zip(spec.mean, spec.std, strict=True)
    ]
    return ((2, 1, 0) if spec.colour_order == "rgb" else (0, 1, 2)), tables


def check_image(image: object) -> None:
    """Raise DataError unless ``image`` is a uint8 HWC array with three channels and at least one pixel."""
    expected = "images are uint8 arrays of shape (height, width, 3) in BGR order, as OpenCV reads them"
    if not isinstance(image, np.ndarray):
        raise DataError(f"the image is {type(image).__name__}, not an array: {expected}")
    if image.dtype != np.uint8:
        raise DataError(f"the image has dtype {image.dtype}, range 0 to 255 expected: {expected}")
    if image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"the image has shape {image.shape}: {expected}")
    if image.size == 0:
        raise DataError(f"the image is empty, its shape is {image.shape}: {expected}")


def warp_matrix(
    centre: NDArray[np.float32], scale: NDArray[np.float32], input_wh: tuple[int, int]
) -> NDArray[np.float64]:
    """Affine matrices (..., 2, 3) from image pixels to input pixels, for centre and scale (..., 2).

    The rectangle's centre goes to the input's centre and its left edge to 0 (mmpose's ``get_warp_matrix``
    without rotation; the scale's height is not used, the aspect being the input's). mmpose keeps its three
    points in float32; so does this, because a more exact matrix changes bytes of the crop.
    """
    centre = np.asarray(centre, np.float32)
    left = centre[..., 0] - np.asarray(scale, np.float32)[..., 0] * np.float32(0.5)
    half_width = centre[..., 0] - left
    below = centre[..., 1] + half_width
    half = np.float64(input_wh[0] / 2)
    zoom_x = half / half_width.astype(np.float64)
    zoom_y = half / (below.astype(np.float64) - centre[..., 1])
    matrix = np.zeros((*centre.shape[:-1], 2, 3))
    matrix[..., 0, 0] = zoom_x
    matrix[..., 0, 2] = -zoom_x * left
    matrix[..., 1, 1] = zoom_y
    matrix[..., 1, 2] = input_wh[1] / 2 - zoom_y * centre[..., 1]
    return matrix


def warp_crop(
    image: NDArray[np.uint8],
    centre: NDArray[np.float32],
    scale: NDArray[np.float32],
    input_wh: tuple[int, int],
) -> NDArray[np.uint8]:
    """The crop (H, W, 3) uint8 BGR of one person: bilinear, zero outside the image."""
    matrix = warp_matrix(centre, scale, input_wh)
    crop = np.empty((input_wh[1], input_wh[0], 3), np.uint8)
    cv2 = _opencv(image)
    if cv2 is None:
        _warp_numpy(image, matrix, crop)
    else:
        _warp_opencv(cv2, image, matrix, crop)
    return crop


def _opencv(image: NDArray[np.uint8]) -> ModuleType | None:
    """OpenCV, where it is installed and can warp this image."""
    if max(image.shape) > _OPENCV_SIDE:
        return None
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def _warp_opencv(
    cv2: Any, image: NDArray[np.uint8], matrix: NDArray[np.float64], crop: NDArray[np.uint8]
) -> None:
    size = (crop.shape[1], crop.shape[0])
    cv2.warpAffine(image, matrix, size, dst=crop, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def _warp_numpy(image: NDArray[np.uint8], matrix: NDArray[np.float64], crop: NDArray[np.uint8]) -> None:
    """Exact bilinear; without rotation every row and every column has its own pair of taps."""
    height, width, channels = crop.shape
    columns, column_weights = _taps(matrix[0, 0], matrix[0, 2], width, image.shape[1])
    rows, row_weights = _taps(matrix[1, 1], matrix[1, 2], height, image.shape[0])
    left, right = columns.min(), columns.max() + 1
    total = np.full((height, width * channels), 0.5, np.float32)  # 0.5: the cast to uint8 then rounds
    for row, row_weight in zip(rows, row_weights, strict=True):
        strip = image[row, left:right]
        for column, column_weight in zip(columns - left, column_weights, strict=True):
            weight = row_weight[:, None] * column_weight.repeat(channels)
            total += weight * strip.take(column, axis=1).reshape(total.shape)
    crop[...] = total.reshape(crop.shape)


def _taps(zoom: float, offset: float, size: int, limit: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Indices (2, size) and weights (2, size) of the two pixels between which each sample lies on an axis.

    A pixel outside 0 to limit - 1 has weight zero.
    """
    position = (np.arange(size) - offset) / zoom
    first = np.floor(position)
    weights = np.stack([1 - (position - first), position - first])
    taps = np.stack([first, first + 1])
    weights[(taps < 0) | (taps > limit - 1)] = 0
    return np.clip(taps, 0, limit - 1).astype(np.intp), weights.astype(np.float32)
