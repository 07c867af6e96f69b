"""Work in a process of its own: how much memory it needed, and an end where it needs too much or too long.

A peer that keeps all activations may want more memory than there is. In a child it costs its own row of a
table, not the run.
"""

import argparse
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..arguments import seconds
from ..errors import PosedgeError

GIB = 1 << 30

_POLL_S = 0.05

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What a process may use: resident memory in bytes, and seconds."""

    memory_bytes: int
    seconds: float


@dataclass(frozen=True)
class Finished(Generic[T]):
    """What the work returned, and the largest resident memory of its process in bytes."""

    value: T
    peak_bytes: int


@dataclass(frozen=True)
class Ended:
    """Why there is no result, such as "killed at 6.0 GiB after 80 s"."""

    reason: str


def watched(limits: Limits, work: Callable[..., T], *arguments: Any) -> Finished[T] | Ended:
    """Call ``work``, a function of a module's top level, in a new process, and kill it at a limit.

    The peak is the process's own as the system counts it; where the limit is passed between two looks, 50 ms
    apart, it may lie a little above the limit.

    Raises the PosedgeError that ``work`` raises; any other exception of it is an Ended.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sending, work, arguments), daemon=True)
    begin = time.monotonic()
    process.start()
    sending.close()
    try:
        answer = _wait(process, receiving, limits, begin)
    finally:
        process.kill()
        process.join()
        receiving.close()
    if isinstance(answer, PosedgeError):
        raise answer
    return answer


def _wait(
    process: BaseProcess, answers: Connection, limits: Limits, begin: float
) -> Finished[Any] | Ended | PosedgeError:
    while not answers.poll(_POLL_S):
        seconds = time.monotonic() - begin
        if _resident_bytes(process.pid) > limits.memory_bytes:
            return Ended(f"killed at {limits.memory_bytes / GIB:.1f} GiB after {seconds:.0f} s")
        if seconds > limits.seconds:
            return Ended(f"stopped after {seconds:.0f} s")
    try:
        answer: Finished[Any] | Ended | PosedgeError = answers.recv()
    except EOFError:
        process.join()
        seconds = time.monotonic() - begin
        return Ended(f"died with status {process.exitcode} after {seconds:.0f} s")
    return answer


def _child(answers: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    answer: Finished[Any] | Ended | PosedgeError
    try:
        answer = Finished(work(*arguments), peak_bytes())
    except PosedgeError as error:
        answer = error
    except MemoryError:
        answer = Ended("out of memory")
    except Exception as error:  # a peer may raise anything; its row says what
        words = " ".join(str(error).split())
        answer = Ended(f"failed: {type(error).__name__}: {words[:200]}")
    answers.send(answer)


def peak_bytes() -> int:
    """Largest resident memory of this process so far in bytes."""
    try:
        fields = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text("ascii").splitlines()
        )
        return int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        # elsewhere than on Linux, where getrusage counts the parent's memory from before the exec too
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _resident_bytes(process: int | None) -> int:
    """Resident memory of a process now in bytes; 0 where it is gone or the system does not say."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text("ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * resource.getpagesize()


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Give a command the flags that ``limits_of`` reads."""
    parser.add_argument(
        "--memory-limit",
        type=_gibibytes,
        default=12.0,
        metavar="GIB",
        help="resident memory at which a process is killed (default: 12)",
    )
    parser.add_argument(
        "--time-limit",
        type=seconds,
        default=3600.0,
        metavar="SECONDS",
        help="when a process is killed (default: 3600)",
    )


def limits_of(options: argparse.Namespace) -> Limits:
    """The limits that the flags ask for."""
    return Limits(int(options.memory_limit * GIB), options.time_limit)


def _gibibytes(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: a size above 0 is expected")
    return number
