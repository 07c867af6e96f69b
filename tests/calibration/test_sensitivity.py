"""The sensitivity of a layer: what is made bad is the worst, what nothing reads is harmless."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from posedge.calibration.calibrate import Calibration, calibrate
from posedge.calibration.macs import layer_macs
from posedge.calibration.recipe import Recipe
from posedge.calibration.sensitivity import LayerSensitivity, measure_sensitivity
from posedge.calibration.table import TensorRange
from posedge.errors import CalibrationError
from posedge.export.graphs import load_graph, run_graph
from posedge.runtime.spec import ModelSpec

PLAIN = Recipe("mse", equalized=False, rounded=False, corrected=False)
SPEC = ModelSpec("net", input_wh=(16, 24), heatmap_wh=(8, 12), num_joints=3, flip_pairs=())
CLASSIFIER = ModelSpec("net", "classification", (16, 24), num_classes=3, resize_short=32, output_name="y")

BODY = (
    "a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (input, w) r = Relu(a) "
    "b = Conv <pads = [1, 1, 1, 1]> (r, v) t = Relu(b) {more} heatmaps = Conv({last}, u)"
)
WEIGHTS = {"w": (8, 3, 3, 3), "v": (8, 8, 3, 3), "u": (3, 8, 1, 1)}


def network(path: Path, body: str, weights: dict[str, tuple[int, ...]], output: str) -> Path:
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> net (float[n, 3, 24, 16] input) => ({output}) {{ {body} }}'
    )
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        value = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    onnx.save(model, path)
    return path


def pose(path: Path, more: str = "", last: str = "t", **weights: tuple[int, ...]) -> Path:
    body = BODY.format(more=more, last=last)
    return network(path, body, {**WEIGHTS, **weights}, "float[n, 3, 12, 8] heatmaps")


def crops(count: int = 6) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=(2, 3, 24, 16)).astype(np.float32) for _ in range(count // 2)]


def measured(calibration: Calibration, spec: ModelSpec = SPEC, count: int = 6) -> dict[str, LayerSensitivity]:
    return {layer.node: layer for layer in measure_sensitivity(calibration, crops(), spec, crops=count)}


def test_layers_come_in_order_with_what_they_cost(tmp_path: Path) -> None:
    graph = pose(tmp_path / "net.onnx")
    found = measured(calibrate(graph, crops(), PLAIN))
    assert list(found) == ["a", "b", "heatmaps"]
    assert {name: layer.macs for name, layer in found.items()} == layer_macs(load_graph(graph))
    assert [layer.tensor for layer in found.values()] == ["input", "r", "t"]
    for layer in found.values():
        assert layer.operator == "Conv"
        assert 0 < layer.error < 0.01
        assert 0 <= layer.shift_p50 <= layer.shift_p95
        assert layer.outlier_ratio >= 1


@pytest.mark.parametrize(("tensor", "layer"), [("input", "a"), ("r", "b"), ("t", "heatmaps")])
@pytest.mark.parametrize("times", [0.02, 200.0])
def test_a_layer_with_an_absurd_range_is_the_worst(
    tmp_path: Path, tensor: str, layer: str, times: float
) -> None:
    """Too small a range saturates, too large a one rounds everything to nothing."""
    graph = pose(tmp_path / "net.onnx")
    found = calibrate(graph, crops(), PLAIN)
    table, before = found.table, measured(found)
    seen = table.tensors[tensor]
    spoilt = TensorRange(seen.minimum, seen.maximum, seen.amax * times)
    worse = replace(table, tensors={**table.tensors, tensor: spoilt})
    after = measured(replace(found, table=worse))
    assert max(after.values(), key=lambda entry: entry.error).node == layer
    assert after[layer].error > 100 * before[layer].error
    assert after[layer].shift_p95 > before[layer].shift_p95
    assert {name: after[name] for name in after if name != layer} == {
        name: before[name] for name in before if name != layer
    }


def test_the_error_is_that_of_the_graph_with_this_layer_alone_in_int8(tmp_path: Path) -> None:
    graph = pose(tmp_path / "net.onnx")
    calibration = calibrate(graph, crops(), PLAIN)
    pixels = np.concatenate(crops())
    exact = run_graph(load_graph(graph), pixels)["heatmaps"]
    for name, layer in measured(calibration).items():
        others = [other for other in ("a", "b", "heatmaps") if other != name]
        changed = run_graph(calibration.quantized(others), pixels)["heatmaps"]
        errors = np.square(changed - exact).sum((1, 2, 3)) / np.square(exact).sum((1, 2, 3))
        assert layer.error == pytest.approx(np.median(errors), rel=0.02)
        assert layer.error_p90 == pytest.approx(np.percentile(errors, 90), rel=0.02)


def test_one_crop_that_goes_wrong_shows_in_the_spread_and_not_in_the_error(tmp_path: Path) -> None:
    """A crop whose channels saturate: its error is a thousand times that of the others."""
    graph = pose(tmp_path / "net.onnx")
    found, seen = calibrate(graph, crops(10), PLAIN), crops(10)
    before = {layer.node: layer for layer in measure_sensitivity(found, seen, SPEC, crops=10)}["a"]
    seen[0][0] *= 50
    after = {layer.node: layer for layer in measure_sensitivity(found, seen, SPEC, crops=10)}["a"]
    assert before.error <= before.error_p90 < 2 * before.error
    assert after.error == pytest.approx(before.error, rel=0.5)
    assert after.error_p90 > 5 * before.error_p90


def test_a_layer_whose_result_is_not_used_has_no_error(tmp_path: Path) -> None:
    more = "d = Conv(t, dead) z = Mul(d, zeros) s = Add(t, z)"
    graph = pose(tmp_path / "net.onnx", more, "s", dead=(8, 8, 1, 1), zeros=(8, 1, 1))
    model = load_graph(graph)
    for tensor in model.graph.initializer:
        if tensor.name == "zeros":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((8, 1, 1), np.float32), "zeros"))
    onnx.save(model, graph)
    found = measured(calibrate(graph, crops(), PLAIN))
    assert (found["d"].error, found["d"].shift_p50, found["d"].shift_p95) == (0, 0, 0)
    assert found["b"].error > 0


def test_an_outlier_channel_is_seen_and_equalisation_takes_it_away(tmp_path: Path) -> None:
    graph = pose(tmp_path / "net.onnx")
    model = load_graph(graph)
    for tensor in model.graph.initializer:
        if tensor.name in ("w", "v"):
            value = numpy_helper.to_array(tensor).copy()
            channel = (3,) if tensor.name == "w" else (slice(None), 3)
            value[channel] *= 100 if tensor.name == "w" else 0.01
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(model, graph)
    plain = measured(calibrate(graph, crops(), PLAIN))["b"]
    equalised = measured(calibrate(graph, crops(), replace(PLAIN, equalized=True)))["b"]
    assert plain.outlier_ratio > 50
    assert equalised.outlier_ratio < 5
    assert equalised.error < 0.1 * plain.error


def test_the_shortcut_of_an_add_is_a_layer_without_work(small_pose: Path, small_spec: ModelSpec) -> None:
    batches = [np.random.default_rng(0).normal(size=(4, 3, 64, 48)).astype(np.float32)]
    calibration = calibrate(small_pose, batches, PLAIN)
    found = {layer.node: layer for layer in measure_sensitivity(calibration, batches, small_spec)}
    assert (found["sum"].operator, found["sum"].macs) == ("Add", 0)
    assert found["sum"].error > 0


def test_a_classifier_has_no_joints_to_move(tmp_path: Path) -> None:
    body = "a = Conv(input, w) r = Relu(a) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm(f, g)"
    graph = network(tmp_path / "net.onnx", body, {"w": (8, 3, 3, 3), "g": (8, 3)}, "float[n, 3] y")
    found = measured(calibrate(graph, crops(), PLAIN), CLASSIFIER)
    assert [(layer.node, layer.operator) for layer in found.values()] == [("a", "Conv"), ("y", "Gemm")]
    for layer in found.values():
        assert layer.error > 0
        assert math.isnan(layer.shift_p50)
        assert math.isnan(layer.shift_p95)


def test_two_outputs_count_together(tmp_path: Path) -> None:
    """SimCC: the change of both distributions over the energy of both."""
    body = "a = Conv(input, w) r = Relu(a) f = Reshape(r, shape) x = MatMul(f, gx) y = MatMul(f, gy)"
    weights = {"w": (3, 3, 3, 3), "gx": (22 * 14, 32), "gy": (22 * 14, 48)}
    graph = network(tmp_path / "net.onnx", body, weights, "float[n, 3, 32] x, float[n, 3, 48] y")
    model = onnx.load(graph)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 3, 22 * 14]), "shape"))
    onnx.save(model, graph)
    spec = replace(SPEC, codec="simcc", output_name="x", output_name_y="y")
    calibration = calibrate(graph, crops(), PLAIN)
    found = measured(calibration, spec)
    assert list(found) == ["a", "x", "y"]
    pixels = np.concatenate(crops())
    exact = run_graph(load_graph(graph), pixels)
    energy = sum(np.square(values).sum((1, 2)) for values in exact.values())
    for name, layer in found.items():
        changed = run_graph(calibration.quantized(set(found) - {name}), pixels)
        errors = sum(np.square(changed[output] - exact[output]).sum((1, 2)) for output in exact) / energy
        assert layer.error == pytest.approx(np.median(errors), rel=0.02)
        assert layer.shift_p95 >= 0


def test_no_more_crops_are_read_than_are_used(tmp_path: Path) -> None:
    graph = pose(tmp_path / "net.onnx")
    found = calibrate(graph, crops(), PLAIN)
    first = {layer.node: layer for layer in measure_sensitivity(found, crops()[:1], SPEC)}
    assert measured(found, count=2) == first != measured(found, count=6)


def test_what_cannot_be_measured_is_named(tmp_path: Path) -> None:
    graph = pose(tmp_path / "net.onnx")
    found = calibrate(graph, crops(), PLAIN)
    with pytest.raises(CalibrationError, match="no crops to measure the sensitivity with"):
        measure_sensitivity(found, [], SPEC)
    other = pose(tmp_path / "other.onnx", "e = Erf(t)", "e")
    with pytest.raises(CalibrationError, match="does not know the operator Erf"):
        measure_sensitivity(calibrate(other, crops(), PLAIN), crops(), SPEC)
