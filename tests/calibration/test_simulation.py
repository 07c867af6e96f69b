"""INT8 in torch gives what onnxruntime computes of the Q/DQ graph."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from posedge.calibration.calibrate import Calibration, calibrate
from posedge.calibration.recipe import Recipe
from posedge.calibration.simulation import Int8Simulation, rounded_to
from posedge.export.graphs import run_graph

# weights at their nearest levels and biases as they are: what the simulation rounds by itself
PLAIN = Recipe("mse", rounded=False, corrected=False, target="tensorrt")


def simulated(
    found: Calibration, batch: NDArray[np.float32], layers: set[str] | None = None
) -> list[NDArray]:
    simulation = Int8Simulation(found)
    with torch.no_grad():
        outputs = simulation.graph.run(torch.from_numpy(batch), simulation.reader(layers))
    return [output.numpy() for output in outputs]


def largest_difference(found: NDArray, expected: NDArray) -> float:
    """In units of the largest output."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def calibrated(residual_net: Path, residual_crops: list[NDArray[np.float32]]) -> Calibration:
    """Convolutions, shortcuts of residual Adds and a ConvTranspose, whose weights have one scale; weights are
    not at their nearest levels, and biases are corrected."""
    return calibrate(residual_net, residual_crops, replace(PLAIN, rounded=True, corrected=True))


def test_a_network_in_int8_is_what_onnxruntime_computes(
    calibrated: Calibration, residual_crops: list[NDArray[np.float32]]
) -> None:
    operators = {site.operator for site in calibrated.placement().inputs}
    assert operators == {"Conv", "ConvTranspose", "Add"}
    batch = residual_crops[0]
    (expected,) = run_graph(calibrated.quantized(), batch).values()
    (exact,) = run_graph(calibrated.model, batch).values()
    (found,) = simulated(calibrated, batch)
    assert largest_difference(found, expected) < 5e-3
    # INT8 itself makes a difference that is larger: it is not float that was compared
    assert largest_difference(exact, expected) > 2 * largest_difference(found, expected)


def test_one_layer_in_int8_is_the_graph_with_all_others_in_float(
    calibrated: Calibration, residual_crops: list[NDArray[np.float32]]
) -> None:
    batch = residual_crops[0]
    layers = {site.node for site in calibrated.placement().inputs}
    for layer in sorted(layers)[:4]:
        (expected,) = run_graph(calibrated.quantized(layers - {layer}), batch).values()
        (found,) = simulated(calibrated, batch, {layer})
        assert largest_difference(found, expected) < 1e-3
    (found,) = simulated(calibrated, batch, set())
    (exact,) = run_graph(calibrated.model, batch).values()
    assert largest_difference(found, exact) < 1e-5


def test_products_of_matrices_with_one_scale(tmp_path: Path) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[n, 4, 6, 6] x) => (float[n, 5] y)'
        "{ f = Flatten(x) h = Gemm(f, w, b) r = Relu(h) y = MatMul(r, v) }"
    )
    rng = np.random.default_rng(0)
    for name, shape in {"w": (144, 16), "b": (16,), "v": (16, 5)}.items():
        value = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    onnx.save(model, tmp_path / "net.onnx")
    crops = [rng.normal(size=(4, 4, 6, 6)).astype(np.float32) for _ in range(2)]
    found = calibrate(tmp_path / "net.onnx", crops, PLAIN)
    (actual,) = simulated(found, crops[0])
    assert largest_difference(actual, run_graph(found.quantized(), crops[0])["y"]) < 5e-3


def test_rounding_is_that_of_quantize_linear() -> None:
    values = torch.tensor([-200.0, -128.4, -0.5, 0.5, 1.5, 2.5, 126.6, 300.0])
    assert rounded_to(values, 1.0).tolist() == [-128, -128, 0, 0, 2, 2, 127, 127]
    assert rounded_to(values, 0.5).tolist() == [-64, -64, -0.5, 0.5, 1.5, 2.5, 63.5, 63.5]
