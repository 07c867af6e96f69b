"""Ctrl-C that cannot get lost in a library on its way to the command line."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self.pressed = False


@contextmanager
def watched_interrupts() -> Iterator[Interrupts]:
    """Note every SIGINT of the block besides raising KeyboardInterrupt as Python does.

    The note is needed because libraries lose the exception: torch's exporter catches it and raises its own,
    and an import that is cut off becomes an ImportError. A SIGINT that is ignored or handled by somebody else
    stays so; threads other than the main one get no signals, and there nothing is noted.
    """
    interrupts = Interrupts()

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.pressed = True
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupts
        return
    try:
        signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread
        yield interrupts
        return
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
