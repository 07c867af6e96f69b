"""The overlapped pipeline: order, overlap, errors in their place, and threads that end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

import posedge
from posedge.runtime.stream import overlapped

PATIENCE_S = 20.0


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("posedge-")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert ours() == []


def same(item: int) -> int:
    return item


def test_results_come_in_order() -> None:
    assert list(overlapped(range(200), lambda n: n * 2, str)) == [str(n * 2) for n in range(200)]


def test_nothing_in_nothing_out() -> None:
    assert list(overlapped([], same, same)) == []


def test_all_three_steps_work_at_once() -> None:
    """Each step waits for the other two to be inside their own; without overlap the barrier breaks."""
    barrier = threading.Barrier(3)

    def batches() -> Iterator[int]:
        yield 0
        yield 1
        barrier.wait(PATIENCE_S)
        yield 2

    def run(item: int) -> int:
        if item == 1:
            barrier.wait(PATIENCE_S)
        return item

    def finish(item: int) -> int:
        if item == 0:
            barrier.wait(PATIENCE_S)
        return item

    assert list(overlapped(batches(), run, finish)) == [0, 1, 2]


def test_work_ahead_is_bounded() -> None:
    made = count()
    depth = 2
    with closing(overlapped(made, same, same, depth)) as results:
        assert next(results) == 0
        time.sleep(0.2)  # time to run too far ahead
    assert next(made) <= 3 * depth + 3 + 1


def fails_at_three(item: int) -> int:
    if item == 3:
        raise ValueError("three")
    return item


@pytest.mark.parametrize("step", ["batches", "run", "finish"])
def test_an_error_comes_in_the_place_of_its_result(step: str) -> None:
    batches = map(fails_at_three, range(100)) if step == "batches" else iter(range(100))
    run, finish = (fails_at_three if step == name else same for name in ("run", "finish"))
    results = overlapped(batches, run, finish)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert ours() == []


def test_closing_early_ends_the_threads() -> None:
    results = overlapped(count(), same, same)
    assert next(results) == 0
    assert len(ours()) == 3
    results.close()
    assert ours() == []


def test_nothing_starts_before_the_first_result_is_asked_for() -> None:
    results = overlapped(count(), same, same)
    assert ours() == []
    results.close()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_ctrl_c_while_waiting_ends_the_threads() -> None:
    third_is_awaited = threading.Event()

    def run(item: int) -> int:
        if item == 2:
            third_is_awaited.wait(PATIENCE_S)
            time.sleep(0.1)  # so that the main thread is inside its wait
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.1)
        return item

    results = overlapped(count(), run, same)
    assert [next(results), next(results)] == [0, 1]
    third_is_awaited.set()
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert ours() == []


def test_a_program_ends_with_an_open_stream() -> None:
    code = (
        "from itertools import count\n"
        "from posedge.runtime.stream import overlapped\n"
        "stream = overlapped(count(), abs, abs)\n"
        "print(next(stream), next(stream))\n"
    )
    parent = str(Path(posedge.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": parent},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 1\n", "")
