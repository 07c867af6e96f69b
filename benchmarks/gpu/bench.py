"""A device that is measured: its work timed by events, launched by itself and in a replayed graph."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from types import TracebackType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...runtime.cuda.context import Context
from ...runtime.cuda.driver import Driver, open_driver
from ...runtime.cuda.loaded import LoadedKernels
from ...runtime.cuda.memory import DeviceBuffer
from ...runtime.cuda.streams import Event, Stream

Work = Callable[[], None]


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    persons, frame_wh: of the kernels' input. repeats: timed launches, and timed replays. in_graph: works in a
    replayed graph at least. rotated: bytes that successive works go through before the first comes again, so
    that no cache holds them. copied: bytes of the copy that measures the bandwidth.
    batch: persons of a frame of the pipeline. turns: in which the pipeline and what it is compared with take
    part alternately. batches: frames of a turn. usual: frames of a turn of the usual way. latencies: frames
    whose time is taken one by one. warm_up: launches, and replays, before those that are timed.
    """

    persons: int = 32
    frame_wh: tuple[int, int] = (1920, 1080)
    repeats: int = 100
    in_graph: int = 40
    rotated: int = 512 << 20
    copied: int = 256 << 20
    batch: int = 8
    turns: int = 7
    batches: int = 200
    usual: int = 10
    latencies: int = 2000
    warm_up: int = 5


FULL = Effort()
QUICK = Effort(
    persons=1,
    frame_wh=(320, 180),
    repeats=2,
    in_graph=2,
    rotated=1 << 20,
    copied=1 << 20,
    batch=2,
    turns=1,
    batches=3,
    usual=1,
    latencies=10,
    warm_up=1,
)


class CountingDriver:
    """A driver that counts, in ``allocations``, those of device and page-locked memory and of graphs."""

    _COUNTED = ("allocate", "allocate_pinned", "instantiate")

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.allocations = 0

    def __getattr__(self, name: str) -> Any:
        self.allocations += name in self._COUNTED
        found = getattr(self._driver, name)
        if name not in self._COUNTED:
            setattr(self, name, found)  # what is not counted costs nothing from now on
        return found


class Bench:
    """The context, a stream, posedge's kernels, and the clock.

    Raises what Context and LoadedKernels raise.
    """

    def __init__(self, effort: Effort, ordinal: int = 0) -> None:
        self.effort = effort
        with ExitStack() as made:
            self.driver = CountingDriver(open_driver())
            self.context = made.enter_context(Context(ordinal, cast(Driver, self.driver)))
            self.stream = made.enter_context(Stream(self.context))
            self.kernels = made.enter_context(LoadedKernels(self.context))
            self._start = made.enter_context(Event(self.context, timing=True))
            self._end = made.enter_context(Event(self.context, timing=True))
            self._made = made.pop_all()

    @property
    def is_stand_in(self) -> bool:
        """Whether the device is the tests' stand-in, whose clock counts operations."""
        return "stand-in" in self.context.device.name

    def uploaded(self, array: NDArray[Any], made: ExitStack) -> DeviceBuffer:
        """A device buffer with a copy of ``array``, closed by ``made``."""
        array = np.ascontiguousarray(array)
        buffer = made.enter_context(DeviceBuffer(self.context, array.nbytes))
        buffer.upload(array, stream=self.stream)
        self.stream.synchronize()  # the array may be gone after this
        return buffer

    def sets(self, size: int) -> int:
        """How many inputs of ``size`` bytes to rotate, within a quarter of the memory that is free."""
        free, _ = self.context.memory_info()
        return max(2, min(-(-self.effort.rotated // size), free // 4 // size))

    def launched(self, works: Sequence[Work]) -> float:
        """Microseconds of one work that is launched by itself, the median; the works take turns.

        With what the events and an idle device's start cost.
        """
        for turn in range(self.effort.warm_up):
            works[turn % len(works)]()
        times = [self._timed(works[turn % len(works)]) for turn in range(self.effort.repeats)]
        return 1000 * median(times)

    def replayed(self, works: Sequence[Work]) -> float:
        """Microseconds of one work among many in a replayed CUDA graph, the median of the replays."""
        rounds = -(-self.effort.in_graph // len(works))

        def every() -> None:
            for _ in range(rounds):
                for work in works:
                    work()

        with self.stream.capture(every) as graph:

            def replay() -> None:
                graph.launch(self.stream)

            for _ in range(self.effort.warm_up):
                replay()
            times = []
            for _ in range(self.effort.repeats):
                replay()  # the clock starts behind this one, when the next is queued: no start is measured
                times.append(self._timed(replay))
        return 1000 * median(times) / (rounds * len(works))

    def _timed(self, work: Work) -> float:
        self._start.record(self.stream)
        work()
        self._end.record(self.stream)
        self._end.synchronize()
        return self._end.elapsed_since(self._start)

    def copy_time(self, size: int) -> float:
        """Microseconds of a copy on the device that moves ``size`` bytes, half read and half written."""
        half = max(1, size // 2)
        count = self.sets(2 * half)
        with ExitStack() as made:
            pairs = [
                (
                    made.enter_context(DeviceBuffer(self.context, half)).address,
                    made.enter_context(DeviceBuffer(self.context, half)).address,
                )
                for _ in range(count)
            ]

            def copy(source: int, to: int) -> Work:
                def work() -> None:
                    with self.context.current("copy on the device") as driver:
                        driver.copy_on_device(to, source, half, self.stream.handle)

                return work

            return self.replayed([copy(*pair) for pair in pairs])

    def copy_bandwidth(self) -> float:
        """Bytes per microsecond of a large copy on the device, those read and those written."""
        free, _ = self.context.memory_info()
        size = 2 * min(self.effort.copied, free // 8)
        return size / self.copy_time(size)

    def close(self) -> None:
        """Let go of the device. A second call does nothing."""
        self._made.close()

    def __enter__(self) -> "Bench":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
