"""What is launched: the kernels' names, the structures that they take, grids and blocks. As data.

Nothing here touches a device: addresses are numbers that the caller got from the driver. ``kernels.cu`` says
what every field means; ``warp.py`` and ``decode.py`` fill them in.
"""

import ctypes
from dataclasses import dataclass

from ...errors import DataError

WARP_NORMALIZE = "warp_normalize"
MERGE_FLIP = "merge_flip"
FIND_MAXIMA = "find_maxima"
FIND_BLURRED_MAXIMA = "find_blurred_maxima"
DECODE_MSRA = "decode_msra"
DECODE_MEGVII = "decode_megvii"
BLUR_PATCHES = "blur_patches"
BLUR_LOW_MAPS = "blur_low_maps"
DECODE_UNBIASED = "decode_unbiased"
DECODE_SIMCC = "decode_simcc"

KERNELS = (
    WARP_NORMALIZE,
    MERGE_FLIP,
    FIND_MAXIMA,
    FIND_BLURRED_MAXIMA,
    DECODE_MSRA,
    DECODE_MEGVII,
    BLUR_PATCHES,
    BLUR_LOW_MAPS,
    DECODE_UNBIASED,
    DECODE_SIMCC,
)

Dimensions = tuple[int, int, int]

_THREADS = 128  # of a block of a one-dimensional launch
_MOST_THREADS = 2**31 - _THREADS  # kernels count them in 32 bits


@dataclass(frozen=True)
class Launch:
    """One kernel, its grid and block in threads, and the structure that it takes by value."""

    kernel: str
    grid: Dimensions
    block: Dimensions
    arguments: ctypes.Structure


class WarpArguments(ctypes.Structure):
    """What warp_normalize takes."""

    _fields_ = (
        ("crops", ctypes.c_void_p),
        ("batch", ctypes.c_void_p),
        ("mirrored", ctypes.c_void_p),
        ("count", ctypes.c_int),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("half", ctypes.c_int),
        ("bgr", ctypes.c_int),
        ("whole_levels", ctypes.c_int),
        ("mean", ctypes.c_float * 3),
        ("std", ctypes.c_float * 3),
        ("yuv", ctypes.c_float * 6),
    )


class ScanArguments(ctypes.Structure):
    """What find_maxima and find_blurred_maxima take."""

    _fields_ = (
        ("maps", ctypes.c_void_p),
        ("peaks", ctypes.c_void_p),
        ("blurred", ctypes.c_void_p),
        ("count", ctypes.c_int),
        ("size", ctypes.c_int),
        ("columns", ctypes.c_int),
        ("half", ctypes.c_int),
    )


class MergeArguments(ctypes.Structure):
    """What merge_flip takes."""

    _fields_ = (
        ("maps", ctypes.c_void_p),
        ("mirrored", ctypes.c_void_p),
        ("partner", ctypes.c_void_p),
        ("merged", ctypes.c_void_p),
        ("persons", ctypes.c_int),
        ("joints", ctypes.c_int),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("half", ctypes.c_int),
        ("turn", ctypes.c_int),
        ("shift", ctypes.c_int),
    )


class DecodeArguments(ctypes.Structure):
    """What the decoders of heatmaps and their blurs take."""

    _fields_ = (
        ("maps", ctypes.c_void_p),
        ("crops", ctypes.c_void_p),
        ("peaks", ctypes.c_void_p),
        ("blurred", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("patches", ctypes.c_void_p),
        ("keypoints", ctypes.c_void_p),
        ("persons", ctypes.c_int),
        ("joints", ctypes.c_int),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("half", ctypes.c_int),
        ("reach", ctypes.c_int),
        ("clip", ctypes.c_int),
    )


class SimccArguments(ctypes.Structure):
    """What decode_simcc takes."""

    _fields_ = (
        ("crops", ctypes.c_void_p),
        ("x", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("keypoints", ctypes.c_void_p),
        ("persons", ctypes.c_int),
        ("joints", ctypes.c_int),
        ("x_columns", ctypes.c_int),
        ("y_columns", ctypes.c_int),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("split_ratio", ctypes.c_float),
        ("clip", ctypes.c_int),
    )


def threads(kernel: str, count: int, arguments: ctypes.Structure) -> list[Launch]:
    """A launch of at least ``count`` threads in one dimension; none for 0.

    Raises DataError where an index would not fit into 32 bits.
    """
    if count == 0:
        return []
    if count > _MOST_THREADS:
        raise DataError(f"{kernel}: a batch of {count} values is too large. Use smaller batches.")
    return [Launch(kernel, (-(-count // _THREADS), 1, 1), (_THREADS, 1, 1), arguments)]
