"""Giving memory back to the system, for models whose weights are there in many copies for a moment."""

import ctypes
import gc

_M_MMAP_THRESHOLD = -3  # from malloc.h of glibc
_THRESHOLD = 1 << 18  # bytes; the weights of most layers are larger


def return_large_blocks() -> None:
    """Collect garbage, and have glibc return large blocks to the system as soon as they are freed.

    glibc keeps freed blocks of up to 32 MB for later. Between the steps of an export, which copies the
    weights a dozen times, that adds up to several times the model: 5.5 GB for the largest of the zoo
    against 3.6 GB. Another C library is left as it is.
    """
    gc.collect()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)
