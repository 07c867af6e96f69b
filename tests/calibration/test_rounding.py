"""Rounded weights: at the output never worse than the nearest levels and near the best; biases mend means."""

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from posedge.calibration.patches import PatchMoments
from posedge.calibration.placement import plan
from posedge.calibration.qdq import quantize_weights
from posedge.calibration.rounding import RoundedFilters, round_filters, round_layers
from posedge.errors import CalibrationError


def moments(patches: NDArray[np.float64]) -> PatchMoments:
    """Of patches (G, P, D)."""
    mean = patches.mean(1)
    centred = patches - mean[:, None]
    return PatchMoments(mean, centred.transpose(0, 2, 1) @ centred / patches.shape[1])


def alike(rng: np.random.Generator, groups: int, size: int, rank: int = 2) -> NDArray[np.float64]:
    """Patches (G, 200, D) whose values go together, as those of images do."""
    common = rng.normal(size=(groups, 200, rank)) @ rng.normal(size=(groups, rank, size))
    return common + 0.1 * rng.normal(size=(groups, 200, size)) + rng.normal(size=(groups, 1, size))


def errors(weights: NDArray[np.float32], found: RoundedFilters, groups: int) -> NDArray[np.float64]:
    """Exact weights minus rounded ones, (G, O, D)."""
    scale = found.weights.scale.astype(np.float64).reshape(-1, *[1] * (weights.ndim - 1))
    return (weights - found.weights.values * scale).reshape(groups, weights.shape[0] // groups, -1)


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(1, 1, 1, 1), (3, 2, 1, 1), (4, 3, 3, 2), (6, 1, 3, 3), (2, 40, 1, 1)]),
    magnitude=st.sampled_from([1e-20, 1e-3, 1.0, 1e4]),
    spread=st.sampled_from([0.0, 1.0, 3.0]),
)
@settings(max_examples=60, deadline=None)
def test_never_worse_than_the_nearest_levels(
    seed: int, shape: tuple[int, ...], magnitude: float, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    groups = shape[0] // 2 if shape == (6, 1, 3, 3) else 1
    weights = (rng.normal(size=shape) * magnitude * np.exp(rng.normal(0, spread, shape))).astype(np.float32)
    seen = moments(alike(rng, groups, int(np.prod(shape[1:]))))
    found = round_filters(weights, seen)
    assert found.error <= found.nearest_error * (1 + 1e-9)
    assert found.weights.values.dtype == np.int8
    assert np.abs(found.weights.values.astype(int)).max() <= 127
    np.testing.assert_array_equal(found.weights.scale, quantize_weights(weights, 0).scale)
    off = errors(weights, found, groups)
    actual = np.einsum("god,gde,goe->", off, seen.covariance, off)
    assert actual <= found.error * (1 + 1e-6)  # which has a little damping on top


def test_values_that_go_together_gain_much() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(16, 8, 3, 3)).astype(np.float32)
    patches = alike(rng, 1, 72)
    seen = moments(patches)
    found = round_filters(weights, seen)
    assert found.error < 0.25 * found.nearest_error

    def output_error(off: NDArray[np.float64]) -> float:
        return float((off.reshape(16, -1) @ patches[0].T).var(1).sum())

    nearest = quantize_weights(weights, 0)
    plain = weights - nearest.values * nearest.scale.astype(np.float64).reshape(-1, 1, 1, 1)
    assert output_error(errors(weights, found, 1)) < 0.25 * output_error(plain)


def test_independent_values_leave_nothing_to_gain() -> None:
    weights = np.random.default_rng(0).normal(size=(4, 6, 1, 1)).astype(np.float32)
    found = round_filters(weights, PatchMoments(np.zeros((1, 6)), np.eye(6)[None]))
    np.testing.assert_array_equal(found.weights.values, quantize_weights(weights, 0).values)
    assert found.error == found.nearest_error


