"""Person boxes: formats, checks, and the crop rectangle that a box becomes.

Boxes are float arrays (N, 4) in pixels of the image: ``xyxy`` is left, top, right, bottom; ``xywh`` (COCO's
data files) is left, top, width, height. The names say which.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError

# beyond this float32 can no longer tell one pixel from the next
_LARGEST_COORDINATE = float(2**24)


def xywh_to_xyxy(boxes_xywh: ArrayLike) -> NDArray[np.float32]:
    """(..., 4) left, top, width, height to (..., 4) left, top, right, bottom.

    >>> xywh_to_xyxy([[10, 20, 30, 40]])
    array([[10., 20., 40., 60.]], dtype=float32)
    """
    boxes = np.asarray(boxes_xywh, np.float32)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def xyxy_to_xywh(boxes_xyxy: ArrayLike) -> NDArray[np.float32]:
    """(..., 4) left, top, right, bottom to (..., 4) left, top, width, height.

    >>> xyxy_to_xywh([[10, 20, 40, 60]])
    array([[10., 20., 30., 40.]], dtype=float32)
    """
    boxes = np.asarray(boxes_xyxy, np.float32)
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def check_boxes(boxes_xyxy: ArrayLike, image_wh: tuple[int, int]) -> NDArray[np.float32]:
    """The boxes as float32 (N, 4), proven usable on an image of this width and height.

    A box may reach over the image's border. An empty list is (0, 4).

    Raises DataError, naming the first bad box by its index, for a wrong shape, coordinates that are not
    finite, zero or negative area, and a box wholly outside the image.
    """
    boxes = _as_float32(boxes_xyxy)
    sane = np.all(np.abs(boxes) < _LARGEST_COORDINATE, axis=1)
    area = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    inside = np.all(boxes[:, 2:] > 0, axis=1) & np.all(boxes[:, :2] < image_wh, axis=1)
    good = sane & area & inside
    if good.all():
        return boxes
    index = int(np.argmin(good))
    box = boxes[index].tolist()
    if not np.isfinite(box).all():
        raise DataError(f"box {index} is {box}: its coordinates must be finite numbers. Leave it out.")
    if not sane[index]:
        raise DataError(f"box {index} is {box}: its coordinates are too large to be pixels. Leave it out.")
    if not area[index]:
        raise DataError(
            f"box {index} is {box} and has no area: boxes are left, top, right, bottom in pixels, with "
            "right > left and bottom > top. Convert boxes of left, top, width, height with xywh_to_xyxy."
        )
    raise DataError(
        f"box {index} is {box} and lies wholly outside its image of {image_wh[0]}x{image_wh[1]} pixels. "
        "Do the box and the image belong together?"
    )


def clip_boxes(boxes_xyxy: ArrayLike, image_wh: tuple[int, int]) -> NDArray[np.float32]:
    """Move coordinates outside the image to its border pixels, 0 to width - 1 and 0 to height - 1.

    mmpose does this to COCO's ground-truth boxes and not to detections.
    """
    width, height = image_wh
    limit = np.array([width - 1, height - 1, width - 1, height - 1], np.float32)
    return np.clip(np.asarray(boxes_xyxy, np.float32), np.float32(0), limit)


def boxes_to_centre_scale(
    boxes_xyxy: NDArray[np.float32], input_wh: tuple[int, int], padding: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes (N, 4) to the centre (N, 2) and the scale (N, 2) of their crops, float32 image pixels.

    The scale is the width and height of the box grown by ``padding``, its shorter side then grown to the
    aspect ratio of ``input_wh`` (mmpose's ``bbox_xyxy2cs`` and ``TopdownAffine``, in their float32).
    """
    boxes = np.asarray(boxes_xyxy, np.float32)
    centre = (boxes[:, :2] + boxes[:, 2:]) * np.float32(0.5)
    width, height = ((boxes[:, 2:] - boxes[:, :2]) * np.float32(padding)).T
    aspect = np.float32(input_wh[0] / input_wh[1])
    wide = width > height * aspect
    scale = np.stack([np.where(wide, width, height * aspect), np.where(wide, width / aspect, height)], axis=1)
    return centre, scale


def _as_float32(boxes_xyxy: ArrayLike) -> NDArray[np.float32]:
    try:
        # an overflow becomes inf, which the checks name with its index
        with np.errstate(over="ignore"):
            boxes = np.asarray(boxes_xyxy).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"boxes must be numbers in an array of shape (N, 4): {error}") from error
    if boxes.size == 0 and boxes.shape in ((0,), (0, 4)):
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DataError(
            f"boxes have shape {boxes.shape}, not (N, 4): one row of left, top, right, bottom for each "
            "person. Wrap a single box in a list."
        )
    return boxes
