"""onnxruntime sessions: real graphs run, unusable ones are explained."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from posedge.errors import GraphError, MissingExtraError, SessionError
from posedge.runtime.sessions import Session
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.spec import METADATA_KEY, ModelSpec

# an output map is the input channels averaged over 4x4 pixels
SPEC = ModelSpec(
    name="tiny", input_wh=(16, 24), heatmap_wh=(4, 6), num_joints=3, flip_pairs=((1, 2),), flip_shift=False
)
BATCH = np.random.default_rng(0).normal(size=(3, 3, 24, 16)).astype(np.float32)


def pooled(batch: np.ndarray) -> np.ndarray:
    n, c, h, w = batch.shape
    return batch.reshape(n, c, h // 4, 4, w // 4, 4).mean(axis=(3, 5))


def graph_bytes(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray] | None = None,
    input_shape: Sequence[int | str] | None = ("n", 3, 24, 16),
    output_shape: Sequence[int | str] = ("n", 3, 6, 4),
    number: int = TensorProto.FLOAT,
    metadata: dict[str, str] | None = None,
) -> bytes:
    """An ONNX file with input "input" (None: without inputs) and output "heatmaps"."""
    inputs = [] if input_shape is None else [helper.make_tensor_value_info("input", number, input_shape)]
    outputs = [helper.make_tensor_value_info("heatmaps", number, output_shape)]
    tensors = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "tiny", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    data: bytes = model.SerializeToString()
    return data


def pool(source: str = "input", target: str = "heatmaps") -> onnx.NodeProto:
    return helper.make_node("AveragePool", [source], [target], kernel_shape=[4, 4], strides=[4, 4])


POOL = graph_bytes([pool()])


def test_a_batch_goes_through_from_bytes_and_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(POOL)
    for graph in (POOL, path):
        with OnnxRuntimeSession(graph, SPEC, threads=1) as session:
            checked: Session = session
            (heatmaps,) = checked.run(BATCH)
            assert heatmaps.dtype == np.float32
            np.testing.assert_allclose(heatmaps, pooled(BATCH), atol=1e-6)
            assert session.name == "onnxruntime"
            assert session.threads == 1
            assert not session.simulated


def test_an_empty_batch_gives_empty_maps() -> None:
    with OnnxRuntimeSession(POOL, SPEC) as session:
        assert session.run(BATCH[:0])[0].shape == (0, 3, 6, 4)


def test_the_spec_inside_the_file_is_read() -> None:
    graph = graph_bytes([pool()], metadata={METADATA_KEY: SPEC.to_json()})
    with OnnxRuntimeSession(graph) as session:
        assert session.spec == SPEC


def test_a_given_spec_wins_over_the_one_inside() -> None:
    graph = graph_bytes([pool()], metadata={METADATA_KEY: SPEC.to_json()})
    other = dataclasses.replace(SPEC, codec="megvii")
    with OnnxRuntimeSession(graph, other) as session:
        assert session.spec == other


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "--spec"),
        ({METADATA_KEY: "{"}, "not JSON"),
        ({METADATA_KEY: '{"name": "a", "nam": 1}'}, "unknown key 'nam'"),
    ],
)
def test_a_file_without_a_readable_spec_is_explained(metadata: dict[str, str], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        OnnxRuntimeSession(graph_bytes([pool()], metadata=metadata))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"this is text, not ONNX", "not an ONNX file"),
        (b"\0" * 64, "not an ONNX file"),
        (POOL[: len(POOL) // 2], "not an ONNX file|invalid"),
        (b"\x08\x08", "not an ONNX file"),  # an IR version and nothing else
    ],
    ids=["empty", "text", "zeros", "half", "no graph"],
)
def test_files_that_are_no_graph(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match=message) as error:
        OnnxRuntimeSession(path, SPEC)
    assert str(path) in str(error.value)


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="no such ONNX file"):
        OnnxRuntimeSession(tmp_path / "absent.onnx", SPEC)
    with pytest.raises(GraphError, match="cannot be read"):
        OnnxRuntimeSession(tmp_path, SPEC)


ONES = numpy_helper.from_array(np.ones((1, 3, 6, 4), np.float32))
CONTRADICTIONS: list[tuple[str, bytes, dict[str, object], str]] = [
    (
        "no inputs",
        graph_bytes([helper.make_node("Constant", [], ["heatmaps"], value=ONES)], input_shape=None),
        {},
        "no inputs",
    ),
    (
        "input rank",
        graph_bytes([helper.make_node("Identity", ["input"], ["heatmaps"])], {}, (3, 24), (3, 24)),
        {},
        "2 dimensions",
    ),
    ("input name", POOL, {"input_name": "image"}, r"input_name is 'image'.*'input'"),
    ("output name", POOL, {"output_name": "maps"}, r"output_name is 'maps'.*'heatmaps'"),
    ("input size", POOL, {"input_wh": (24, 16)}, "input_wh"),
    ("joints", POOL, {"num_joints": 17}, "num_joints"),
    ("heatmap size", POOL, {"heatmap_wh": (6, 4)}, "heatmap_wh"),
    ("fixed batch", graph_bytes([pool()], {}, (1, 3, 24, 16), (1, 3, 6, 4)), {}, "dynamic batch"),
    (
        "output rank",
        graph_bytes(
            [
                helper.make_node("GlobalAveragePool", ["input"], ["g"]),
                helper.make_node("Flatten", ["g"], ["heatmaps"]),
            ],
            output_shape=("n", 3),
        ),
        {},
        "2 dimensions",
    ),
    (
        "number type",
        graph_bytes(
            [helper.make_node("MaxPool", ["input"], ["heatmaps"], kernel_shape=[4, 4], strides=[4, 4])],
            number=TensorProto.DOUBLE,
        ),
        {},
        r"tensor\(double\)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("graph", "changes", "message"),
    [row[1:] for row in CONTRADICTIONS],
    ids=[row[0] for row in CONTRADICTIONS],
)
def test_graphs_that_contradict_the_spec(graph: bytes, changes: dict[str, object], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        OnnxRuntimeSession(graph, dataclasses.replace(SPEC, **changes))


def test_a_second_input_is_refused() -> None:
    model = onnx.load_model_from_string(POOL)
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", 1]))
    with pytest.raises(GraphError, match="input, mask"):
        OnnxRuntimeSession(model.SerializeToString(), SPEC)


def test_an_invalid_graph_is_explained_in_onnxruntimes_words() -> None:
    with pytest.raises((GraphError, SessionError), match="Imaginary"):
        OnnxRuntimeSession(graph_bytes([helper.make_node("Imaginary", ["input"], ["heatmaps"])]), SPEC)


def test_an_output_size_that_the_graph_leaves_open_is_checked_when_it_runs() -> None:
    graph = graph_bytes([pool()], output_shape=("n", "k", "h", "w"), input_shape=("n", "c", "y", "x"))
    with OnnxRuntimeSession(graph, SPEC) as session:
        np.testing.assert_allclose(session.run(BATCH)[0], pooled(BATCH), atol=1e-6)
    wrong = dataclasses.replace(SPEC, num_joints=5)
    with OnnxRuntimeSession(graph, wrong) as session, pytest.raises(GraphError, match=r"\(3, 5, 6, 4\)"):
        session.run(BATCH)


@pytest.mark.parametrize(
    "batch", [BATCH.astype(np.float64), BATCH[0], BATCH[:, :, :-1], BATCH.transpose(0, 2, 3, 1)]
)
def test_batches_that_do_not_fit_are_refused(batch: np.ndarray) -> None:
    with OnnxRuntimeSession(POOL, SPEC) as session, pytest.raises(SessionError, match=r"\(N, 3, 24, 16\)"):
        session.run(batch)


def test_a_failure_inside_onnxruntime_is_a_session_error() -> None:
    """Pairs of images are joined and parted again, which fails for an odd number of them."""
    nodes = [
        helper.make_node("Reshape", ["input", "joined"], ["j"]),
        helper.make_node("Reshape", ["j", "parted"], ["p"]),
        pool("p"),
    ]
    graph = graph_bytes(nodes, {"joined": np.array([-1, 6, 24, 16]), "parted": np.array([-1, 3, 24, 16])})
    with OnnxRuntimeSession(graph, SPEC) as session, pytest.raises(SessionError, match="onnxruntime failed"):
        session.run(BATCH)


def test_a_closed_session_does_not_run() -> None:
    session = OnnxRuntimeSession(POOL, SPEC)
    session.close()
    session.close()
    with pytest.raises(SessionError, match="closed"):
        session.run(BATCH)


@pytest.mark.parametrize("threads", [0, -1])
def test_thread_counts_are_positive(threads: int) -> None:
    with pytest.raises(SessionError, match="threads"):
        OnnxRuntimeSession(POOL, SPEC, threads)


def test_values_that_are_not_finite_are_handed_on() -> None:
    batch = BATCH.copy()
    batch[0, 0, 0, 0] = np.nan
    batch[1, 1, 0, 0] = np.inf
    with OnnxRuntimeSession(POOL, SPEC) as session:
        (heatmaps,) = session.run(batch)
    assert np.isnan(heatmaps[0, 0, 0, 0])
    assert np.isposinf(heatmaps[1, 1, 0, 0])


def test_without_onnxruntime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"posedge\[cpu\]"):
        OnnxRuntimeSession(POOL, SPEC)


# --- float16 ---------------------------------------------------------------------------------------------


def arithmetic_graph(number: int, input_number: int | None = None) -> bytes:
    """(input * a + b) * c on pooled pixels, every step rounding when ``number`` is float16."""
    dtype = np.float16 if number == TensorProto.FLOAT16 else np.float32
    constants = {"a": np.array(1.001, dtype), "b": np.array(1000.0, dtype), "c": np.array(0.01, dtype)}
    nodes = [
        helper.make_node("MaxPool", ["input"], ["p"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Mul", ["p", "a"], ["pa"]),
        helper.make_node("Add", ["pa", "b"], ["pab"]),
        helper.make_node("Relu", ["pab"], ["r"]),
        helper.make_node("Mul", ["r", "c"], ["heatmaps"]),
    ]
    if input_number is None:
        return graph_bytes(nodes, constants, number=number)
    nodes[0].input[0] = "cast_input"
    nodes[-1].output[0] = "half_heatmaps"
    nodes.insert(0, helper.make_node("Cast", ["input"], ["cast_input"], to=number))
    nodes.append(helper.make_node("Cast", ["half_heatmaps"], ["heatmaps"], to=input_number))
    return graph_bytes(nodes, constants, number=input_number)


def arithmetic_in_float16(batch: np.ndarray) -> np.ndarray:
    n, c, h, w = batch.shape
    half = batch.astype(np.float16).reshape(n, c, h // 4, 4, w // 4, 4).max(axis=(3, 5))
    result = np.maximum(half * np.float16(1.001) + np.float16(1000), np.float16(0)) * np.float16(0.01)
    assert result.dtype == np.float16
    return result.astype(np.float32)


@pytest.mark.parametrize("input_number", [None, TensorProto.FLOAT], ids=["half input", "float input"])
def test_float16_graphs_round_after_every_node(input_number: int | None) -> None:
    """onnxruntime by itself would keep float32 between the nodes: 1000 + x would keep its decimals."""
    with OnnxRuntimeSession(arithmetic_graph(TensorProto.FLOAT16, input_number), SPEC) as session:
        assert session.simulated
        (heatmaps,) = session.run(BATCH)
    assert heatmaps.dtype == np.float32
    assert np.array_equal(heatmaps, arithmetic_in_float16(BATCH))
    with OnnxRuntimeSession(arithmetic_graph(TensorProto.FLOAT), SPEC) as session:
        assert not np.array_equal(session.run(BATCH)[0], heatmaps)


def test_float16_overflow_shows_even_when_a_later_node_would_hide_it() -> None:
    constants = {"big": np.array(6e4, np.float16), "small": np.array(1e-4, np.float16)}
    nodes = [
        pool(target="p"),
        helper.make_node("Mul", ["p", "big"], ["b"]),
        helper.make_node("Mul", ["b", "small"], ["heatmaps"]),
    ]
    graph = graph_bytes(nodes, constants, number=TensorProto.FLOAT16)
    with OnnxRuntimeSession(graph, SPEC) as session:
        (heatmaps,) = session.run(np.full_like(BATCH, 4))
    assert np.isposinf(heatmaps).all()


def test_float16_convolutions_are_near_the_float32_ones() -> None:
    weight = np.random.default_rng(1).normal(size=(3, 3, 3, 3)).astype(np.float16)

    def convolution(number: int, dtype: type[np.generic]) -> bytes:
        conv = helper.make_node("Conv", ["input", "w"], ["c"], pads=[1, 1, 1, 1])
        return graph_bytes([conv, pool("c")], {"w": weight.astype(dtype)}, number=number)

    with (
        OnnxRuntimeSession(convolution(TensorProto.FLOAT16, np.float16), SPEC) as half,
        OnnxRuntimeSession(convolution(TensorProto.FLOAT, np.float32), SPEC) as full,
    ):
        difference = np.abs(half.run(BATCH)[0] - full.run(BATCH)[0])
    assert 0 < difference.max() < 0.02


def test_float16_graphs_may_name_tensors_as_the_imitation_would() -> None:
    """A graph that keeps its tail in float32 casts "p" to "p/float32"; so does posedge's own."""
    nodes = [
        pool(target="pooled"),
        helper.make_node("Cast", ["pooled"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["half", "a"], ["p"]),
        helper.make_node("Cast", ["p"], ["p/float32"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["p/float32", "b"], ["heatmaps"]),
    ]
    constants = {"a": np.array(1.7, np.float16), "b": np.array(3, np.float32)}
    with OnnxRuntimeSession(graph_bytes(nodes, constants), SPEC) as session:
        assert session.simulated
        (heatmaps,) = session.run(BATCH)
    # the mean is float32, its product with 1.7 is rounded, that times 3 is not
    expected = pooled(BATCH).astype(np.float16) * np.float16(1.7)
    np.testing.assert_allclose(heatmaps, 3 * expected.astype(np.float32), atol=6e-3)


def test_float16_control_flow_is_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["p"], ["q"])], "b", [], [helper.make_tensor_value_info("q", 10, None)]
    )
    nodes = [
        pool(target="p"),
        helper.make_node("If", ["yes"], ["heatmaps"], then_branch=branch, else_branch=branch),
    ]
    graph = graph_bytes(nodes, {"yes": np.array(True)}, number=TensorProto.FLOAT16)
    with pytest.raises(GraphError, match="control flow"):
        OnnxRuntimeSession(graph, SPEC)


