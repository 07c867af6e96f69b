import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper, parser

from posedge.calibration.calibrate import quantize
from posedge.calibration.half import to_float16, write_float16
from posedge.calibration.recipe import Recipe
from posedge.errors import CalibrationError
from posedge.export.graphs import load_graph, run_graph, spec_of

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"
)


def model(
    body: str, output: str = "float[n, 3, h, w] y", **constants: NDArray[np.generic]
) -> onnx.ModelProto:
    """A model from ONNX's text form, with initializers."""
    parsed = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> net (float[n, 3, 8, 8] x) => ({output}) {{ {body} }}'
    )
    parsed.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    return parsed


def types(graph: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor."""
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def run(graph: onnx.ModelProto, seed: int = 0) -> NDArray[np.float32]:
    x = np.random.default_rng(seed).normal(size=(2, 3, 8, 8)).astype(np.float32)
    (y,) = run_graph(graph, x).values()
    return y


W = np.random.default_rng(1).normal(size=(3, 3, 1, 1)).astype(np.float32)
SCALES = np.array([1, 1, 2, 2], np.float32)

# body, constants, tensors that must stay float32 besides input and output
CONVERTED = [
    ("a = Conv(x, w) b = Relu(a) y = Add(b, x)", {"w": W}, set()),
    ("a = Add(x, x) y = Resize <mode = 'nearest'> (a, , s)", {"s": SCALES}, {"s"}),
    ("a = Cast <to = 1> (x) b = Conv(a, w) y = Add(b, a)", {"w": W}, set()),
    ("a = Shape(x) b = ConstantOfShape <value = float[1] {2.5}> (a) y = Add(b, x)", {}, set()),
    ("c = Constant <value_float = 0.5> () y = Mul(x, c)", {}, set()),
    ("c = Constant <value = float {0.5}> () y = Mul(x, c)", {}, set()),
    ("y = Clip(x, lo, hi)", {"lo": np.float32(0), "hi": np.float32(6)}, set()),
    ("r = Relu(x) y = Reshape(r, t)", {"t": np.array([0, 3, 8, 8])}, set()),
    ("y = Where(m, x, z)", {"m": np.eye(8, dtype=bool), "z": np.float32(-np.inf)}, set()),
]


@pytest.mark.parametrize(("body", "constants", "float32"), CONVERTED)
def test_every_float_tensor_is_float16_and_the_result_is_close(body, constants, float32) -> None:
    body = body.replace("'", '"')
    before = model(body, **constants)
    after = to_float16(before)
    found = types(after)
    assert found["x"] == found["y"] == TensorProto.FLOAT, "the border stays float32"
    assert {name for name, kind in found.items() if kind == TensorProto.FLOAT} == {"x", "y"} | float32
    expected, actual = run(before), run(after)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=5e-3, atol=5e-3)


def test_a_constant_that_both_kinds_read_is_converted_and_cast_back() -> None:
    before = model(
        'm = Mul(x, f) t = Resize <mode = "nearest"> (m, , s) y = Mul(t, g)',
        s=SCALES,
        f=np.float32(2),
        g=np.ones((1, 1, 16, 16), np.float32),
    )
    before.graph.node.append(onnx.helper.make_node("Neg", ["s"], ["negated"]))
    after = to_float16(before)
    found = types(after)
    assert found["s"] == TensorProto.FLOAT16
    assert found["negated"] == TensorProto.FLOAT16
    np.testing.assert_allclose(run(after), run(before), atol=1e-2)


def test_integers_and_shape_arithmetic_are_untouched() -> None:
    after = to_float16(model("k = Shape(x) r = Relu(x) y = Reshape(r, k)"))
    assert types(after)["k"] == TensorProto.INT64


def test_the_outputs_other_readers_read_float16() -> None:
    after = to_float16(model("y = Conv(x, w) z = Relu(y)", "float[n, 3, 8, 8] y, float[n, 3, 8, 8] z", w=W))
    relu = next(node for node in after.graph.node if node.op_type == "Relu")
    assert types(after)[relu.input[0]] == TensorProto.FLOAT16
    assert [value.name for value in after.graph.output] == ["y", "z"]


def test_the_last_layer_and_what_only_shapes_its_result_stay_float32() -> None:
    body = 'a = Conv(x, v) b = Relu(a) c = Conv(b, w) y = Resize <mode = "nearest"> (c, , s)'
    after = to_float16(model(body, v=W, w=W + 1e-5, s=SCALES))
    found = types(after)
    assert {found[name] for name in ("v", "a", "b")} == {TensorProto.FLOAT16}
    assert {found[name] for name in ("w", "c", "s", "y")} == {TensorProto.FLOAT}
    assert [node.op_type for node in after.graph.node] == ["Cast", "Conv", "Relu", "Cast", "Conv", "Resize"]


def test_the_original_is_not_changed_and_the_bytes_repeat() -> None:
    before = model("y = Conv(x, w)", w=W)
    copy = before.SerializeToString(deterministic=True)
    one, other = to_float16(before), to_float16(before)
    assert before.SerializeToString(deterministic=True) == copy
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def test_tiny_weights_become_subnormal_or_zero() -> None:
    weights = np.full((3, 3, 1, 1), 3e-7, np.float32)
    weights[0] = 1e-12
    (tensor,) = to_float16(model("c = Conv(x, w) y = Add(c, x)", w=weights)).graph.initializer
    values = numpy_helper.to_array(tensor)
    assert values.dtype == np.float16
    assert (values[0] == 0).all()
    assert (values[1:] == np.float16(3e-7)).all()


@pytest.mark.parametrize(
    "body", ["a = Conv(x, big) y = Add(a, x)", "c = Identity(big) a = Conv(x, c) y = Add(a, x)"]
)
def test_weights_too_large_for_float16_are_named(body: str) -> None:
    weights = W.copy()
    weights[1, 1] = -7e4
    with pytest.raises(CalibrationError, match=r"'big' holds 70000; float16 ends at 65504"):
        to_float16(model(body, big=weights))


def test_a_constant_node_too_large_for_float16_is_named() -> None:
    with pytest.raises(CalibrationError, match=r"'c' holds 1e\+06"):
        to_float16(model("c = Constant <value_float = 1000000.0> () y = Mul(x, c)"))


def test_a_quantised_graph_is_refused(residual_net: Path, residual_crops, tmp_path: Path) -> None:
    quantize(residual_net, residual_crops[:1], tmp_path / "int8.onnx", Recipe("minmax", False, False))
    with pytest.raises(CalibrationError, match=r"DequantizeLinear|QuantizeLinear.*float32 graph"):
        write_float16(tmp_path / "int8.onnx", tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()


def test_a_graph_with_control_flow_is_refused() -> None:
    graph = model("y = Relu(x)")
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["t"])],
        "inner",
        [],
        [onnx.helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )
    condition = numpy_helper.from_array(np.array(True), "condition")
    graph.graph.initializer.append(condition)
    graph.graph.node.append(
        onnx.helper.make_node("If", ["condition"], ["z"], then_branch=inner, else_branch=inner)
    )
    with pytest.raises(CalibrationError, match=r"'z' \(If\) has a subgraph"):
        to_float16(graph)


def test_an_exported_network_in_float16(residual_net: Path, residual_crops, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    write_float16(residual_net, path)
    half, original = load_graph(path), load_graph(residual_net)
    assert spec_of(half) == spec_of(original)
    last = next(node for node in reversed(half.graph.node) if node.op_type == "Conv")
    single_precision = {
        tensor.name for tensor in half.graph.initializer if tensor.data_type == TensorProto.FLOAT
    }
    assert single_precision == set(last.input[1:])
    assert path.stat().st_size < 0.6 * residual_net.stat().st_size
    expected = run_graph(original, residual_crops[0])["heatmaps"]
    error = np.abs(run_graph(half, residual_crops[0])["heatmaps"] - expected).max()
    assert 0 < error < 5e-3 * np.abs(expected).max()


@needs_rtx
def test_tensorrt_rtx_builds_it(residual_net: Path, tmp_path: Path) -> None:
    from posedge.engines.build import build_engine
    from posedge.engines.lint import lint_file

    write_float16(residual_net, tmp_path / "half.onnx")
    assert lint_file(tmp_path / "half.onnx") == []
    build_engine(tmp_path / "half.onnx", tmp_path / "half.engine", flavour="tensorrt_rtx", time_limit_s=120)
    assert b"type=half" in (tmp_path / "half.engine").read_bytes()
