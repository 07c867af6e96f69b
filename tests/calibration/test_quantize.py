import importlib.metadata
import importlib.util
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser

from posedge.calibration.calibrate import calibrate, plan_quantization, quantize, write_quantized
from posedge.calibration.placement import Placement
from posedge.calibration.qdq import insert_qdq, quantize_weights
from posedge.calibration.recipe import Recipe
from posedge.calibration.table import CalibrationTable, TensorRange, load_table
from posedge.errors import CalibrationError
from posedge.export.graphs import load_graph, run_graph, spec_of

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"
)


def two_layers(path: Path, opset: int = 17, dead: bool = False) -> Path:
    """y = conv2(relu(conv1(x))) on 2 x 5 x 4 pixels; ``dead``: the first bias lets nothing through."""
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> two (float[n, 3, 5, 4] x) => (float[n, 2, 5, 4] y)'
        "{ a = Conv(x, w1, b1) r = Relu(a) y = Conv(r, w2) }"
    )
    rng = np.random.default_rng(0)
    constants = {
        "w1": rng.normal(size=(6, 3, 1, 1)),
        "b1": np.full(6, -1e3) if dead else rng.normal(size=6),
        "w2": rng.normal(size=(2, 6, 1, 1)) * [[[[1.0]]], [[[1e-3]]]],
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()
    )
    onnx.save(model, path)
    return path


def pixels(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(4, 3, 5, 4)).astype(np.float32)


def fake_quantized(values: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    return (np.clip(np.rint(values / scale), -128, 127) * scale).astype(np.float32)


@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(1, 6),
    magnitude=st.sampled_from([1e-30, 1e-3, 1.0, 1e6, 1e30]),
    axis=st.sampled_from([0, 1, None]),
)
@settings(max_examples=80, deadline=None)
def test_a_weight_is_off_by_at_most_half_a_step_of_its_channel(seed, channels, magnitude, axis) -> None:
    rng = np.random.default_rng(seed)
    weights = (rng.normal(size=(channels, 3, 2, 2)) * magnitude).astype(np.float32)
    weights[0] *= np.float32(1e-4)
    array = quantize_weights(weights, axis)
    assert array.values.dtype == np.int8
    assert array.scale.dtype == np.float32
    assert array.scale.shape == (() if axis is None else (weights.shape[axis],))
    assert np.abs(array.values.astype(int)).max() <= 127
    scale = array.scale if axis is None else np.expand_dims(array.scale, [i for i in range(4) if i != axis])
    error = np.abs(array.values * scale.astype(np.float64) - weights)
    assert (error <= scale.astype(np.float64) * (0.5 + 1e-5)).all()


def test_a_channel_of_zeros_has_a_positive_scale() -> None:
    weights = np.zeros((2, 3), np.float32)
    weights[1] = 1e-44
    array = quantize_weights(weights, 0)
    assert (array.scale >= np.finfo(np.float32).tiny).all()
    assert not array.values[0].any()


