"""What goes wrong on a device, and what is said of it, on both bindings and the stand-in for libcuda."""

import os

import numpy as np
import pytest

from posedge.errors import DeviceError, MissingExtraError
from posedge.runtime.cuda.context import Context
from posedge.runtime.cuda.driver import BINDINGS, open_driver
from posedge.runtime.cuda.memory import DeviceBuffer, PinnedBuffer
from posedge.runtime.cuda.modules import Module
from posedge.runtime.cuda.streams import Stream

pytestmark = pytest.mark.stand_in


def test_running_out_of_memory_says_how_much_was_asked_and_is_free(context: Context, cuda) -> None:
    cuda.limit(1_000_000)
    with DeviceBuffer(context, 400_000):
        with pytest.raises(DeviceError) as caught:
            DeviceBuffer(context, 700_000)
        assert caught.value.cuda_name == "CUDA_ERROR_OUT_OF_MEMORY"
        assert "700,000 bytes were asked for, 600,000 of 1,000,000 are free" in str(caught.value)
        assert "stand-in device" in str(caught.value)
        DeviceBuffer(context, 600_000).close()  # the context is as good as before
    cuda.fail("cuMemHostAlloc", 1, 2)
    with pytest.raises(DeviceError, match="page-locked memory: CUDA_ERROR_OUT_OF_MEMORY"):
        PinnedBuffer(context, (10,), np.uint8)


def test_a_lost_device_is_named_once_and_closes_without_an_error(context: Context, cuda) -> None:
    stream, buffer = Stream(context), DeviceBuffer(context, 16)
    cuda.fail("cuStreamSynchronize", 1, 700)
    with pytest.raises(DeviceError, match=r"CUDA_ERROR_ILLEGAL_ADDRESS .*start the process again"):
        stream.synchronize()
    assert context.lost == "CUDA_ERROR_ILLEGAL_ADDRESS"
    with pytest.raises(DeviceError, match="the device was lost"):
        buffer.fill(0, stream=stream)
    calls = cuda.calls("cuMemFree")
    context.close()
    assert buffer.closed
    assert cuda.calls("cuMemFree") == calls  # there is nothing to free any more
    cuda.lost = True


def test_a_fork_is_told_that_cuda_does_not_survive_it(context: Context) -> None:
    stream = Stream(context)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            stream.synchronize()
        except DeviceError as error:
            stream.close()
            context.close()  # frees nothing of the parent's
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as said:
        words = said.read()
    os.waitpid(child, 0)
    assert f"opened in process {os.getpid()}" in words
    assert "get_context('spawn')" in words
    stream.synchronize()


def test_a_fork_cannot_open_the_device_anew(context: Context) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            Context()
        except DeviceError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as said:
        words = said.read()
    os.waitpid(child, 0)
    assert "CUDA_ERROR_NOT_INITIALIZED" in words
    assert "'spawn'" in words


def test_a_device_that_is_not_there(context: Context, cuda) -> None:
    with pytest.raises(DeviceError, match=r"cannot use CUDA device 3: CUDA_ERROR_INVALID_DEVICE"):
        Context(3)
    cuda.fail("cuDevicePrimaryCtxRetain", 1, 46)
    with pytest.raises(DeviceError, match="device 0: CUDA_ERROR_DEVICE_UNAVAILABLE"):
        Context(0)


def test_wrong_code_and_wrong_names_are_refused(context: Context) -> None:
    with pytest.raises(DeviceError, match="cannot load compiled kernels: CUDA_ERROR_INVALID_IMAGE"):
        Module(context, b"\0")
    with Module(context, b"code") as module, pytest.raises(DeviceError, match="find the kernel nothing"):
        module.function("nothing")


def test_a_refused_launch_names_the_kernel(context: Context) -> None:
    with Module(context, b"code") as module, Stream(context) as stream, DeviceBuffer(context, 4) as buffer:
        add = module.function("add")
        with pytest.raises(DeviceError, match="cannot launch the kernel add: CUDA_ERROR_INVALID_VALUE"):
            add.launch((0, 1, 1), (1, 1, 1), [buffer, np.int32(1), np.float64(1)], stream=stream)


def test_copies_that_do_not_fit_are_refused_before_the_driver(context: Context) -> None:
    with Stream(context) as stream, DeviceBuffer(context, 16) as buffer:
        with pytest.raises(DeviceError, match="20 bytes at offset 0 do not fit"):
            buffer.upload(np.zeros(5, np.float32), stream=stream)
        with pytest.raises(DeviceError, match="not contiguous"):
            buffer.upload(np.zeros((4, 4), np.uint8)[:, :2], stream=stream)
        fixed = np.zeros(4, np.uint8)
        fixed.flags.writeable = False
        with pytest.raises(DeviceError, match="read-only"):
            buffer.download(fixed, stream=stream)


def test_a_binding_that_does_not_exist() -> None:
    with pytest.raises(DeviceError, match="'cupy' is no CUDA binding; there are cuda-python, pycuda"):
        open_driver("cupy")


def test_a_binding_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BINDINGS, "pycuda", ("absent_package", "pycuda", "PyCudaDriver"))
    with pytest.raises(MissingExtraError, match=r"pip install 'posedge\[pycuda\]'"):
        open_driver("pycuda")
