"""One progress display for all stages: bars on a terminal, lines in a log, silence in a library call."""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, TextIO

_LINE_INTERVAL_S = 5.0


class Task(ABC):
    """A piece of work whose end is known or will be known."""

    @abstractmethod
    def update(self, done: float, total: float | None = None) -> None:
        """Say how much is done; ``total`` replaces the one given at the start."""


class Progress(ABC):
    """Where long work says how far it has come."""

    @abstractmethod
    def task(self, description: str, total: float | None = None) -> AbstractContextManager[Task]:
        """A task that is finished when the block ends without an exception."""

    @abstractmethod
    def note(self, text: str) -> None:
        """A line that stays on the screen."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class _SilentTask(Task):
    def update(self, done: float, total: float | None = None) -> None:
        return None


class SilentProgress(Progress):
    """Says nothing: the default of every library function."""

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Task]:
        yield _SilentTask()

    def note(self, text: str) -> None:
        return None


SILENT = SilentProgress()


class LabelledProgress(Progress):
    """Another display, every line of which begins with a label: whose work it is."""

    def __init__(self, label: str, progress: Progress) -> None:
        self._label = label
        self._progress = progress

    def task(self, description: str, total: float | None = None) -> AbstractContextManager[Task]:
        return self._progress.task(f"{self._label}: {description}", total)

    def note(self, text: str) -> None:
        self._progress.note(f"{self._label}: {text}")


class _LineTask(Task):
    def __init__(self, description: str, total: float | None, stream: TextIO) -> None:
        self._description = description
        self._total = total
        self._stream = stream
        self._said = time.monotonic()

    def update(self, done: float, total: float | None = None) -> None:
        self._total = self._total if total is None else total
        now = time.monotonic()
        if self._total and now - self._said >= _LINE_INTERVAL_S:
            self._said = now
            print(f"{self._description}: {100 * done / self._total:.0f} %", file=self._stream, flush=True)


class LineProgress(Progress):
    """Plain lines: when a task starts, every five seconds, and when it ends."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Task]:
        start = time.monotonic()
        print(f"{description} ...", file=self._stream, flush=True)
        yield _LineTask(description, total, self._stream)
        print(f"{description}: done in {time.monotonic() - start:.1f} s", file=self._stream, flush=True)

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class _BarTask(Task):
    def __init__(self, display: Any, identity: Any) -> None:
        self._display = display
        self._identity = identity

    def update(self, done: float, total: float | None = None) -> None:
        if total is None:
            self._display.update(self._identity, completed=done)
        else:
            self._display.update(self._identity, completed=done, total=total)


class BarProgress(Progress):
    """Bars drawn by rich, one line a task, all in one display."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._display = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )

    def __enter__(self) -> "BarProgress":
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Task]:
        identity = self._display.add_task(description, total=total)
        yield _BarTask(self._display, identity)
        known = self._display.tasks[identity].total or 1
        self._display.update(identity, completed=known, total=known)

    def note(self, text: str) -> None:
        self._display.console.print(text, markup=False, highlight=False)


def for_terminal() -> Progress:
    """Bars where standard error is a terminal and rich is installed, plain lines elsewhere."""
    if sys.stderr.isatty():
        try:
            return BarProgress()
        except ImportError:
            return LineProgress()
    return LineProgress()