def test_the_graph_computes_what_numpy_fakes(tmp_path: Path) -> None:
    graph = two_layers(tmp_path / "two.onnx")
    table = quantize(
        graph, [pixels(1), pixels(2)], tmp_path / "int8.onnx", Recipe("minmax", False, False, False)
    )
    quantized = load_graph(tmp_path / "int8.onnx")
    x = pixels(3) * np.float32(1.2)  # some of it lies outside the calibrated range and saturates
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in load_graph(graph).graph.initializer}

    def convolve(values: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        scale = (np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / 127).astype(np.float32)
        return np.einsum("nchw,oc->nohw", values, fake_quantized(weights, scale)[:, :, 0, 0])

    def activation(values: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        return fake_quantized(values, np.float32(table.tensors[name].amax / 127))

    hidden = convolve(activation(x, "x"), constants["w1"]) + constants["b1"][:, None, None]
    expected = convolve(activation(np.maximum(hidden, 0), "r"), constants["w2"])
    np.testing.assert_allclose(run_graph(quantized, x)["y"], expected, rtol=0, atol=1e-5)


def test_scales_zero_points_and_weights_have_the_form_that_tensorrt_takes(tmp_path: Path) -> None:
    quantize(
        two_layers(tmp_path / "two.onnx"),
        [pixels()],
        tmp_path / "int8.onnx",
        Recipe("mse", False, False, False),
    )
    model = load_graph(tmp_path / "int8.onnx")
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert "w1" not in constants, "the float weights are gone"
    assert constants["b1"].dtype == np.float32, "a bias stays float"
    operators = [node.op_type for node in model.graph.node]
    pair = ["QuantizeLinear", "DequantizeLinear"]
    assert operators == [*pair, "DequantizeLinear", "Conv", "Relu", *pair, "DequantizeLinear", "Conv"]
    for node in model.graph.node:
        if node.op_type not in pair:
            continue
        values, scale, zero_point = (constants.get(name) for name in node.input)
        assert scale.dtype == np.float32
        assert (scale > 0).all()
        assert zero_point.dtype == np.int8
        assert zero_point.shape == scale.shape
        assert not zero_point.any()
        if values is None:
            assert scale.shape == ()
        else:
            assert values.dtype == np.int8
            assert scale.shape == values.shape[:1]
            assert [attribute.i for attribute in node.attribute if attribute.name == "axis"] == [0]


def test_equal_inputs_give_equal_bytes(residual_net: Path, residual_crops, tmp_path: Path) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    for path in (first, second):
        quantize(residual_net, residual_crops, path)
    assert first.read_bytes() == second.read_bytes()


def test_a_saved_table_gives_the_graph_with_nearest_weights(
    residual_net: Path, residual_crops, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    table = quantize(residual_net, residual_crops, first, Recipe(rounded=False))
    table.save(tmp_path / "table.json")
    write_quantized(residual_net, load_table(tmp_path / "table.json"), second)
    assert first.read_bytes() == second.read_bytes()
    assert spec_of(load_graph(first)) == spec_of(load_graph(residual_net)), "the spec travels along"


def test_int8_follows_float_on_a_residual_network(residual_net: Path, residual_crops, tmp_path: Path) -> None:
    table = quantize(residual_net, residual_crops, tmp_path / "int8.onnx", images_sha256="ab")
    assert (table.crops, table.images_sha256, table.method) == (16, "ab", "mse")
    outputs = [
        run_graph(load_graph(path), residual_crops[0], optimise=optimise)["heatmaps"]
        for path, optimise in (
            (residual_net, False),
            (tmp_path / "int8.onnx", False),
            (tmp_path / "int8.onnx", True),  # onnxruntime's own int8 kernels
        )
    ]
    for quantized in outputs[1:]:
        error = np.sqrt(np.mean((quantized - outputs[0]) ** 2) / np.mean(outputs[0] ** 2))
        assert 0 < error < 0.05


def test_a_dead_tensor_leaves_its_readers_in_float(tmp_path: Path) -> None:
    graph = two_layers(tmp_path / "two.onnx", dead=True)
    table = quantize(graph, [pixels()], tmp_path / "int8.onnx", Recipe("minmax", False, False, False))
    assert dict(table.excluded) == {"r": "it was zero on every crop"}
    assert list(table.tensors) == ["x"]
    placement = write_quantized(graph, table, tmp_path / "int8.onnx")
    assert [layer.node for layer in placement.float_layers] == ["y"]
    constants = {tensor.name for tensor in load_graph(tmp_path / "int8.onnx").graph.initializer}
    assert "w2" in constants
    assert "w1" not in constants


def test_layers_that_share_weights_share_their_int8_form() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[n, 2, 4, 4] x) => (float[n, 2, 4, 4] y)'
        "{ a = Conv(x, w) r = Relu(a) y = Conv(r, w) }"
    )
    weights = np.random.default_rng(0).normal(size=(2, 2, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    placement = plan_quantization(model, Path("net.onnx"))
    one = TensorRange(-1, 1, 1)
    result = insert_qdq(
        model, CalibrationTable("", None, "minmax", 1, {"x": one, "r": one}, {}, {}), placement
    )
    assert len([node for node in result.graph.node if node.op_type == "DequantizeLinear"]) == 3
    kernels = [tensor for tensor in result.graph.initializer if len(tensor.dims) == 4]
    assert [tensor.data_type for tensor in kernels] == [TensorProto.INT8]


def test_weights_that_are_constant_nodes_are_stored_as_int8() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[n, 2, 4, 4] x) => (float[n, 2, 4, 4] y)'
        "{ w = Constant <value = float[2, 2, 1, 1] {1, 2, 3, 4}> () y = Conv(x, w) }"
    )
    placement = plan_quantization(model, Path("net.onnx"))
    table = CalibrationTable("", None, "minmax", 1, {"x": TensorRange(-1, 1, 1)}, {}, {})
    result = insert_qdq(model, table, placement)
    assert "Constant" not in [node.op_type for node in result.graph.node]


@pytest.mark.parametrize("graph", ["quantised", "old"])
def test_graphs_that_cannot_be_quantised_are_refused(tmp_path: Path, graph: str) -> None:
    path = two_layers(tmp_path / "two.onnx", opset=17 if graph == "quantised" else 12)
    if graph == "quantised":
        quantize(path, [pixels()], path)
    message = "quantised already" if graph == "quantised" else "its opset is 12"
    with pytest.raises(CalibrationError, match=rf"two\.onnx: .*{message}"):
        calibrate(path, [pixels()])


def test_a_graph_without_layers_to_quantise_is_refused(tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 5, 4]) for name in "xy"]
    net = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", value[:1], value[1:])
    path = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(net, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(CalibrationError, match="no layer of it can be quantised"):
        calibrate(path, [pixels()])


def test_an_unknown_method_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    known = "minmax, percentile, mse, entropy, greedy"
    with pytest.raises(CalibrationError, match=f"'entropie'; there are {known}"):
        calibrate(two_layers(tmp_path / "two.onnx"), [pixels()], Recipe("entropie"))


def test_a_table_that_lacks_a_tensor_or_is_anothers_is_refused(tmp_path: Path) -> None:
    graph = two_layers(tmp_path / "two.onnx")
    table = calibrate(graph, [pixels()]).table
    lacking = CalibrationTable(table.graph_sha256, None, "minmax", 4, {"x": table.tensors["x"]}, {}, {})
    with pytest.raises(CalibrationError, match="no range for 'r'"):
        write_quantized(graph, lacking, tmp_path / "int8.onnx")
    two_layers(graph, opset=16)
    with pytest.raises(CalibrationError, match="another graph"):
        write_quantized(graph, table, tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


def test_nan_weights_are_named(tmp_path: Path) -> None:
    graph = two_layers(tmp_path / "two.onnx")
    model = onnx.load(graph)
    broken = numpy_helper.to_array(model.graph.initializer[2]).copy()
    broken[0] = np.nan
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(broken, "w2"))
    placement: Placement = plan_quantization(model, graph)
    table = calibrate(graph, [pixels()]).table
    with pytest.raises(CalibrationError, match="weights 'w2' hold NaN"):
        insert_qdq(model, table, placement)


@needs_rtx
def test_the_int8_graph_is_clean_and_its_convolutions_run_in_int8(
    residual_net: Path, residual_crops, tmp_path: Path
) -> None:
    """The engine's plain-text IR lists every activation buffer with its type (undocumented, so pinned)."""
    from posedge.engines.build import build_engine
    from posedge.engines.lint import lint_file

    graph, engine = tmp_path / "int8.onnx", tmp_path / "int8.engine"
    quantize(residual_net, residual_crops, graph)
    assert lint_file(graph) == []
    build_engine(graph, engine, flavour="tensorrt_rtx", time_limit_s=120)
    version = importlib.metadata.version("tensorrt_rtx_cu13")
    if not version.startswith("1.7.1"):
        pytest.skip(f"the IR was read for TensorRT-RTX 1.7.1, this is {version}")
    buffers = int8_buffers(engine.read_bytes())
    # nine convolutions read eight tensors: a block's first one and its shortcut's read the same
    assert len(buffers) == 8


def int8_buffers(engine: bytes) -> set[bytes]:
    """Names of the int8 tensors of rank 4 whose first axis is the dynamic batch: no weights, no scratch."""
    tensors = re.findall(
        rb'tensor=\{[^\n]*?dims=\{ "[^"]*" \d+ \d+ \d+ \}[^\n]*?name="([^"]*)"[^\n]*?type=(\w+) \}', engine
    )
    return {name for name, kind in tensors if kind == b"int8"}
