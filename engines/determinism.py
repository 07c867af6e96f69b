"""The same bytes for the same build: a child process whose memory lies at the same addresses every time.

TensorRT-RTX 1.7 orders some of what it writes by addresses in memory. Linux moves those at random from
process to process, and glibc gives each thread a heap of its own, in the order in which threads ask. With
both off, builds of real networks came out byte for byte the same (docs/bundle.md has the figures).
"""

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

_Result = TypeVar("_Result")

_ADDR_NO_RANDOMIZE = 0x0040000  # of linux/personality.h
_ONLY_ASK = 0xFFFFFFFF
# what the library, its loader and Python read; the number and length of all variables shift the heap
_PASSED_ON = (
    *(
        "CUDA",
        "HOME",
        "LANG",
        "LC_",
        "LD_",
        "NVIDIA",
        "PATH",
        "PYTHON",
        "SSL",
        "TEMP",
        "TENSORRT",
        "TMP",
        "TRT",
    ),
)
_PATH_LENGTH = 300
_LONGEST = 8192  # characters of a request, to which every one is filled up with spaces
# two heaps, Python's and the build's (glibc's mallopt(3)); the same order in Python's sets
_SETTINGS = {"MALLOC_ARENA_MAX": "2", "PYTHONHASHSEED": "0"}


def start_repeatable(
    arguments: Sequence[str], *, env: Mapping[str, str], **options: Any
) -> "subprocess.Popen[bytes]":
    """``subprocess.Popen`` of a process whose addresses do not differ from run to run.

    Where the system forbids that (some containers do), the process starts all the same, and its builds may
    differ in a few bytes. Only the address layout of the child changes, no other process.
    """
    kept = {name: value for name, value in env.items() if name.startswith(_PASSED_ON)}
    *first, last = arguments
    with _fixed_addresses():
        return subprocess.Popen([*first, last.ljust(_LONGEST)], env={**kept, **_SETTINGS}, **options)


def of_one_length(name: str) -> str:
    """A path of 300 bytes to the file ``name`` of the working directory.

    A path of another length may take another block of the heap, and shift what comes after it.
    """
    missing = _PATH_LENGTH - len(os.fsencode(name))  # a name has 255 bytes at most
    return "./" * (missing // 2) + "/" * (missing % 2) + name


def on_fresh_heap(work: Callable[[], _Result]) -> _Result:
    """Do ``work`` in a thread of its own, and return or raise what it does.

    glibc gives a new thread a heap of its own at a round address. The main thread's is shifted by what Python
    has allocated, down to how many files lie in the folders of its path.
    """
    done: list[_Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


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
