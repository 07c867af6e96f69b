"""The same bytes for the same build: a child process whose memory lies at the same addresses every time.

TensorRT-RTX 1.7 orders some of what it writes by addresses in memory. Linux moves those at random from process
to process, and glibc gives each thread a heap of its own, in the order in which threads happen to ask. With
both off, builds of real networks came out byte for byte the same (docs/bundle.md has the figures).
"""

import ctypes
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

_ADDR_NO_RANDOMIZE = 0x0040000  # of linux/personality.h
_ONLY_ASK = 0xFFFFFFFF
_ONE_HEAP = {"MALLOC_ARENA_MAX": "1"}  # of glibc's mallopt(3)


def start_repeatable(
    arguments: Sequence[str], *, env: Mapping[str, str], **options: Any
) -> "subprocess.Popen[bytes]":
    """``subprocess.Popen`` of a process whose addresses do not differ from run to run.

    Where the system forbids that (some containers do), the process starts all the same, and its builds may
    differ in a few bytes. Only the address layout of the child changes, no other process.
    """
    with _fixed_addresses():
        return subprocess.Popen(arguments, env={**env, **_ONE_HEAP}, **options)


@contextmanager
def _fixed_addresses() -> Iterator[None]:
    """What this thread starts in the block lies at fixed addresses; this process was laid out long ago."""
    personality = getattr(ctypes.CDLL(None), "personality", None)  # Linux only
    before = -1 if personality is None else personality(ctypes.c_ulong(_ONLY_ASK))
    if personality is None or before == -1:
        yield
        return
    personality(ctypes.c_ulong(before | _ADDR_NO_RANDOMIZE))
    try:
        yield
    finally:
        personality(ctypes.c_ulong(before))
