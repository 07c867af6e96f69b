"""Bias correction keeps the mean of every output channel, and everything else as it is."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from posedge.calibration.bias import bias_corrections, correct_biases
from posedge.calibration.calibrate import calibrate, quantize
from posedge.calibration.observers import observe
from posedge.calibration.placement import plan
from posedge.calibration.qdq import quantize_weights
from posedge.calibration.recipe import Recipe
from posedge.errors import CalibrationError
from posedge.export.graphs import load_graph, run_graph


def network(body: str, **constants: tuple[int, ...]) -> onnx.ModelProto:
    """A model on 8 x 9 x 7 pixels; weights of one sign, for which rounding adds up."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[n, 8, 9, 7] x) => (float[n, c, h, w] y)'
        f"{{ {body} }}"
    )
    rng = np.random.default_rng(0)
    for name, shape in constants.items():
        value = rng.gamma(0.3, size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def crops() -> list[NDArray[np.float32]]:
    """Pixels whose channels have means of their own."""
    rng = np.random.default_rng(1)
    means = np.arange(8, dtype=np.float32)[:, None, None]
    return [rng.normal(means, 0.5, size=(3, 8, 9, 7)).astype(np.float32) for _ in range(2)]


def corrections(model: onnx.ModelProto) -> dict[str, NDArray[np.float64]]:
    placement = plan(model)
    return bias_corrections(model, placement, observe(model, crops(), placement.activations).tensors)


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with INT8 weights and float32 activations."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    for site in plan(model).weights:
        array = quantize_weights(numpy_helper.to_array(tensors[site.tensor]), site.axis)
        values = array.values * array.scale.reshape(-1, 1, 1, 1)
        tensors[site.tensor].CopyFrom(numpy_helper.from_array(values, site.tensor))
    return result


def means(model: onnx.ModelProto) -> NDArray[np.float64]:
    return np.mean([run_graph(model, crop)["y"] for crop in crops()], axis=(0, 1, 3, 4), dtype=np.float64)


CONVOLUTIONS = [
    ("y = Conv(x, w)", {"w": (16, 8, 3, 3)}),
    ("y = Conv(x, w, b)", {"w": (16, 8, 1, 1), "b": (16,)}),
    ("y = Conv <group = 4> (x, w, b)", {"w": (12, 2, 1, 1), "b": (12,)}),
    ("y = Conv <group = 8> (x, w)", {"w": (8, 1, 3, 3)}),
]


@pytest.mark.parametrize(("body", "constants"), CONVOLUTIONS)
def test_the_mean_of_every_output_channel_is_that_of_float32(body: str, constants) -> None:
    model = network(body, **constants)
    wanted, off = means(model), means(rounded(model))
    mended = means(correct_biases(rounded(model), corrections(model)))
    before, after = np.abs(off - wanted).max(), np.abs(mended - wanted).max()
    # without padding the 3 x 3 windows see the inner pixels more often than the border: hence a tenth
    assert after < before / 10
    if constants["w"][2] == 1:
        assert after < 1e-5 * np.abs(wanted).max()


def test_nothing_but_biases_is_changed() -> None:
    model = network("a = Conv(x, w, b) r = Relu(a) y = Conv(r, v)", w=(8, 8, 1, 1), b=(8,), v=(4, 8, 1, 1))
    before = model.SerializeToString(deterministic=True)
    result = correct_biases(model, corrections(model))
    assert model.SerializeToString(deterministic=True) == before
    old = {tensor.name: tensor for tensor in model.graph.initializer}
    new = {tensor.name: tensor for tensor in result.graph.initializer}
    assert (old["w"], old["v"]) == (new["w"], new["v"])
    assert set(new) == {"w", "v", "a/bias", "y/bias"}
    assert [node.op_type for node in result.graph.node] == ["Conv", "Relu", "Conv"]


def test_a_bias_that_two_layers_share_becomes_two() -> None:
    model = network("a = Conv(x, w, b) r = Relu(a) y = Conv(r, v, b)", w=(8, 8, 1, 1), v=(8, 8, 1, 1), b=(8,))
    found = corrections(model)
    result = correct_biases(model, {"a": found["a"]})
    assert list(result.graph.node[2].input) == ["r", "v", "b"]
    assert list(result.graph.node[0].input) == ["x", "w", "a/bias"]


def test_a_correction_of_another_graph_is_refused() -> None:
    model = network("y = Conv(x, w)", w=(4, 8, 1, 1))
    with pytest.raises(CalibrationError, match="bias correction of 'y' does not fit the graph"):
        correct_biases(model, {"y": np.zeros(5)})


def test_the_table_holds_what_is_corrected_and_without_it_biases_stay(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(
        network("a = Conv(x, w, b) r = Relu(a) y = Conv(r, v)", w=(8, 8, 1, 1), b=(8,), v=(4, 8, 1, 1)), path
    )
    plain = quantize(path, crops(), tmp_path / "plain.onnx", Recipe(rounded=False, corrected=False))
    corrected = quantize(path, crops(), tmp_path / "corrected.onnx", Recipe(rounded=False))
    assert not plain.bias_corrections
    assert {name: len(values) for name, values in corrected.bias_corrections.items()} == {"a": 8, "y": 4}
    assert corrected.tensors == plain.tensors
    graphs = [load_graph(tmp_path / f"{name}.onnx").graph for name in ("plain", "corrected")]
    weights = [[t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8] for graph in graphs]
    assert weights[0] == weights[1]
    expected = means(load_graph(path))
    plain_error, error = (
        np.abs(means(load_graph(tmp_path / f"{name}.onnx")) - expected).max()
        for name in ("plain", "corrected")
    )
    assert error < plain_error


def test_layers_that_stay_float_keep_their_bias(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model = network("a = Conv(x, w) r = Relu(a) y = Conv(r, v)", w=(8, 8, 1, 1), v=(4, 8, 1, 1))
    (weights,) = (tensor for tensor in model.graph.initializer if tensor.name == "w")
    weights.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weights) - 1, "w"))
    onnx.save(model, path)
    positive = [np.abs(crop) for crop in crops()]
    table = calibrate(path, positive).table
    assert set(table.excluded) == {"r"}
    assert set(table.bias_corrections) == {"a"}
