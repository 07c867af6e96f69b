"""Moments of patches are those that numpy finds on the patches themselves, and their memory does not grow."""

import tracemalloc

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from posedge.calibration.patches import LARGEST_PATCH, PatchMoments, PatchObserver, patch_observers
from posedge.calibration.topology import Topology
from posedge.export.graphs import run_graph

CHANNELS = 4


def network(body: str, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    """A model on 4 x 7 x 6 pixels: few enough places for each to be taken."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[n, 4, 7, 6] x) => (float[n, c, h, w] y)'
        f"{{ {body} }}"
    )
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        value = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def crops(count: int = 3, seed: int = 1) -> list[NDArray[np.float32]]:
    """Batches of two crops, each channel with a mean of its own."""
    rng = np.random.default_rng(seed)
    means = np.arange(CHANNELS, dtype=np.float32)[:, None, None]
    return [rng.normal(means, 1, (2, CHANNELS, 7, 6)).astype(np.float32) for _ in range(count)]


def observed(model: onnx.ModelProto, batches: list[NDArray[np.float32]]) -> PatchMoments:
    observer = patch_observers(Topology(model), ["y"])["y"]
    for batch in batches:
        observer.update(batch)
    return observer.result()


def unfolded(
    batches: list[NDArray[np.float32]],
    groups: int,
    kernel: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    dilations: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> NDArray[np.float64]:
    """Every patch of every crop (G, P, D), by loops."""
    pixels = np.concatenate(batches).astype(np.float64)
    pixels = np.pad(pixels, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    found = []
    for crop in pixels:
        for top in range(0, crop.shape[1] - reach[0] + 1, strides[0]):
            for left in range(0, crop.shape[2] - reach[1] + 1, strides[1]):
                rows, columns = (
                    slice(top, top + reach[0], dilations[0]),
                    slice(left, left + reach[1], dilations[1]),
                )
                found.append(crop[:, rows, columns].reshape(groups, -1))
    return np.stack(found, 1)


CONVOLUTIONS = [
    ("", (5, 4, 1, 1), {}),
    ("", (5, 4, 3, 2), {}),
    ("strides = [2, 3]", (5, 4, 2, 2), {"strides": (2, 3)}),
    ("dilations = [2, 3]", (5, 4, 3, 2), {"dilations": (2, 3)}),
    ("pads = [1, 1, 1, 1]", (5, 4, 3, 3), {"pads": (1, 1, 1, 1)}),
    ("pads = [0, 1, 2, 0], strides = [2, 2]", (5, 4, 3, 3), {"pads": (0, 1, 2, 0), "strides": (2, 2)}),
    ("group = 2", (6, 2, 3, 3), {}),
    ("group = 4, pads = [1, 1, 1, 1]", (4, 1, 3, 3), {"pads": (1, 1, 1, 1)}),
    ("group = 4", (8, 1, 2, 3), {}),
]


@pytest.mark.parametrize(("attributes", "weights", "form"), CONVOLUTIONS)
def test_moments_are_those_of_the_patches(attributes: str, weights: tuple[int, ...], form: dict) -> None:
    model = network(f"y = Conv <{attributes}> (x, w)" if attributes else "y = Conv(x, w)", w=weights)
    groups = CHANNELS // weights[1]
    found = observed(model, crops())
    patches = unfolded(crops(), groups, weights[2:], **form)
    np.testing.assert_allclose(found.mean, patches.mean(1), rtol=0, atol=1e-5)
    for group in range(groups):
        expected = np.cov(patches[group].T, bias=True)
        np.testing.assert_allclose(found.covariance[group], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("attributes", "weights", "form"), CONVOLUTIONS)
def test_they_say_what_the_convolution_computes(
    attributes: str, weights: tuple[int, ...], form: dict
) -> None:
    """Values are in the order of the weights: mean and variance of each output follow from the moments."""
    model = network(f"y = Conv <{attributes}> (x, w)" if attributes else "y = Conv(x, w)", w=weights)
    found = observed(model, crops())
    groups = CHANNELS // weights[1]
    filters = (
        numpy_helper.to_array(model.graph.initializer[0])
        .astype(np.float64)
        .reshape(groups, -1, found.mean.shape[1])
    )
    outputs = np.concatenate([run_graph(model, batch)["y"] for batch in crops()]).astype(np.float64)
    means = np.einsum("god,gd->go", filters, found.mean).reshape(-1)
    variances = np.einsum("god,gde,goe->go", filters, found.covariance, filters).reshape(-1)
    np.testing.assert_allclose(means, outputs.mean((0, 2, 3)), rtol=0, atol=1e-4)
    np.testing.assert_allclose(variances, outputs.var((0, 2, 3)), rtol=1e-4)


def test_scaled_moments_are_those_of_scaled_channels() -> None:
    model = network("y = Conv <group = 2> (x, w)", w=(6, 2, 3, 3))
    factors = np.array([0.5, 2.0, 10.0, 1e-3])
    scaled = [(batch * factors[:, None, None]).astype(np.float32) for batch in crops()]
    found, expected = observed(model, crops()).scaled(factors), observed(model, scaled)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-3, atol=1e-4)


def test_of_many_places_a_sample_is_taken_that_says_much_the_same() -> None:
    model = network("y = Conv(x, w)", w=(2, 4, 3, 3))
    rng = np.random.default_rng(0)
    batch = rng.normal(3, 1, (8, CHANNELS, 60, 50)).astype(np.float32)
    observer = patch_observers(Topology(model), ["y"])["y"]
    observer.update(batch)
    found = observer.result()
    assert np.abs(found.mean - 3).max() < 0.3
    assert np.abs(found.covariance[0] - np.eye(36)).max() < 0.4


def test_memory_does_not_grow_with_the_batches() -> None:
    model = network("y = Conv(x, w)", w=(2, 4, 3, 3))

    def held(count: int) -> int:
        rng = np.random.default_rng(0)
        tracemalloc.start()
        observer = patch_observers(Topology(model), ["y"])["y"]
        for _ in range(count):
            observer.update(rng.normal(size=(2, CHANNELS, 40, 30)).astype(np.float32))
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert observer.result().mean.shape == (1, 36)
        return size

    held(50)  # caches
    assert abs(held(50) - held(2)) < 20_000  # a batch has 38,400 bytes, its patches 18,432


def test_layers_without_moments_of_their_own() -> None:
    body = 'a = Conv(x, w) b = Conv(a, s) c = Conv(b, s) d = Conv <auto_pad = "SAME_UPPER"> (c, v)'
    body += " e = ConvTranspose(d, t) y = Conv(e, u)"
    shapes = {"w": (8, 4, 1, 1), "s": (8, 8, 1, 1), "v": (8, 8, 3, 3), "t": (8, 8, 1, 1), "u": (2, 8, 3, 3)}
    found = patch_observers(Topology(network(body, **shapes)), ["a", "b", "c", "d", "e", "y", "absent"])
    assert list(found) == ["a", "y"]
    assert found["y"].tensor == "e"


@pytest.mark.parametrize(("size", "taken"), [(LARGEST_PATCH, True), (LARGEST_PATCH + 4, False)])
def test_too_large_a_patch_has_no_moments(size: int, taken: bool) -> None:
    model = network("y = Conv(x, w)", w=(1, 4, 1, size // 4))
    assert ("y" in patch_observers(Topology(model), ["y"])) == taken


def test_a_convolution_over_one_dimension() -> None:
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], strides=[2])
    observer = PatchObserver(node, (5, 3, 4))
    values = np.random.default_rng(0).normal(size=(2, 3, 11)).astype(np.float32)
    observer.update(values)
    patches = [crop[:, start : start + 4].reshape(-1) for crop in values for start in range(0, 8, 2)]
    np.testing.assert_allclose(observer.result().mean[0], np.mean(patches, 0), rtol=0, atol=1e-6)
