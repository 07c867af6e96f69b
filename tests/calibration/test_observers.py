import gc
import tracemalloc
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import parser

from posedge.calibration.observers import observe
from posedge.errors import CalibrationError

NET = """
    <ir_version: 8, opset_import: ["": 17]>
    net (float[n, 3, 64, 48] input) => (float[n, 3, 64, 48] heatmaps)
    { doubled = Add(input, input) positive = Relu(doubled) heatmaps = Sqrt(positive) }
"""


def net() -> onnx.ModelProto:
    return parser.parse_model(NET)


def stream(count: int, seed: int = 0) -> Iterator[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.normal(size=(4, 3, 64, 48)).astype(np.float32)


def test_observe_sees_inputs_and_inner_tensors() -> None:
    data = list(stream(3))
    seen = observe(net(), data, ["input", "doubled", "positive"])
    whole = np.concatenate(data)
    assert seen.crops == 12
    assert list(seen.tensors) == ["input", "doubled", "positive"]
    assert np.array_equal(seen.tensors["input"].minimum, whole.min((0, 2, 3)))
    assert np.array_equal(seen.tensors["doubled"].maximum, 2 * whole.max((0, 2, 3)))
    assert np.array_equal(seen.tensors["positive"].zeros, (whole <= 0).sum((0, 2, 3)))
    assert seen.tensors["positive"].count == whole.size // 3


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    def peak(count: int) -> int:
        gc.collect()
        tracemalloc.start()
        observe(net(), stream(count), ["input", "doubled", "positive"])
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(1)  # imports and caches
    one_batch = 4 * 3 * 64 * 48 * 4
    assert peak(64) < peak(8) + one_batch


def test_a_batch_is_read_only_when_the_one_before_is_done() -> None:
    alive = 0

    def batches() -> Iterator[NDArray[np.float32]]:
        nonlocal alive
        for batch in stream(5):
            alive += 1
            yield batch

    class Counting:
        def __iter__(self) -> Iterator[NDArray[np.float32]]:
            for index, batch in enumerate(batches()):
                assert alive == index + 1, "batches were collected ahead"
                yield batch

    assert observe(net(), Counting(), ["doubled"]).crops == 20


def test_nan_names_the_tensor_and_the_crop() -> None:
    model = parser.parse_model(NET.replace("Sqrt(positive)", "Sqrt(doubled)"))
    good = np.abs(next(stream(1)))
    bad = good.copy()
    bad[2, 1, 5, 5] = -1.0
    with pytest.raises(CalibrationError, match=r"tensor 'heatmaps' .*NaN or infinity for batch 1, crop 2"):
        observe(model, [good, bad], ["doubled", "heatmaps"])


def test_infinite_pixels_are_found_in_the_input() -> None:
    bad = next(stream(1))
    bad[3, 0, 0, 0] = np.inf
    with pytest.raises(CalibrationError, match=r"tensor 'input' .* batch 0, crop 3"):
        observe(net(), [bad], ["input"])


# batches, tensors, what the message must say
REFUSED = [
    ([], ["doubled"], "no crops to calibrate with"),
    ([np.empty((0, 3, 64, 48), np.float32)], ["doubled"], "no crops to calibrate with"),
    ([np.zeros((1, 3, 64, 48), np.float64)], ["doubled"], "batch 0 is float64"),
    ([np.zeros((3, 64, 48), np.float32)], ["doubled"], r"batch 0 is float32 of shape \(3, 64, 48\)"),
    ([np.zeros((1, 3, 32, 32), np.float32)], ["doubled"], r"cannot run crops of shape \(1, 3, 32, 32\)"),
    ([np.zeros((1, 3, 64, 48), np.float32)], ["tripled"], "no tensor 'tripled'"),
]


@pytest.mark.parametrize(("batches", "tensors", "message"), REFUSED)
def test_what_cannot_be_observed_is_refused(batches, tensors, message) -> None:
    with pytest.raises(CalibrationError, match=message):
        observe(net(), batches, tensors)


def test_a_graph_with_two_inputs_is_refused() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> two (float[n] a, float[n] b) => (float[n] c)'
        "{ c = Add(a, b) }"
    )
    with pytest.raises(CalibrationError, match="feeds one input, the graph has 2: a, b"):
        observe(model, [], ["c"])
