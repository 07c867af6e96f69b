import importlib.util
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

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


def test_tiny_weights_beside_large_ones_become_subnormal_or_zero() -> None:
    weights = np.full((3, 3, 1, 1), 3e-7, np.float32)
    weights[0] = 1e-12
    weights[2, 2] = 1
    (tensor,) = to_float16(model("c = Conv(x, w) y = Add(c, x)", w=weights)).graph.initializer
    values = numpy_helper.to_array(tensor)
    assert values.dtype == np.float16
    assert (values[0] == 0).all()
    assert (values[1] == np.float16(3e-7)).all()


BIG = W.copy()
BIG[1, 1] = -7e4

# body, constants, tensors that are float32 besides x and y
UNFIT_CONSTANTS = [
    ("a = Conv(x, k) y = Add(a, x)", {"k": BIG}, {"k", "a"}),
    ("c = Identity(k) a = Conv(x, c) y = Add(a, x)", {"k": BIG}, {"k", "c", "a"}),
    ("k = Constant <value_float = 1000000.0> () a = Div(x, k) y = Add(a, x)", {}, {"k", "a"}),
    ("a = Clip(x, , k) y = Add(a, x)", {"k": np.finfo(np.float32).max}, {"k", "a"}),
    ("a = Conv(x, k) y = Add(a, x)", {"k": W * np.float32(1e-7)}, {"k", "a"}),
    ("r = Relu(x) a = Add(r, k) b = Sqrt(a) y = Div(x, b)", {"k": np.float32(1e-9)}, {"k", "a"}),
]


@pytest.mark.parametrize(("body", "constants", "float32"), UNFIT_CONSTANTS)
def test_layers_whose_constants_float16_cannot_hold_stay_float32(body, constants, float32) -> None:
    before = model(body, **constants)
    after = to_float16(before)
    found = {name for name, kind in types(after).items() if kind == TensorProto.FLOAT and "/" not in name}
    assert found == {"x", "y"} | float32
    expected, actual = run(before), run(after)
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual, expected, rtol=5e-3, atol=5e-3)


def test_layers_stay_float32_by_name_with_casts_around() -> None:
    before = model("a = Conv(x, w) r = Relu(a) k = Conv(r, v) s = Relu(k) y = Add(s, x)", w=W, v=W + 1)
    after = to_float16(before, keep_float32=["k"])
    found = types(after)
    assert {found[name] for name in ("w", "a", "r", "s")} == {TensorProto.FLOAT16}
    assert {found[name] for name in ("v", "k")} == {TensorProto.FLOAT}
    np.testing.assert_allclose(run(after), run(before), rtol=1e-2, atol=1e-2)


def test_an_unknown_name_to_keep_in_float32_is_refused() -> None:
    with pytest.raises(CalibrationError, match="no node of the graph has the first output 'conv9'"):
        to_float16(model("y = Conv(x, w)", w=W), keep_float32=["conv9"])


def swelling(gain: float) -> onnx.ModelProto:
    """A network whose layer c is about ``gain`` squared times larger than its input and its output."""
    return model(
        "a = Conv(x, w) b = Relu(a) c = Conv(b, w) d = Relu(c) e = Transpose <perm = [0, 1, 3, 2]> (d)"
        "f = Conv(e, v) g = Relu(f) h = Conv(g, v) y = Add(h, x)",
        w=np.abs(W) * np.float32(gain),
        v=W / np.float32(gain),
    )


def run_rounding(graph: onnx.ModelProto) -> NDArray[np.float32]:
    """As ``run``, with every tensor rounded to its type; onnxruntime keeps float32 between float16 layers."""
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        (y,) = ReferenceEvaluator(graph).run(None, {"x": x})
    return y


LARGE = ["c", "d", "e", "f"]  # c is large, f reads it


def crops(seed: int = 0) -> list[NDArray[np.float32]]:
    return [np.random.default_rng(seed).normal(size=(4, 3, 8, 8)).astype(np.float32) for _ in range(2)]


