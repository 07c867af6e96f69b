"""Beside torch in one process: its context, its stream and its memory are shared and left alone."""

import numpy as np
import pytest

from posedge.benchmarks.gpu.torch_network import TorchNetwork
from posedge.runtime.cuda.context import Context
from posedge.runtime.cuda.gpu import what_is_missing
from posedge.runtime.cuda.memory import DeviceBuffer
from posedge.runtime.cuda.streams import Stream

pytestmark = pytest.mark.gpu


@pytest.fixture
def torch():
    missing = what_is_missing()
    if missing is not None:
        pytest.skip(f"no GPU can be used: {missing.message}")
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch is installed without CUDA")
    return torch


def test_torch_works_before_during_and_after(torch) -> None:
    numbers = torch.arange(1000, device="cuda")
    assert int(numbers.sum()) == 499_500
    with Context() as context, Stream(context) as stream, DeviceBuffer(context, 1000) as buffer:
        buffer.fill(7, stream=stream)
        assert int((numbers * 2).sum()) == 999_000
        found = np.zeros(1000, np.uint8)
        buffer.download(found, stream=stream)
        stream.synchronize()
        assert (found == 7).all()
    assert int(numbers.sum()) == 499_500  # the context that was let go of is torch's too, and stays


def test_the_stand_in_network_is_captured_and_repeats_itself(torch) -> None:
    with Context() as context, Stream(context) as stream, TorchNetwork(context, stream, 4) as network:
        batch = np.random.default_rng(0).standard_normal((4, 3, 256, 192), np.float32)
        (first,) = network.run(batch)
        assert network.no_graphs is None
        (second,) = network.run(batch)
        assert first.shape == (4, 17, 64, 48)
        assert np.isfinite(first).all()
        assert np.abs(first).max() > 0
        np.testing.assert_array_equal(first, second)
        (third,) = network.run(batch[::-1])
        np.testing.assert_allclose(third[::-1], first, atol=0.05)
