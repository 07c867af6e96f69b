"""The driver layer on both bindings, on the stand-in for libcuda.

cuda-python is the real package; PyCUDA is a stand-in with the attributes that are used here.
"""

import ctypes
import threading

import numpy as np
import pytest

from posedge.errors import DeviceError
from posedge.runtime.cuda.context import Context
from posedge.runtime.cuda.driver import BINDINGS, open_driver
from posedge.runtime.cuda.kernels import KERNELS, WarpArguments
from posedge.runtime.cuda.memory import DeviceBuffer, PinnedBuffer
from posedge.runtime.cuda.modules import Module, pack
from posedge.runtime.cuda.streams import Event, Stream

pytestmark = pytest.mark.stand_in


class Scaling(ctypes.Structure):
    """The argument of the kernel ``scale``."""

    _fields_ = (("values", ctypes.c_uint64), ("count", ctypes.c_int), ("factor", ctypes.c_float))


def current_context() -> int | None:
    found = ctypes.c_void_p()
    assert ctypes.CDLL("libcuda.so.1").cuCtxGetCurrent(ctypes.byref(found)) == 0
    return found.value


def test_a_device_says_what_it_is(context: Context) -> None:
    assert context.device.name == "stand-in device"
    assert context.device.capability == (8, 6)
    assert context.device.memory == 1 << 30
    assert context.driver.driver_version() == (13, 0)
    assert context.driver.name.startswith(("cuda-python 1", "pycuda 2"))
    assert context.memory_info() == (1 << 30, 1 << 30)


def test_copies_go_there_and_back(context: Context) -> None:
    sent = np.arange(24, dtype=np.float32).reshape(4, 6)
    with Stream(context) as stream, DeviceBuffer(context, 2 * sent.nbytes) as buffer:
        assert buffer.address % 256 == 0
        buffer.fill(0, stream=stream)
        buffer.upload(sent, stream=stream, offset=sent.nbytes)
        got = np.empty((2, 4, 6), np.float32)
        buffer.download(got, stream=stream)
        stream.synchronize()
    assert np.array_equal(got, [np.zeros_like(sent), sent])


def test_pinned_memory_is_an_array(context: Context) -> None:
    with Stream(context) as stream, PinnedBuffer(context, (3, 5), np.int16) as pinned:
        pinned.array[:] = 7
        assert pinned.array.shape == (3, 5)
        with DeviceBuffer(context, pinned.size) as buffer:
            buffer.upload(pinned.array, stream=stream)
            pinned.array[:] = 0
            buffer.download(pinned.array, stream=stream)
        assert (pinned.array == 7).all()
    with pytest.raises(DeviceError, match="pinned buffer is closed"):
        _ = pinned.array


def test_kernels_take_scalars_addresses_and_structures(context: Context) -> None:
    values = np.arange(100, dtype=np.float32)
    with Stream(context) as stream, DeviceBuffer(context, 400) as buffer, Module(context, b"code") as module:
        buffer.upload(values, stream=stream)
        add, scale = module.function("add"), module.function("scale")
        add.launch((4, 1, 1), (32, 1, 1), [buffer, np.int32(99), np.float64(2.5)], stream=stream)
        scale.launch((4, 1, 1), (32, 1, 1), [Scaling(buffer.address, 100, 2.0)], stream=stream)
        got = np.empty_like(values)
        buffer.download(got, stream=stream)
        stream.synchronize()
    assert np.array_equal(got[:99], (values[:99] + 2.5) * 2)
    assert got[99] == 198


def test_arguments_are_aligned_as_in_c() -> None:
    packed, offsets = pack([np.int32(1), np.float64(2), np.uint8(3), Scaling(4, 5, 6)])
    assert offsets == (0, 8, 16, 24)
    assert len(packed) == 40
    with pytest.raises(TypeError, match="cannot be a int"):
        pack([3])  # type: ignore[list-item]


def test_posedges_own_kernels_are_there(context: Context) -> None:
    with Module(context, b"code") as module, Stream(context) as stream, DeviceBuffer(context, 64) as buffer:
        for name in KERNELS:
            module.function(name)
        crops, batch = DeviceBuffer(context, 128), buffer  # one crop of no image: all border
        crops.fill(0, stream=stream)
        arguments = WarpArguments(crops.address, batch.address, None, 1, 2, 2, std=(1, 2, 4))
        arguments.mean[:] = (1, 1, 1)
        module.function("warp_normalize").launch((1, 1, 1), (2, 2, 1), [arguments], stream=stream)
        got = np.empty((3, 2, 2), np.float32)
        batch.download(got, stream=stream)
        stream.synchronize()
    assert np.array_equal(got, np.full((3, 2, 2), [[[-1.0]], [[-0.5]], [[-0.25]]]))


