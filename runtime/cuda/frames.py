"""Images as the GPU takes them: arrays of the host, which are uploaded, and frames that are there already."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ..host_images import CUDA, CUDA_MANAGED, host_array, is_on_a_gpu, lent_on
from .crops import DeviceImage
from .dlpack import DeviceArray, from_dlpack, from_interface
from .streams import Stream

_PLANES = "NV12 is luma (height, width) and chroma (height / 2 rounded up, width rounded up to even), uint8"


@dataclass(frozen=True)
class Nv12Frame:
    """A frame as cameras and video decoders give it: full-size luma, then U, V pairs for 2 x 2 pixels each.

    luma: uint8 (H, W). chroma: uint8 (ceil(H / 2), W rounded up to even), or (ceil(H / 2), ceil(W / 2), 2).
    Both are arrays of the host, or both on the GPU (by DLPack or ``__cuda_array_interface__``), rows of any
    pitch.
    """

    luma: Any
    chroma: Any


@dataclass
class Frame:
    """An image that was checked.

    wh: width and height in pixels. planes: what is to be uploaded, rows of pixels; () for a frame on the
    device. image: where it is on the device, None before the upload. owner: what lends the memory.
    """

    wh: tuple[int, int]
    format: str
    planes: tuple[NDArray[np.uint8], ...] = ()
    image: DeviceImage | None = None
    owner: object = None
    slot: Any = field(default=None, repr=False)  # whose memory holds it, after the upload


def look_at(image: object, ordinal: int, stream: Stream) -> Frame:
    """Check an image and say where it is.

    ordinal: of the device that will read it. stream: waits for what others still do to a frame on the GPU.

    Raises DataError for what is no image, and for a frame on another GPU.
    """
    if isinstance(image, Nv12Frame):
        return _nv12(image, ordinal, stream)
    if not is_on_a_gpu(image):
        array = host_array(image)
        return Frame((array.shape[1], array.shape[0]), "bgr", (array,))
    pixels = _borrow(image, ordinal, stream)
    if len(pixels.shape) != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise DataError(
            f"the image on the GPU has shape {pixels.shape}: images are uint8 (height, width, 3) in BGR order"
        )
    height, width, _ = pixels.shape
    if pixels.strides[1:] != (3, 1):
        raise DataError(
            f"the image on the GPU has strides {pixels.strides}: the pixels of a row must lie side by side, "
            "three bytes each. Make it contiguous."
        )
    # a single row has no step to the next that means anything
    pitch = pixels.strides[0] if height > 1 else max(pixels.strides[0], 3 * width)
    frame = DeviceImage(pixels.address, width, height, pitch, "bgr")
    return Frame((width, height), "bgr", image=frame, owner=pixels.owner)


def _nv12(frame: Nv12Frame, ordinal: int, stream: Stream) -> Frame:
    places = {is_on_a_gpu(plane) for plane in (frame.luma, frame.chroma)}
    if len(places) == 2:
        raise DataError("of an NV12 frame one plane is on the GPU and one is not. Put both into one place.")
    if places == {True}:
        luma, chroma = (_borrow(plane, ordinal, stream) for plane in (frame.luma, frame.chroma))
        wh = _check_planes(luma.shape, chroma.shape)
        if luma.strides[1] != 1 or chroma.strides[1:] not in ((1,), (2, 1)):
            raise DataError(f"the bytes of a row must lie side by side: {_PLANES}.")
        image = DeviceImage(luma.address, *wh, luma.strides[0], "nv12", chroma.address, chroma.strides[0])
        return Frame(wh, "nv12", image=image, owner=(luma.owner, chroma.owner))
    planes = []
    for plane in (frame.luma, frame.chroma):
        if not isinstance(plane, np.ndarray) or plane.dtype != np.uint8:
            raise DataError(f"a plane of the NV12 frame is {_kind(plane)}: {_PLANES}.")
        planes.append(plane)
    wh = _check_planes(planes[0].shape, planes[1].shape)
    return Frame(wh, "nv12", (planes[0], planes[1].reshape(len(planes[1]), -1)))


def _check_planes(luma: tuple[int, ...], chroma: tuple[int, ...]) -> tuple[int, int]:
    """Width and height of an NV12 frame."""
    if len(luma) == 2 and 0 not in luma:
        rows, pairs = (luma[0] + 1) // 2, (luma[1] + 1) // 2
        if chroma in ((rows, 2 * pairs), (rows, pairs, 2)):
            return luma[1], luma[0]
    raise DataError(f"the planes have shapes {luma} and {chroma}: {_PLANES}.")


def _borrow(array: Any, ordinal: int, stream: Stream) -> DeviceArray:
    lent = lent_on(array)
    if lent is not None and lent[0] in (CUDA, CUDA_MANAGED):
        if lent[0] == CUDA and lent[1] != ordinal:
            raise DataError(
                f"the image is on CUDA device {lent[1]}, and the estimator on {ordinal}. Copy it there first."
            )
        return from_dlpack(array, stream)
    borrowed, producer = from_interface(array)
    if producer is not None:
        # the frame is ready where that stream's work ends; it is another library's
        with stream.context.current("wait for an image's stream") as driver:
            driver.synchronize_stream(producer)
    return borrowed


def _kind(plane: object) -> str:
    return f"{plane.dtype} {plane.shape}" if isinstance(plane, np.ndarray) else type(plane).__name__
