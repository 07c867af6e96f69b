"""What is said where a GPU is asked for and something is missing, in order, on the stand-in for libcuda."""

import sys

import pytest

from posedge.errors import DeviceError
from posedge.runtime.cuda import gpu
from posedge.runtime.cuda.context import DeviceInfo
from posedge.runtime.cuda.driver import BINDINGS

pytestmark = pytest.mark.stand_in


def too_old(device: DeviceInfo) -> str | None:
    return f"the engine was built for compute capability 8.9, this is {device.capability}"


def test_with_all_that_it_takes_nothing_is_missing(cuda) -> None:
    assert gpu.what_is_missing() is None
    assert gpu.available(library="tensorrt")
    gpu.require_gpu(library="tensorrt_rtx", engine=lambda device: None)
    assert not any(cuda.live().values())  # asking opens no context


def test_what_is_missing_is_said_in_order(cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are missing at first; each in turn is put in place."""
    with monkeypatch.context() as driver:
        driver.setattr(gpu, "DRIVER_LIBRARY", "libabsent.so.1")
        with monkeypatch.context() as binding:
            for name in list(BINDINGS):
                binding.setitem(BINDINGS, name, ("absent_package", *BINDINGS[name][1:]))
            with monkeypatch.context() as library:
                library.setitem(sys.modules, "tensorrt", None)
                with monkeypatch.context() as device:
                    device.setenv("FAKE_CUDA_DEVICES", "0")
                    assert_missing("driver", r"no NVIDIA driver here \(libabsent.so.1")
                    driver.undo()
                    assert_missing("binding", r"pip install 'posedge\[cuda\]'")
                    binding.undo()
                    assert_missing("library", "tensorrt is not installed.*JetPack")
                    library.undo()
                    assert_missing("device", "CUDA_ERROR_NO_DEVICE.*nvidia-smi")
                    device.undo()
                    assert_missing("engine", r"built for compute capability 8.9, this is \(8, 6\)")


def assert_missing(what: str, said: str) -> None:
    missing = gpu.what_is_missing(library="tensorrt", engine=too_old)
    assert missing is not None
    assert missing.what == what
    assert not gpu.available(library="tensorrt") or what == "engine"
    with pytest.raises(DeviceError, match=said):
        gpu.require_gpu(library="tensorrt", engine=too_old)


def test_a_device_number_too_high(cuda) -> None:
    missing = gpu.what_is_missing(4)
    assert missing == gpu.Missing("device", "there is no CUDA device 4; 1 are visible. Look with nvidia-smi")