# --- Q/DQ ------------------------------------------------------------------------------------------------

SCALES = {"input_scale": np.float32(0.02), "weight_scale": np.float32(0.01), "output_scale": np.float32(0.05)}


def quantised_graph(weight: np.ndarray) -> bytes:
    """Q -> DQ -> Conv 1x1 with DQ weights -> Q -> DQ -> pool, int8 and symmetric."""
    constants = {name: np.array(value) for name, value in SCALES.items()}
    constants |= {"zero": np.array(0, np.int8), "w": weight}
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "input_scale", "zero"], ["iq"]),
        helper.make_node("DequantizeLinear", ["iq", "input_scale", "zero"], ["i"]),
        helper.make_node("DequantizeLinear", ["w", "weight_scale", "zero"], ["wd"]),
        helper.make_node("Conv", ["i", "wd"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "output_scale", "zero"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "output_scale", "zero"], ["cd"]),
        pool("cd"),
    ]
    return graph_bytes(nodes, constants)


def quantised_as_written(batch: np.ndarray, weight: np.ndarray) -> np.ndarray:
    def q(values: np.ndarray, scale: float) -> np.ndarray:
        return np.clip(np.rint(values / scale), -128, 127).astype(np.int64)

    sums = np.einsum("oc,nchw->nohw", weight[:, :, 0, 0].astype(np.int64), q(batch, SCALES["input_scale"]))
    convolved = sums * (float(SCALES["input_scale"]) * float(SCALES["weight_scale"]))
    return pooled(q(convolved, SCALES["output_scale"]) * float(SCALES["output_scale"]))


@pytest.mark.parametrize("simulate", [False, True], ids=["int8 kernels", "as written"])
def test_quantised_graphs_compute_what_they_say(simulate: bool) -> None:
    """Large weights and values: 16-bit sums, as on CPUs without VNNI, would saturate."""
    weight = np.array([[127, 127, 127], [-127, 127, 90], [3, -5, 11]], np.int8)[:, :, None, None]
    with OnnxRuntimeSession(quantised_graph(weight), SPEC, simulate_int8=simulate) as session:
        assert session.simulated == simulate
        (heatmaps,) = session.run(BATCH)
    # a tie may round to the other step in one of a map pixel's 16 values
    tolerance = SCALES["output_scale"] / 16 + 1e-5
    np.testing.assert_allclose(heatmaps, quantised_as_written(BATCH, weight), atol=tolerance)
    assert np.abs(heatmaps).max() > 1