def test_a_graph_repeats_what_was_captured(context: Context, cuda) -> None:
    values = np.zeros(8, np.float32)
    with Stream(context) as stream, DeviceBuffer(context, 32) as buffer, Module(context, b"code") as module:
        buffer.fill(0, stream=stream)
        add = module.function("add")

        def work() -> None:
            add.launch((1, 1, 1), (8, 1, 1), [buffer, np.int32(8), np.float64(1)], stream=stream)

        with stream.capture(work) as graph:
            buffer.download(values, stream=stream)
            assert (values == 0).all()  # captured, not done
            launches = cuda.calls("cuLaunchKernel")
            for _ in range(3):
                graph.launch(stream)
            buffer.download(values, stream=stream)
            assert (values == 3).all()
            assert cuda.calls("cuLaunchKernel") == launches
        assert cuda.live()["graphs"] == 0  # only the executable was kept


def test_a_capture_that_waits_is_refused_and_the_stream_goes_on(context: Context) -> None:
    with Stream(context) as stream, DeviceBuffer(context, 4) as buffer:
        with pytest.raises(DeviceError, match="CAPTURE_UNSUPPORTED") as caught:
            stream.capture(stream.synchronize)
        assert caught.value.cuda_name == "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
        with pytest.raises(DeviceError, match="CUDA_ERROR_STREAM_CAPTURE"):
            stream.capture(lambda: DeviceBuffer(context, 4).close())
        with pytest.raises(ZeroDivisionError):
            stream.capture(lambda: print(1 // 0))
        buffer.fill(0, stream=stream)
        stream.synchronize()


def test_another_thread_may_allocate_during_a_capture(context: Context) -> None:
    def allocate() -> None:
        DeviceBuffer(context, 64).close()

    def work() -> None:
        thread = threading.Thread(target=allocate)
        thread.start()
        thread.join()

    with Stream(context) as stream:
        stream.capture(work).close()


def test_events_order_streams_and_measure_them(context: Context) -> None:
    with (
        Stream(context) as stream,
        Stream(context) as other,
        DeviceBuffer(context, 4) as buffer,
        Event(context, timing=True) as start,
        Event(context, timing=True) as end,
        Event(context) as untimed,
    ):
        start.record(stream)
        for _ in range(5):
            buffer.fill(1, stream=stream)
        end.record(stream)
        other.wait(end)
        end.synchronize()
        assert end.elapsed_since(start) == 6  # the stand-in's clock counts operations
        with pytest.raises(DeviceError, match="timing=True"):
            end.elapsed_since(untimed)


def test_nothing_is_left_current(context: Context) -> None:
    assert current_context() is None
    with context.current(), context.current():
        assert current_context() is not None
    assert current_context() is None
    with pytest.raises(DeviceError), context.current():
        DeviceBuffer(context, 1 << 40)
    assert current_context() is None


@pytest.mark.parametrize("binding", BINDINGS)
def test_an_applications_own_context_stays_current(cuda, binding: str) -> None:
    library = ctypes.CDLL("libcuda.so.1")
    own = ctypes.c_void_p()
    library.cuInit(0)
    assert library.cuDevicePrimaryCtxRetain(ctypes.byref(own), 0) == 0
    assert library.cuCtxPushCurrent_v2(own) == 0
    with Context(driver=open_driver(binding)) as context, Stream(context) as stream:
        assert current_context() == own.value
        stream.synchronize()
    assert current_context() == own.value
    assert cuda.live()["contexts"] == 1  # the application's
    library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    library.cuDevicePrimaryCtxRelease_v2(0)


def test_threads_share_a_context(context: Context) -> None:
    sums: list[float] = []

    def work(value: int) -> None:
        with Stream(context) as stream, DeviceBuffer(context, 400) as buffer:
            for _ in range(20):
                buffer.upload(np.full(100, value, np.float32), stream=stream)
            got = np.empty(100, np.float32)
            buffer.download(got, stream=stream)
            stream.synchronize()
            sums.append(float(got.sum()))

    threads = [threading.Thread(target=work, args=(value,)) for value in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sums) == [0, 100, 200, 300, 400, 500]


def test_closing_a_context_frees_what_was_made_in_it(context: Context, cuda) -> None:
    stream = Stream(context)
    buffer, pinned = DeviceBuffer(context, 16), PinnedBuffer(context, (4,), np.float32)
    Event(context)
    module = Module(context, b"code")
    add = module.function("add")
    stream.capture(lambda: None)
    context.close()
    context.close()
    assert not any(cuda.live().values())
    for use in (
        lambda: buffer.address,
        lambda: pinned.array,
        lambda: stream.synchronize(),
        lambda: add.launch((1, 1, 1), (1, 1, 1), [], stream=stream),
        lambda: DeviceBuffer(context, 4),
    ):
        with pytest.raises(DeviceError, match="is closed"):
            use()
    buffer.close()
