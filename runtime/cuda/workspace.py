"""Memory that engines work in, one piece for several of them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .context import Context
from .memory import DeviceBuffer
from .streams import Event, Stream


class Workspace:
    """Device memory for the intermediate results of engines that take turns.

    Sessions that share one need the memory of the largest instead of the sum, and run one after another on
    the device, whatever streams they use. It is as large as the largest that asked; growing moves it, which
    ``generation`` counts.

    Example::

        with Context() as context, Workspace(context) as workspace:
            body = TensorRTSession(engine, spec, context=context, workspace=workspace)
            hands = TensorRTSession(other, other_spec, context=context, workspace=workspace)
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._buffer: DeviceBuffer | None = None
        self._passed = Event(context)  # where the last user's work ends
        self._last: Stream | None = None
        self._lock = threading.RLock()
        self.generation = 0

    @property
    def address(self) -> int:
        """Where it is now, 0 while nothing was reserved."""
        return 0 if self._buffer is None else self._buffer.address

    @property
    def size(self) -> int:
        """Bytes."""
        return 0 if self._buffer is None else self._buffer.size

    def reserve(self, size: int) -> None:
        """Make it at least ``size`` bytes. Raises DeviceError, and changes nothing, when there is no room."""
        with self._lock:
            if self._buffer is not None and self._buffer.size >= size:
                return
            if self._last is not None:
                self._passed.synchronize()  # someone may still work in the old one
            grown = DeviceBuffer(self._context, size)
            if self._buffer is not None:
                self._buffer.close()
            self._buffer = grown
            self.generation += 1

    @contextmanager
    def turn(self, stream: Stream) -> Iterator[None]:
        """Put work that uses the memory on a stream, behind what another stream does in it."""
        with self._lock:
            if self._last is not None and self._last is not stream:
                stream.wait(self._passed)
            try:
                yield
            finally:
                self._passed.record(stream)
                self._last = stream

    def close(self) -> None:
        """Free the memory. A second call does nothing."""
        with self._lock:
            if self._buffer is not None:
                self._buffer.close()
                self._buffer = None
            self._passed.close()

    def __enter__(self) -> "Workspace":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