def test_layers_whose_activations_overflow_stay_float32_and_are_named(tmp_path: Path) -> None:
    before = swelling(300)
    onnx.save(before, tmp_path / "net.onnx")
    write_float16(tmp_path / "net.onnx", tmp_path / "plain.onnx")
    assert not np.isfinite(run_rounding(load_graph(tmp_path / "plain.onnx"))).all(), (
        "nobody looked at the activations"
    )

    kept = write_float16(tmp_path / "net.onnx", tmp_path / "half.onnx", crops())
    assert [layer.node for layer in kept] == LARGE
    assert kept[0].operator == "Conv"
    assert re.fullmatch(r"'c' reaches [1-9][\d.]+e\+05 on the crops; float16 ends at 65504", kept[0].reason)
    half = load_graph(tmp_path / "half.onnx")
    found = types(half)
    assert {found[name] for name in ("a", "b", "g")} == {TensorProto.FLOAT16}
    np.testing.assert_allclose(run_rounding(half), run_rounding(before), rtol=1e-2, atol=1e-2)


def test_activations_near_the_end_of_float16_stay_float32_for_other_images(tmp_path: Path) -> None:
    for gain, expected in ((20, []), (70, LARGE)):
        onnx.save(swelling(gain), tmp_path / "net.onnx")
        kept = write_float16(tmp_path / "net.onnx", tmp_path / "half.onnx", crops())
        assert [layer.node for layer in kept] == expected
        assert np.isfinite(run_rounding(to_float16(swelling(gain)))).all(), (
            "these crops alone would not need it"
        )


def test_activations_that_are_nearly_all_subnormal_stay_float32(tmp_path: Path) -> None:
    before = swelling(1e-3)
    onnx.save(before, tmp_path / "net.onnx")
    kept = write_float16(tmp_path / "net.onnx", tmp_path / "half.onnx", crops())
    assert [layer.node for layer in kept] == LARGE
    assert "where float16 lacks digits" in kept[0].reason
    np.testing.assert_allclose(
        run_rounding(load_graph(tmp_path / "half.onnx")), run_rounding(before), rtol=1e-2, atol=1e-2
    )


def test_a_common_network_keeps_nothing_for_its_values(residual_net: Path, residual_crops, tmp_path) -> None:
    assert write_float16(residual_net, tmp_path / "observed.onnx", residual_crops) == ()
    assert write_float16(residual_net, tmp_path / "half.onnx") == ()
    assert (tmp_path / "observed.onnx").read_bytes() == (tmp_path / "half.onnx").read_bytes()


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
def test_tensorrt_rtx_builds_float32_layers_between_float16_ones(tmp_path: Path) -> None:
    from posedge.engines import BatchProfile, build_engine
    from posedge.engines.lint import lint_file

    onnx.save(swelling(300), tmp_path / "net.onnx")
    write_float16(tmp_path / "net.onnx", tmp_path / "half.onnx", crops())
    assert lint_file(tmp_path / "half.onnx") == []
    build_engine(
        tmp_path / "half.onnx",
        tmp_path / "half.engine",
        BatchProfile(1, 1, 2),
        flavour="tensorrt_rtx",
        time_limit_s=120,
    )
    assert b"type=half" in (tmp_path / "half.engine").read_bytes()


@needs_rtx
def test_tensorrt_rtx_builds_it(residual_net: Path, tmp_path: Path) -> None:
    from posedge.engines.build import build_engine
    from posedge.engines.lint import lint_file

    write_float16(residual_net, tmp_path / "half.onnx")
    assert lint_file(tmp_path / "half.onnx") == []
    build_engine(tmp_path / "half.onnx", tmp_path / "half.engine", flavour="tensorrt_rtx", time_limit_s=120)
    assert b"type=half" in (tmp_path / "half.engine").read_bytes()