def test_the_best_of_all_levels_is_not_much_better() -> None:
    """Of five weights every combination of levels around the exact values is tried."""
    found_errors, best_errors, nearest_errors = [], [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        weights = rng.normal(size=(1, 5, 1, 1)).astype(np.float32)
        seen = moments(alike(rng, 1, 5))
        found = round_filters(weights, seen)
        step, exact = float(found.weights.scale[0]), weights.reshape(-1).astype(np.float64)
        ranges = [np.arange(np.floor(value / step) - 2, np.floor(value / step) + 4) for value in exact]
        tried = np.clip(np.array(list(itertools.product(*ranges))), -127, 127)
        covariance = seen.covariance[0] + np.eye(5) * np.trace(seen.covariance[0]) / 5 * 1e-2
        off = exact - tried * step
        best_errors.append(np.einsum("td,de,te->t", off, covariance, off).min())
        found_errors.append(found.error)
        nearest_errors.append(found.nearest_error)
    found_all, best_all, nearest_all = map(np.array, (found_errors, best_errors, nearest_errors))
    assert (found_all >= best_all * (1 - 1e-9)).all()
    # half of the filters get the very best levels, and all together six tenths of what there is to gain
    assert (found_all <= best_all * (1 + 1e-9)).mean() >= 0.5
    assert nearest_all.sum() - found_all.sum() > 0.6 * (nearest_all.sum() - best_all.sum())


@pytest.mark.parametrize("groups", [1, 3])
def test_the_bias_takes_up_the_mean_of_the_error(groups: int) -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(6, 4, 3, 3)).astype(np.float32)
    patches = alike(rng, groups, 36) + 2
    found = round_filters(weights, moments(patches))
    outputs = np.einsum("god,gpd->gop", errors(weights, found, groups), patches)
    assert found.bias_change.shape == (6,)
    np.testing.assert_allclose(found.bias_change, outputs.mean(2).reshape(-1), rtol=0, atol=1e-9)
    assert np.abs(found.bias_change).max() > 1e-4


def test_a_filter_of_zeros_stays_one() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 4, 1, 1)).astype(np.float32)
    weights[1] = 0
    found = round_filters(weights, moments(alike(rng, 1, 4)))
    assert not found.weights.values[1].any()
    assert found.bias_change[1] == 0
    assert np.isfinite(found.bias_change).all()


def test_patches_of_zeros_change_nothing() -> None:
    """An input that is silent on every crop says nothing about levels."""
    weights = np.random.default_rng(0).normal(size=(3, 4, 1, 1)).astype(np.float32)
    found = round_filters(weights, PatchMoments(np.zeros((1, 4)), np.zeros((1, 4, 4))))
    np.testing.assert_array_equal(found.weights.values, quantize_weights(weights, 0).values)
    np.testing.assert_array_equal(found.bias_change, 0)


def two_layers(first: float = 1.0) -> onnx.ModelProto:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[n, 3, 5, 4] x) => (float[n, 2, 5, 4] y)'
        "{ a = Conv(x, w) r = Relu(a) y = Conv(r, v) }"
    )
    rng = np.random.default_rng(0)
    for name, shape in {"w": (4, 3, 1, 1), "v": (2, 4, 1, 1)}.items():
        value = (rng.normal(size=shape) * first).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def test_layers_whose_patches_are_known_are_rounded() -> None:
    model = two_layers()
    found = round_layers(model, plan(model), {"y": moments(alike(np.random.default_rng(0), 1, 4))})
    assert set(found.weights) == {"v"}
    assert set(found.bias_changes) == {"y"}
    assert found.weights["v"].values.shape == (2, 4, 1, 1)


def test_weights_that_are_not_finite_are_named() -> None:
    model = two_layers(float("nan"))
    with pytest.raises(CalibrationError, match="'w'"):
        round_layers(model, plan(model), {"a": moments(alike(np.random.default_rng(0), 1, 3))})
