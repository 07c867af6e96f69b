"""What an observer gathers, channel by channel, in any order of the batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from posedge.calibration.statistics import CHANNEL_BINS, TENSOR_BINS, Observer, TensorStatistics
from posedge.errors import CalibrationError


def observed(*batches: NDArray[np.float32]) -> TensorStatistics:
    observer = Observer()
    for batch in batches:
        observer.update(batch)
    return observer.result()


def batch(seed: int) -> NDArray[np.float32]:
    """Four channels, each of a size of its own that changes from batch to batch; some values are zero."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, 4, 5, 3)) * 10.0 ** rng.uniform(-3, 3, (1, 4, 1, 1))
    values[rng.random(values.shape) < 0.2] = 0
    return values.astype(np.float32)


batches = st.lists(st.integers(0, 2**32 - 1).map(batch), min_size=1, max_size=6)


@given(batches=batches, order=st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_of_batches_does_not_matter(batches, order) -> None:
    shuffled = list(batches)
    order.shuffle(shuffled)
    one, other = observed(*batches), observed(*shuffled)
    for field in ("minimum", "maximum", "zeros", "histogram", "limit"):
        assert np.array_equal(getattr(one, field), getattr(other, field)), field
    assert one.count == other.count
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-6, atol=1e-6 * one.largest)


@given(batches=batches)
@settings(max_examples=40, deadline=None)
def test_each_channels_figures_are_numpys(batches) -> None:
    seen = observed(*batches)
    whole = np.concatenate(batches).transpose(1, 0, 2, 3).reshape(4, -1)
    for index, values in enumerate(whole):
        magnitudes = np.abs(values[values != 0])
        expected, _ = np.histogram(magnitudes, bins=CHANNEL_BINS, range=(0, seen.limit[index]))
        assert np.array_equal(seen.histogram[index], expected)
        assert magnitudes.max() < seen.limit[index] <= 2 * magnitudes.max()
    assert np.array_equal(seen.channel_largest, np.abs(whole).max(1))
    assert np.array_equal(seen.zeros, (whole == 0).sum(1))
    assert seen.count == whole.shape[1]
    np.testing.assert_allclose(seen.mean, whole.mean(1, np.float64), rtol=1e-5, atol=1e-5 * seen.largest)
    np.testing.assert_allclose(seen.deviation, whole.std(1, np.float64), rtol=1e-4)


@given(batches=batches, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_scaled_statistics_are_those_of_the_scaled_tensor(batches, seed: int) -> None:
    factors = 2.0 ** np.random.default_rng(seed).integers(-8, 8, 4)
    factors_of_axis = factors.astype(np.float32)[:, None, None]
    one = observed(*batches).scaled(factors)
    other = observed(*(values * factors_of_axis for values in batches))
    for field in ("minimum", "maximum", "zeros", "histogram", "limit"):
        assert np.array_equal(getattr(one, field), getattr(other, field)), field


@given(batches=batches)
@settings(max_examples=40, deadline=None)
def test_merged_counts_are_right_to_within_a_bin_of_a_channel(batches) -> None:
    seen = observed(*batches)
    merged = seen.merged()
    values = np.abs(np.concatenate(batches))
    assert merged.counts.sum() + merged.zeros == pytest.approx(values.size)
    assert merged.zeros == (values == 0).sum()
    assert merged.largest == values.max() < merged.limit
    edges = np.arange(1, TENSOR_BINS + 1) * merged.bin_width
    ordered, coarse = np.sort(values[values != 0]), merged.limit / CHANNEL_BINS
    cumulated = np.cumsum(merged.counts)
    assert (cumulated <= np.searchsorted(ordered, edges + coarse, side="right") + 1e-6).all()
    assert (cumulated >= np.searchsorted(ordered, edges - coarse, side="left") - 1e-6).all()


def test_a_tensor_of_zeros_has_no_range() -> None:
    seen = observed(np.zeros((3, 4, 2, 2), np.float32))
    assert seen.largest == 0
    assert not seen.limit.any()
    assert not seen.histogram.any()
    assert seen.merged().zeros == 48


def test_a_channel_that_wakes_up_late() -> None:
    first = np.zeros((1, 2, 2, 2), np.float32)
    first[0, 0] = 1.0
    seen = observed(first, np.ones((1, 2, 2, 2), np.float32))
    assert np.array_equal(seen.zeros, [0, 4])
    assert np.array_equal(seen.histogram.sum(1), [8, 4])


@pytest.mark.parametrize("value", [1e-45, -1e-38, 3.4e38, -65504.0])
def test_extreme_values_have_a_bin(value: float) -> None:
    seen = observed(np.array([[value, 0.0]], np.float32).T)
    assert seen.histogram.sum() + seen.zeros.sum() == 2
    assert seen.largest == abs(np.float32(value))


def test_half_precision_is_observed_exactly() -> None:
    values = np.random.default_rng(0).normal(size=(10, 10)).astype(np.float16)
    assert np.array_equal(observed(values).histogram, observed(values.astype(np.float32)).histogram)


def test_an_observer_that_saw_nothing_says_so() -> None:
    with pytest.raises(CalibrationError, match="no value"):
        observed(np.empty((0, 3), np.float32))


def test_nan_and_another_number_of_channels_are_refused() -> None:
    with pytest.raises(CalibrationError, match="NaN or infinity"):
        observed(np.array([[np.nan]], np.float32))
    with pytest.raises(CalibrationError, match="3 channels now and had 2"):
        observed(np.ones((1, 2), np.float32), np.ones((1, 3), np.float32))
