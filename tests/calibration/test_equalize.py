"""Equalisation: the same outputs, INT8 closer to them, and nothing scaled that must not be."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from posedge.calibration.calibrate import quantize
from posedge.calibration.channels import PINNED, ChannelClasses
from posedge.calibration.equalize import equalize
from posedge.calibration.factors import Factors, channel_factors
from posedge.calibration.observers import observe
from posedge.calibration.placement import plan
from posedge.calibration.recipe import Recipe
from posedge.calibration.statistics import TensorStatistics
from posedge.errors import CalibrationError
from posedge.export.graphs import load_graph, random_batch, run_graph, serialize
from posedge.runtime.spec import ModelSpec

# bodies between a first convolution (a: 3 to 8 channels, 16x12) and the last (b: 8 to 2 channels)
BODIES = {
    "relu": "b = Relu(a)",
    "leaky": "b = LeakyRelu<alpha = 0.1>(a)",
    "prelu": "b = PRelu(a, slopes)",
    "residual": "r = Relu(a) c = Conv(r, w8, v8) s = Add(r, c) b = Relu(s)",
    "depthwise": "r = Relu(a) b = Conv<group = 8, pads = [1, 1, 1, 1]>(r, wd, v8)",
    "grouped": "r = Relu(a) b = Conv<group = 2>(r, wg, v8)",
    "transposed": "r = Relu(a) t = ConvTranspose<strides = [2, 2]>(r, wt, v8) "
    "b = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(t)",
    "transposed groups": "r = Relu(a) b = ConvTranspose<group = 2>(r, wtg, v8)",
    "shuffle": "r = Relu(a) p, q = Split<axis = 1>(r) c = Concat<axis = 1>(q, p) "
    "d = Reshape(c, shape5) e = Transpose<perm = [0, 2, 1, 3, 4]>(d) b = Reshape(e, shape4)",
    "gate": "r = Relu(a) m = GlobalAveragePool(r) c = Conv(m, wc, v8) g = Sigmoid(c) b = Mul(r, g)",
    "bias": "x = Add(a, bias) y = Sub(x, one) b = Relu(y)",
    "resize": 'r = Relu(a) u = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">'
    "(r, , scales) b = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(u)",
    "one constant, two readers": "r = Relu(a) c = Conv(r, w8, v8) d = Relu(c) b = Conv(d, w8, v8)",
}


def network(body: str) -> onnx.ModelProto:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> '
        "net (float[n, 3, 16, 12] input) => (float[n, 2, 16, 12] maps) "
        f"{{ a = Conv(input, w3, v8) {body} maps = Conv(b, w2, v2) }}"
    )
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-2, 2, 8)  # of the first channels: four decades
    constants = {
        "w3": rng.normal(size=(8, 3, 1, 1)) * sizes[:, None, None, None],
        "w8": rng.normal(size=(8, 8, 1, 1)),
        "wc": rng.normal(size=(8, 8, 1, 1)) * 1e-3,
        "wd": rng.normal(size=(8, 1, 3, 3)),
        "wg": rng.normal(size=(8, 4, 1, 1)),
        "wt": rng.normal(size=(8, 8, 2, 2)),
        "wtg": rng.normal(size=(8, 4, 1, 1)),
        "w2": rng.normal(size=(2, 8, 1, 1)),
        "v8": rng.normal(size=8),
        "v2": rng.normal(size=2),
        "slopes": rng.uniform(0, 1, (8, 1, 1)),
        "bias": rng.normal(size=(1, 8, 1, 1)),
        "one": np.ones((1, 1, 1, 1)),
        "scales": np.array([1, 1, 2, 2]),
    }
    used = {name for node in model.graph.node for name in node.input}
    for name, value in constants.items():
        if name in used:
            model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    for name, shape in (("shape5", [0, 2, 4, 16, 12]), ("shape4", [0, 8, 16, 12])):
        if name in used:
            model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
    onnx.checker.check_model(model, full_check=True)
    return model


def batch(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(4, 3, 16, 12)).astype(np.float32)


def statistics_of(model: onnx.ModelProto) -> dict[str, TensorStatistics]:
    return observe(model, [batch(seed) for seed in range(4)], plan(model).activations).tensors


def factors_of(model: onnx.ModelProto) -> dict[str, Factors]:
    return channel_factors(model, plan(model), statistics_of(model))


def largest_difference(model: onnx.ModelProto, other: onnx.ModelProto) -> float:
    before, after = (run_graph(graph, batch(9))["maps"] for graph in (model, other))
    return float(np.abs(after - before).max() / np.abs(before).max())


@pytest.mark.parametrize("name", BODIES)
def test_outputs_stay(name: str) -> None:
    model = network(BODIES[name])
    factors = factors_of(model)
    result = equalize(model, factors)
    onnx.checker.check_model(result, full_check=True)
    assert largest_difference(model, result) < 5e-5
    assert serialize(result) == serialize(equalize(model, factors_of(model)))


@pytest.mark.parametrize("name", BODIES)
def test_int8_comes_closer(name: str, tmp_path: Path) -> None:
    model = network(BODIES[name])
    onnx.save(model, tmp_path / "float.onnx")
    errors = {}
    for equalized in (False, True):
        path = tmp_path / f"{equalized}.onnx"
        quantize(
            tmp_path / "float.onnx",
            [batch(seed) for seed in range(4)],
            path,
            Recipe("minmax", equalized, rounded=False),
        )
        before, after = (run_graph(graph, batch(9))["maps"] for graph in (model, onnx.load(path)))
        errors[equalized] = float(np.square(after - before).mean())
    assert errors[True] < 0.9 * errors[False]


@pytest.mark.parametrize(
    "body",
    [
        "low = Constant<value_float = 0.0>() high = Constant<value_float = 6.0>() b = Clip(a, low, high)",
        "b = Sigmoid(a)",
        "b = HardSwish(a)",
        "r = Relu(a) b = Mul(r, r)",
        "r = Relu(a) s = Sigmoid(r) t = Add(r, s) b = Relu(t)",
    ],
)
def test_what_does_not_commute_with_factors_is_left_alone(body: str) -> None:
    model = network(body)
    assert largest_difference(model, equalize(model, factors_of(model))) < 5e-5
    assert (ChannelClasses(model).of("a") == PINNED).all()


def test_the_graphs_ends_are_never_scaled() -> None:
    classes = ChannelClasses(network(BODIES["residual"]))
    assert (classes.of("input") == PINNED).all()
    assert (classes.of("maps") == PINNED).all()
    assert len(np.unique(classes.of("b"))) == 8
    assert np.array_equal(classes.of("b"), classes.of("r")), "an addition needs one factor for both sides"


def test_channels_that_were_silent_have_no_say(tmp_path: Path) -> None:
    """Half of the channels of r are dead, and alive in s, which has the same classes."""
    model = network("r = Relu(a) c = Conv(r, w8, v8) s = Add(a, c) b = Relu(s)")
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == "v8"]
    values = numpy_helper.to_array(bias).copy()
    values[:4] = -1e4
    bias.CopyFrom(numpy_helper.from_array(values, "v8"))
    seen = statistics_of(model)
    assert (seen["r"].channel_largest[:4] == 0).all()
    factors = channel_factors(model, plan(model), seen)
    sizes = seen["r"].channel_largest * factors["r"]
    others = seen["b"].channel_largest * factors["b"]
    assert all(np.isfinite(found).all() and found.max() < 1e6 for found in (sizes, others, factors["r"]))
    assert largest_difference(model, equalize(model, factors)) < 5e-5


def test_factors_of_another_graph_are_refused() -> None:
    factors = factors_of(network(BODIES["residual"]))
    changed = factors["r"].copy()
    changed[2] *= 2
    for wrong in ({**factors, "r": changed}, {**factors, "r": factors["r"] * 0}, {"input": np.full(3, 2.0)}):
        with pytest.raises(CalibrationError, match="do not fit the graph; calibrate again"):
            equalize(network(BODIES["residual"]), wrong)


def test_a_real_network_computes_the_same(tinypose: Path, tinypose_spec: ModelSpec) -> None:
    model = load_graph(tinypose)
    seen = observe(model, [random_batch(tinypose_spec, 4)], plan(model).activations).tensors
    result = equalize(model, channel_factors(model, plan(model), seen))
    other = random_batch(tinypose_spec, 2, seed=1)
    (before,), (after,) = (run_graph(graph, other).values() for graph in (model, result))
    np.testing.assert_allclose(after, before, rtol=0, atol=5e-5 * np.abs(before).max())
