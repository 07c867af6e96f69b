"""Tests for a CUDA device. Each is there twice.

``[gpu]``, marked gpu, runs on the device, and is skipped with what is missing where none can be used;
``[stand-in]`` runs the same on the stand-in for libcuda, so that these tests are executed where no GPU is.

On a machine with a device:  python -m pytest -m gpu tests/runtime/cuda/gpu
POSEDGE_TEST_BUNDLE names a bundle for the tests of engines; POSEDGE_TEST_FRAMES changes the 10,000 frames
over which memory must stay flat.
"""

import os
from collections.abc import Iterator

import pytest

from posedge.runtime.cuda.context import Context
from posedge.runtime.cuda.gpu import what_is_missing
from posedge.runtime.cuda.loaded import LoadedKernels
from posedge.runtime.cuda.streams import Stream

GPU = pytest.param("gpu", marks=pytest.mark.gpu)
STAND_IN = pytest.param("stand-in", marks=pytest.mark.stand_in)


@pytest.fixture(params=[GPU, STAND_IN])
def device(request: pytest.FixtureRequest, cuda) -> str | None:
    """Where the test runs; None for a test of the stand-in outside its child process."""
    if request.param == "stand-in":
        return None if cuda is None else "stand-in"
    missing = what_is_missing()
    if missing is not None:
        pytest.skip(f"no GPU can be used: {missing.message}")
    return "gpu"


@pytest.fixture
def context(device: str | None) -> Iterator[Context | None]:
    """The device, opened; on the stand-in, nothing may be left afterwards."""
    if device is None:
        yield None
        return
    with Context() as opened:
        yield opened


@pytest.fixture
def stream(context: Context | None) -> Iterator[Stream | None]:
    if context is None:
        yield None
        return
    with Stream(context) as made:
        yield made


@pytest.fixture(autouse=True)
def kept_kernels(kernel_cache: None) -> None:
    """Kernels are compiled once, and not into the user's cache."""


@pytest.fixture
def kernels(context: Context | None) -> Iterator[LoadedKernels | None]:
    if context is None:
        yield None
        return
    with LoadedKernels(context) as loaded:
        yield loaded


@pytest.fixture
def frames(device: str | None) -> int:
    """How many frames show that memory stays flat: 10,000 on a device."""
    return int(os.environ.get("POSEDGE_TEST_FRAMES", 10_000 if device == "gpu" else 200))
