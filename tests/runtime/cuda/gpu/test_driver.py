"""The driver layer on a device: graphs, streams, threads, other people's contexts, faults, memory."""

import ctypes
import os
import threading

import numpy as np
import pytest

from posedge.errors import DeviceError
from posedge.runtime.cuda.context import Context
from posedge.runtime.cuda.memory import DeviceBuffer, PinnedBuffer
from posedge.runtime.cuda.streams import Event, Stream


def test_a_graph_does_what_was_captured_each_time(context: Context, stream: Stream) -> None:
    values = np.zeros(1000, np.uint8)
    with DeviceBuffer(context, 1000) as buffer, DeviceBuffer(context, 1000) as other:

        def work() -> None:
            with context.current() as driver:
                driver.copy_on_device(other.address, buffer.address, 1000, stream.handle)

        with stream.capture(work) as graph:
            for value in (3, 5):
                buffer.fill(value, stream=stream)
                graph.launch(stream)
                other.download(values, stream=stream)
                stream.synchronize()
                assert (values == value).all()


def test_a_capture_that_waits_is_refused_and_the_stream_goes_on(context: Context, stream: Stream) -> None:
    with pytest.raises(DeviceError, match="CUDA_ERROR_STREAM_CAPTURE"):
        stream.capture(stream.synchronize)
    with DeviceBuffer(context, 4) as buffer:
        buffer.fill(0, stream=stream)
        stream.synchronize()


def test_an_event_orders_two_streams(context: Context, stream: Stream) -> None:
    size = 64 << 20
    found = np.zeros(size, np.uint8)
    with (
        Stream(context) as other,
        DeviceBuffer(context, size) as buffer,
        Event(context, timing=True) as start,
        Event(context, timing=True) as end,
    ):
        start.record(stream)
        for value in range(1, 20):
            buffer.fill(value, stream=stream)
        end.record(stream)
        other.wait(end)
        buffer.download(found, stream=other)
        other.synchronize()
        assert (found == 19).all()
        assert end.elapsed_since(start) > 0


def test_two_threads_share_the_device(context: Context) -> None:
    wrong: list[str] = []

    def work(value: int) -> None:
        found = np.zeros(100_000, np.uint8)
        with Stream(context) as own, DeviceBuffer(context, found.size) as buffer:
            for turn in range(50):
                wanted = (value + turn) % 256
                buffer.fill(wanted, stream=own)
                buffer.download(found, stream=own)
                own.synchronize()
                if not (found == wanted).all():
                    wrong.append(f"{value}, {turn}")

    threads = [threading.Thread(target=work, args=(value,)) for value in (0, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_applications_own_context_stays_current(context: Context, stream: Stream) -> None:
    library = ctypes.CDLL("libcuda.so.1")
    own, current = ctypes.c_void_p(), ctypes.c_void_p()
    assert library.cuDevicePrimaryCtxRetain(ctypes.byref(own), context.device.ordinal) == 0
    assert library.cuCtxPushCurrent_v2(own) == 0
    try:
        with DeviceBuffer(context, 100) as buffer:
            buffer.fill(1, stream=stream)
            stream.synchronize()
        assert library.cuCtxGetCurrent(ctypes.byref(current)) == 0
        assert current.value == own.value
    finally:
        library.cuCtxPopCurrent_v2(ctypes.byref(current))
        library.cuDevicePrimaryCtxRelease_v2(context.device.ordinal)


def test_nothing_is_left_current(context: Context, stream: Stream) -> None:
    library = ctypes.CDLL("libcuda.so.1")
    before, after = ctypes.c_void_p(), ctypes.c_void_p()
    assert library.cuCtxGetCurrent(ctypes.byref(before)) == 0
    stream.synchronize()
    with pytest.raises(DeviceError), context.current():
        DeviceBuffer(context, 1 << 60)
    assert library.cuCtxGetCurrent(ctypes.byref(after)) == 0
    assert before.value == after.value


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the driver has threads of its own
def test_a_forked_worker_is_told_to_spawn(context: Context, stream: Stream) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            stream.synchronize()
        except DeviceError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as said:
        words = said.read()
    os.waitpid(child, 0)
    assert "get_context('spawn')" in words
    stream.synchronize()  # the parent is as well as before


def test_running_out_of_memory_is_said_with_figures_and_survived(context: Context, stream: Stream) -> None:
    _, total = context.memory_info()
    with pytest.raises(DeviceError, match=rf"{2 * total:,} bytes were asked for, [\d,]+ of [\d,]+ are free"):
        DeviceBuffer(context, 2 * total)
    with DeviceBuffer(context, 1000) as buffer:
        buffer.fill(0, stream=stream)
        stream.synchronize()


def test_pinned_memory_goes_there_and_back(context: Context, stream: Stream) -> None:
    with PinnedBuffer(context, (1000,), np.float32) as pinned, DeviceBuffer(context, 4000) as buffer:
        pinned.array[:] = np.arange(1000)
        buffer.upload(pinned.array, stream=stream)
        stream.synchronize()
        pinned.array[:] = 0
        buffer.download(pinned.array, stream=stream)
        stream.synchronize()
        assert (pinned.array == np.arange(1000)).all()


def test_making_and_closing_loses_no_memory(context: Context, frames: int) -> None:
    def once() -> None:
        with Stream(context) as own, Event(context), DeviceBuffer(context, 1 << 20) as buffer:
            own.capture(lambda: buffer.fill(0, stream=own)).close()

    for _ in range(20):
        once()
    before, _ = context.memory_info()
    for _ in range(frames // 10):
        once()
    assert context.memory_info()[0] >= before
