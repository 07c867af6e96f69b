"""Three threads that work on three batches at once: make one, run one, finish one.

While the network runs (without holding Python's lock), the next batch is decoded, warped and packed and the
last one is decoded to keypoints. The queues between are short, so memory and delay are bounded.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


def overlapped(
    batches: Iterable[A],
    run: Callable[[A], B],
    finish: Callable[[B], C],
    depth: int = 2,
    stop: Callable[[], None] | None = None,
) -> Generator[C, None, None]:
    """Yield ``finish(run(batch))`` for each batch, in order, with the three steps in threads of their own.

    batches: iterated in the first thread, so the work of a generator (reading, preparing) overlaps too.
    run: called in the second thread, never twice at once.
    finish: called in the third.
    depth: how many results wait between two steps; at most 3 * depth + 3 batches exist at a time.
    stop: called at the end before the threads are waited for; it wakes steps that wait for each other.

    An exception in any step is raised here in the place of its result, after the results before it. The
    threads end when the iterator ends or is closed; closing waits for the call that is in progress, so an
    endless wait inside ``batches`` delays it. Work starts with the first ``next()``.
    """
    made: _Channel[A] = _Channel(depth)
    ran: _Channel[B] = _Channel(depth)
    finished: _Channel[C] = _Channel(depth)
    channels = (made, ran, finished)
    # Daemons: an iterator that is still open when the program ends must not keep it from ending.
    threads = [
        threading.Thread(target=target, args=arguments, name=f"posedge-{name}", daemon=True)
        for name, target, arguments in (
            ("prepare", _feed, (batches, made)),
            ("run", _work, (made, run, ran)),
            ("finish", _work, (ran, finish, finished)),
        )
    ]
    try:
        for thread in threads:
            thread.start()
        yield from finished
    finally:
        for channel in channels:
            channel.close()
        if stop is not None:
            stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


def _feed(batches: Iterable[A], made: "_Channel[A]") -> None:
    try:
        for batch in batches:
            if not made.put(batch):
                return
    except BaseException as error:
        made.fail(error)
    else:
        made.end()


def _work(incoming: "_Channel[A]", step: Callable[[A], B], outgoing: "_Channel[B]") -> None:
    try:
        for item in incoming:
            if not outgoing.put(step(item)):
                return
    except BaseException as error:
        outgoing.fail(error)
    else:
        outgoing.end()


class _Channel(Generic[A]):
    """A bounded queue from one thread to one other that ends, fails or is closed by the reader.

    ``queue.Queue`` cannot wake a writer that waits for room when nobody will read again.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._items: deque[A] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None

    def put(self, item: A) -> bool:
        """Wait for room and add ``item``; False when the channel was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed

    def end(self) -> None:
        """Nothing follows the items that were put."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Like ``end``, and the reader gets ``error`` after the last item."""
        self._error = error
        self.end()

    def close(self) -> None:
        """Drop what waits and wake both sides: the writer stops and the reader ends."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[A]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._ended or self._closed)
                if self._closed:
                    return
                if not self._items:
                    break
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error
