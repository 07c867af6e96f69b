"""Giving memory back to the system, for models whose weights are there in many copies for a moment."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

# of glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_SMALL = 1 << 18  # bytes; the weights of most layers are larger
_LARGE = 1 << 25  # to where glibc moves the threshold by itself in a program that uses large blocks


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Within the block, glibc returns large blocks to the system as soon as they are freed.

    Otherwise it keeps freed blocks of up to 32 MB for later. Between the steps of an export, which copies the
    weights a dozen times, that adds up to several times the model: 5.5 GB for the largest of the zoo against
    3.6 GB. Asking the system for each block is slower, so it ends with the block. Another C library is left
    as it is.
    """
    _set_threshold(_SMALL)
    try:
        yield
    finally:
        gc.collect()
        _set_threshold(_LARGE)


def _set_threshold(size: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, size)
        mallopt(_M_TRIM_THRESHOLD, 2 * size)
