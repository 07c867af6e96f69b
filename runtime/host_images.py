"""Images in the host's memory, as numpy arrays: numpy's own, and those that others lend by DLPack."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .preprocess import check_image

# DLDeviceType of dlpack.h
CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13


def lent_on(image: object) -> tuple[int, int] | None:
    """Device type and number of what can be borrowed by DLPack, None for anything else.

    Raises DataError where its library cannot say it.
    """
    device: Any = getattr(image, "__dlpack_device__", None)
    if device is None or not hasattr(image, "__dlpack__"):
        return None
    try:
        kind, number = device()
        return int(kind), int(number)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"the image cannot be borrowed by DLPack: {error}.") from error


def is_on_a_gpu(image: object) -> bool:
    """Whether an array's values are in the memory of a CUDA device."""
    lent = None if isinstance(image, np.ndarray) else lent_on(image)
    if lent is not None:
        return lent[0] in (CUDA, CUDA_MANAGED)
    return not isinstance(image, np.ndarray) and hasattr(image, "__cuda_array_interface__")


def host_array(image: object) -> NDArray[np.uint8]:
    """The image as a uint8 array (height, width, 3), without a copy.

    image: a numpy array, or one of another library in host memory that speaks DLPack (torch).

    Raises DataError for one that is unusable, and for one on a GPU.
    """
    if hasattr(image, "luma") and hasattr(image, "chroma"):  # an Nv12Frame, whose module is CUDA's
        raise DataError(
            "the image is an NV12 frame, which needs an estimator with device='cuda'; this one runs on the "
            "CPU. Convert it to BGR first, such as with cv2.cvtColor(..., cv2.COLOR_YUV2BGR_NV12)."
        )
    if is_on_a_gpu(image):
        raise DataError(
            "the image is in the memory of a GPU, and this estimator runs on the CPU. Copy it to the host, "
            "or open the estimator with device='cuda'."
        )
    array = image
    if not isinstance(image, np.ndarray) and lent_on(image) is not None:
        try:
            array = np.from_dlpack(image)  # type: ignore[arg-type]
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise DataError(f"the image cannot be borrowed by DLPack: {error}.") from error
    check_image(array)
    assert isinstance(array, np.ndarray)  # check_image said so
    return array
