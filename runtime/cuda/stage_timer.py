"""How long each stage takes on the device, by events around it."""

from collections.abc import Iterator
from contextlib import contextmanager

from .context import Context
from .streams import Event, Stream


class StageTimer:
    """Events around stages. ``read`` frees them."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._marks: list[tuple[str, Event, Event]] = []

    @contextmanager
    def stage(self, name: str, stream: Stream) -> Iterator[None]:
        """Measure what the block puts on a stream."""
        start = Event(self._context, timing=True)
        end = Event(self._context, timing=True)
        self._marks.append((name, start, end))
        start.record(stream)
        yield
        end.record(stream)

    def read(self) -> dict[str, float]:
        """Milliseconds by stage, summed; all of it must have passed."""
        times: dict[str, float] = {}
        for name, start, end in self._marks:
            times[name] = times.get(name, 0.0) + end.elapsed_since(start)
        self.close()
        return times

    def close(self) -> None:
        """Free the events. A second call does nothing."""
        for _, start, end in self._marks:
            start.close()
            end.close()
        self._marks.clear()
