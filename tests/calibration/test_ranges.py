import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posedge.calibration.ranges import METHODS, choose_ranges, entropy, minmax, mse, percentile
from posedge.calibration.statistics import CHANNEL_BINS, Observer, TensorStatistics
from posedge.errors import CalibrationError


def statistics(*batches: np.ndarray) -> TensorStatistics:
    observer = Observer()
    for batch in batches:
        observer.update(np.asarray(batch, np.float32))
    return observer.result()


def test_minmax_is_the_largest_magnitude_of_either_sign() -> None:
    ranges = minmax({"a": statistics([-3.0, 1.0]), "b": statistics([0.5, 2.0])})
    assert dict(ranges.amax) == {"a": 3.0, "b": 2.0}
    assert ranges.method == "minmax"
    assert not ranges.excluded


@given(
    seed=st.integers(0, 2**32 - 1),
    percent=st.sampled_from([50.0, 90.0, 99.0, 99.9, 99.99, 100.0]),
    growth=st.sampled_from([1.0, 10.0, 1e6]),
)
@settings(max_examples=60, deadline=None)
def test_percentile_is_numpys_within_a_bin(seed: int, percent: float, growth: float) -> None:
    rng = np.random.default_rng(seed)
    batches = [rng.normal(size=3000) * scale for scale in rng.permutation(np.geomspace(1, growth, 5))]
    seen = statistics(*batches)
    values = np.abs(np.concatenate(batches).astype(np.float32))
    expected = np.percentile(values, percent, method="inverted_cdf")
    amax = percentile({"x": seen}, percent).amax["x"]
    two_bins = float(seen.limit[0]) / CHANNEL_BINS + seen.merged().bin_width
    assert abs(amax - expected) <= two_bins


def test_mse_clips_an_outlier_that_costs_more_than_it_is_worth() -> None:
    rng = np.random.default_rng(0)
    values = np.append(rng.normal(size=1_000_000), 60.0).astype(np.float32)
    amax = mse({"x": statistics(values)}).amax["x"]

    def error(largest: float) -> float:
        step = largest / 127
        return float(np.square(values - np.clip(np.rint(values / step), -127, 127) * step).mean())

    assert error(amax) < 0.2 * error(60.0)
    best = min(error(share * 60.0) for share in np.linspace(0.05, 1, 96))
    assert error(amax) <= 1.02 * best


def test_entropy_keeps_a_uniform_tensor_whole_and_cuts_a_long_tail() -> None:
    rng = np.random.default_rng(0)
    uniform = rng.uniform(-1, 1, 100_000).astype(np.float32)
    assert entropy({"x": statistics(uniform)}).amax["x"] > 0.95
    tail = np.append(rng.normal(size=100_000), np.linspace(10, 40, 20)).astype(np.float32)
    assert entropy({"x": statistics(tail)}).amax["x"] < 15


@pytest.mark.parametrize("method", METHODS)
def test_exact_zeros_have_no_say(method: str) -> None:
    values = np.abs(np.random.default_rng(0).normal(size=10_000)).astype(np.float32)
    padded = np.append(values, np.zeros(10_000, np.float32))
    one = METHODS[method]({"x": statistics(values)}).amax["x"]
    other = METHODS[method]({"x": statistics(padded)}).amax["x"]
    assert other == pytest.approx(one, rel=0.25 if method == "percentile" else 1e-6)


def test_a_constant_tensor_keeps_its_value() -> None:
    ranges = percentile({"x": statistics(np.full(100, -0.7))})
    assert ranges.amax["x"] == pytest.approx(0.7)
    assert ranges.amax["x"] <= np.float32(0.7), "never above the largest value"


def test_a_sparse_tensor_is_not_clipped_to_nothing() -> None:
    values = np.zeros(1_000_000)
    values[:20] = 5.0
    assert percentile({"x": statistics(values)}).amax["x"] == 5.0


@pytest.mark.parametrize("method", METHODS)
def test_tensors_of_zeros_are_excluded_with_a_reason(method: str) -> None:
    ranges = METHODS[method](
        {"dead": statistics(np.zeros(9)), "alive": statistics([1.0]), "faint": statistics([1e-42])}
    )
    assert list(ranges.amax) == ["alive"]
    assert dict(ranges.excluded) == {
        "dead": "it was zero on every crop",
        "faint": "its values are too small",
    }


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.1, float("nan")])
def test_a_percentile_outside_its_range_is_refused(percent: float) -> None:
    with pytest.raises(CalibrationError, match="percentile"):
        percentile({}, percent)


def test_the_methods_name_themselves_with_their_parameter() -> None:
    assert percentile({}).method == "percentile 99.99"
    assert percentile({}, 99.9).method == "percentile 99.9"


def test_greedy_takes_the_candidate_that_hurts_the_readers_least() -> None:
    """One channel has large values; the more its errors count against the other's, the wider the range."""
    rng = np.random.default_rng(0)
    values = np.stack([rng.normal(0, 1, 20000), rng.laplace(0, 8, 20000)], 0)[None].astype(np.float32)
    seen = {"x": statistics(values)}
    amaxes = [
        choose_ranges("greedy", seen, lambda weight=weight: {"x": np.array([1.0, weight])}).amax["x"]
        for weight in (0.0, 1e-4, 1.0)
    ]
    candidates = {round(METHODS[method](seen).amax["x"], 6) for method in METHODS}
    assert {round(amax, 6) for amax in amaxes} <= candidates
    assert amaxes == sorted(amaxes)
    assert amaxes[0] < amaxes[-1]
    assert choose_ranges("greedy", seen, dict).amax == mse(seen).amax
