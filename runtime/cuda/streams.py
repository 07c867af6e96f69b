"""Streams, events and graphs: the order in which the device works, and work recorded to be replayed."""

from collections.abc import Callable

from ...errors import DeviceError
from .context import Context, Owned
from .driver import Driver, Handle
from .failures import CudaFailure


class Event(Owned):
    """A point in a stream. timing: whether two of them can be subtracted, which costs a little."""

    _what = "event"

    def __init__(self, context: Context, *, timing: bool = False) -> None:
        self.timing = timing
        with context.current("make an event") as driver:
            super().__init__(context, driver.create_event(timing))

    def record(self, stream: "Stream") -> None:
        """Stand where the stream's work ends now."""
        with self.context.current("record an event") as driver:
            driver.record_event(self.handle, stream.handle)

    def synchronize(self) -> None:
        """Wait until the device has come here."""
        with self.context.current("wait for an event") as driver:
            driver.synchronize_event(self.handle)

    def elapsed_since(self, start: "Event") -> float:
        """Milliseconds from ``start`` to here, by the device's clock; both must have passed."""
        if not (self.timing and start.timing):
            raise DeviceError("the events carry no time. Make them with timing=True.")
        with self.context.current("subtract events") as driver:
            return driver.elapsed(start.handle, self.handle)

    def _free(self, driver: Driver, handle: Handle) -> None:
        driver.destroy_event(handle)

    def __enter__(self) -> "Event":
        return self


class Stream(Owned):
    """A queue of work on the device; what is put on it is done in that order."""

    _what = "stream"

    def __init__(self, context: Context) -> None:
        with context.current("make a stream") as driver:
            super().__init__(context, driver.create_stream())

    def synchronize(self) -> None:
        """Wait until all its work is done. A kernel's fault shows here."""
        with self.context.current("wait for the device") as driver:
            driver.synchronize_stream(self.handle)

    def wait(self, event: Event) -> None:
        """Let the work that is put on the stream from now on wait for an event. The caller does not wait."""
        with self.context.current("let a stream wait") as driver:
            driver.wait_event(self.handle, event.handle)

    def capture(self, work: Callable[[], None]) -> "Graph":
        """What ``work`` puts on the stream from this thread, recorded instead of done.

        ``work`` must not allocate, free or wait, and what it uses must stay where it is as long as the graph
        is launched. Other threads may use the device meanwhile.

        Raises DeviceError when CUDA refuses the capture; the stream works as before then, and after an
        exception of ``work``, which is passed on.
        """
        with self.context.current("capture a CUDA graph") as driver:
            driver.begin_capture(self.handle)
            try:
                work()
            except BaseException:
                self._abandon(driver)
                raise
            graph = driver.end_capture(self.handle)
            try:
                return Graph(self.context, driver.instantiate(graph))
            finally:
                driver.destroy_graph(graph)

    def _abandon(self, driver: Driver) -> None:
        """End a capture that is of no use, without hiding why."""
        try:
            graph = driver.end_capture(self.handle)
        except CudaFailure:
            return  # it was broken, and has ended all the same
        driver.destroy_graph(graph)

    def _free(self, driver: Driver, handle: Handle) -> None:
        driver.destroy_stream(handle)

    def __enter__(self) -> "Stream":
        return self


class Graph(Owned):
    """Recorded work that one call starts. ``Stream.capture`` makes it."""

    _what = "CUDA graph"

    def __init__(self, context: Context, handle: Handle) -> None:
        super().__init__(context, handle)

    def launch(self, stream: Stream) -> None:
        """Put the work on a stream."""
        with self.context.current("launch a CUDA graph") as driver:
            driver.launch_graph(self.handle, stream.handle)

    def _free(self, driver: Driver, handle: Handle) -> None:
        driver.destroy_executable(handle)

    def __enter__(self) -> "Graph":
        return self
