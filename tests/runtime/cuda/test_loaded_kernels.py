"""posedge's kernels through the driver layer: compiled, loaded and launched on the stand-in for libcuda."""

import sys
from pathlib import Path

import numpy as np
import pytest

from posedge.errors import DeviceError, MissingExtraError, UnservedDeviceError
from posedge.runtime.cuda.context import Context
from posedge.runtime.cuda.crops import CROP
from posedge.runtime.cuda.driver import open_driver
from posedge.runtime.cuda.loaded import LoadedKernels
from posedge.runtime.cuda.memory import DeviceBuffer
from posedge.runtime.cuda.streams import Stream
from posedge.runtime.cuda.warp import warp_launch
from posedge.runtime.spec import ModelSpec

pytestmark = pytest.mark.stand_in


def border(context: Context, small_spec: ModelSpec, kernels: LoadedKernels) -> np.ndarray:
    """The crop of no image, which is border only."""
    width, height = small_spec.input_wh
    crops = np.zeros(1, CROP)
    batch = np.empty((1, 3, height, width), np.float32)
    with (
        Stream(context) as stream,
        DeviceBuffer(context, crops.nbytes) as records,
        DeviceBuffer(context, batch.nbytes) as result,
    ):
        records.upload(crops, stream=stream)
        kernels.launch(warp_launch(small_spec, 1, records.address, result.address), stream=stream)
        result.download(batch, stream=stream)
        stream.synchronize()
    return batch


def test_kernels_are_compiled_loaded_and_run(context: Context, small_spec: ModelSpec, tmp_path: Path) -> None:
    with LoadedKernels(context, tmp_path) as kernels:
        batch = border(context, small_spec, kernels)
    mean, std = np.float32(small_spec.mean), np.float32(small_spec.std)
    assert np.array_equal(batch, np.broadcast_to((-mean / std)[None, :, None, None], batch.shape))
    with Stream(context) as stream, pytest.raises(DeviceError, match="the module is closed"):
        kernels.launch(warp_launch(small_spec, 1, 0, 0), stream=stream)


def test_pycuda_compiles_where_nvrtc_is_not(
    cuda, small_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    with Context(driver=open_driver("pycuda")) as context, LoadedKernels(context, tmp_path) as kernels:
        assert np.isfinite(border(context, small_spec, kernels)).all()
    monkeypatch.setenv("FAKE_NO_NVCC", "1")
    said = r"nvcc was not found.*pip install 'posedge\[cuda\]'"
    with Context(driver=open_driver("pycuda")) as context, pytest.raises(MissingExtraError, match=said):
        LoadedKernels(context, tmp_path)


def test_without_nvrtc_and_nvcc_what_is_in_the_cache_is_taken(
    cuda, small_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Context() as context, LoadedKernels(context, tmp_path):
        pass
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    monkeypatch.setenv("FAKE_NO_NVCC", "1")
    with Context(driver=open_driver("pycuda")) as context:
        with LoadedKernels(context, tmp_path) as kernels:
            assert np.isfinite(border(context, small_spec, kernels)).all()
        (entry,) = tmp_path.iterdir()
        entry.write_bytes(b"damaged")
        with pytest.raises(MissingExtraError, match="nvcc was not found"):
            LoadedKernels(context, tmp_path)


def test_pycuda_compiles_for_a_device_that_nvrtc_does_not_serve(
    cuda, small_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_SM", "72")
    with Context(driver=open_driver("pycuda")) as context, LoadedKernels(context, tmp_path) as kernels:
        assert np.isfinite(border(context, small_spec, kernels)).all()
    with Context() as context, pytest.raises(UnservedDeviceError, match=r"7\.2.*posedge\[cuda12\]"):
        LoadedKernels(context, tmp_path)


def test_cuda_python_without_nvrtc_names_the_extra(
    cuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    with Context() as context, pytest.raises(MissingExtraError, match=r"pip install 'posedge\[cuda\]'"):
        LoadedKernels(context, tmp_path)


def test_a_failed_load_leaves_nothing(cuda, tmp_path: Path) -> None:
    with Context() as context:
        cuda.fail("cuModuleGetFunction", 3, 500)
        with pytest.raises(DeviceError, match="cannot find the kernel"):
            LoadedKernels(context, tmp_path)
        assert cuda.live()["modules"] == 0
