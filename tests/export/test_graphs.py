"""ONNX files are loaded or refused with a reason; the spec travels inside and is held to the graph."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from posedge.errors import GraphError
from posedge.export.graphs import (
    attach_spec,
    check_spec,
    dims,
    graph_input,
    load_graph,
    opset_of,
    random_batch,
    run_graph,
    save_graph,
    spec_of,
)
from posedge.runtime.spec import METADATA_KEY, ModelSpec

SPEC = ModelSpec(name="small", input_wh=(12, 16), heatmap_wh=(12, 16))


def make_model(
    input_shape: list[int | str] | None = None,
    output_shape: list[int | str] | None = None,
    kind: int = TensorProto.FLOAT,
    opset: int = 17,
    extra_input: bool = False,
    weight_as_input: bool = False,
) -> ModelProto:
    """One 1x1 convolution from 3 channels to 17."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weight = np.random.default_rng(0).standard_normal((17, 3, 1, 1)).astype(dtype)
    inputs = [helper.make_tensor_value_info("input", kind, input_shape or ["n", 3, 16, 12])]
    if extra_input:
        inputs.append(helper.make_tensor_value_info("scale", kind, [1]))
    if weight_as_input:
        inputs.append(helper.make_tensor_value_info("weight", kind, [17, 3, 1, 1]))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "weight"], ["heatmaps"], name="conv")],
        "small",
        inputs,
        [helper.make_tensor_value_info("heatmaps", kind, output_shape or ["n", 17, 16, 12])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def write(model: ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_a_graph_loads_as_it_was_saved(tmp_path: Path) -> None:
    model = make_model()
    save_graph(model, tmp_path / "a.onnx")
    loaded = load_graph(tmp_path / "a.onnx")
    assert loaded == model
    assert opset_of(loaded) == 17
    assert dims(graph_input(loaded, "a")) == ["n", 3, 16, 12]


def test_weights_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    model = load_graph(write(make_model(weight_as_input=True), tmp_path / "old.onnx"))
    assert graph_input(model, "old").name == "input"


def test_running_gives_inner_tensors_by_name() -> None:
    model = make_model()
    batch = random_batch(SPEC, 3, seed=1)
    weight = numpy_helper.to_array(model.graph.initializer[0])[:, :, 0, 0]
    expected = np.einsum("kc,nchw->nkhw", weight, batch)
    for optimise in (False, True):
        outputs = run_graph(model, batch, ["heatmaps"], optimise)
        np.testing.assert_allclose(outputs["heatmaps"], expected, atol=1e-5)
    with pytest.raises(GraphError, match="onnxruntime cannot run"):
        run_graph(model, batch[:, :2])


def test_random_batches_repeat() -> None:
    assert np.array_equal(random_batch(SPEC, 2, seed=3), random_batch(SPEC, 2, seed=3))
    assert not np.array_equal(random_batch(SPEC, 2, seed=3), random_batch(SPEC, 2, seed=4))
    assert random_batch(SPEC, 2).shape == (2, 3, 16, 12)
    assert random_batch(SPEC, 2).dtype == np.float32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"this is no ONNX file\n" * 20, "not"),
        (b"<!DOCTYPE html><html>", "not"),
        (bytes(100), "not"),
        (helper.make_model(helper.make_graph([], "empty", [], [])).SerializeToString(), "no operators"),
        (make_model().SerializeToString()[:200], "cut short"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match=rf"file\.onnx.*{message}"):
        load_graph(path)


def test_missing_files_and_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="no such ONNX file"):
        load_graph(tmp_path / "absent.onnx")
    with pytest.raises(GraphError, match="cannot be read"):
        load_graph(tmp_path)


def without_inputs() -> ModelProto:
    value = numpy_helper.from_array(np.ones((1, 17, 16, 12), np.float32))
    node = helper.make_node("Constant", [], ["heatmaps"], value=value)
    output = helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, [1, 17, 16, 12])
    return helper.make_model(helper.make_graph([node], "constant", [], [output]), ir_version=8)


def without_outputs_of_a_node() -> ModelProto:
    model = make_model()
    del model.graph.node[0].output[:]
    return model


def with_unknown_operator() -> ModelProto:
    model = make_model()
    model.graph.node[0].op_type = "Convolve"
    return model


def with_contradicting_shape() -> ModelProto:
    return make_model(output_shape=["n", 17, 8, 6])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (without_inputs(), "has no input"),
        (make_model(extra_input=True), r"2 inputs \(input, scale\)"),
        (make_model(kind=TensorProto.DOUBLE), "is DOUBLE"),
        (without_outputs_of_a_node(), "onnx.checker rejects"),
        (with_unknown_operator(), r"onnx.checker rejects.*Convolve"),
        (with_contradicting_shape(), "onnx.checker rejects"),
    ],
)
def test_unusable_graphs_are_refused(tmp_path: Path, model: ModelProto, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        load_graph(write(model, tmp_path / "bad.onnx"))


@pytest.mark.parametrize("shape", [["n", 3, 16], ["n", 3, 16, 12, 1], []])
def test_input_ranks_other_than_four_are_refused(tmp_path: Path, shape: list[int | str]) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["heatmaps"])],
        "relu",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(GraphError, match=rf"rank {len(shape)}.*must be \(N, 3, H, W\)"):
        load_graph(write(model, tmp_path / "rank.onnx"))


def test_separate_weights_are_loaded_and_missed(tmp_path: Path) -> None:
    model = make_model()
    path = tmp_path / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    loaded = load_graph(path)
    batch = random_batch(SPEC, 1)
    expected = run_graph(make_model(), batch)["heatmaps"]
    assert np.array_equal(run_graph(loaded, batch)["heatmaps"], expected)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(GraphError, match=r"separate file.*weights\.bin"):
        load_graph(path)


def test_the_spec_travels_in_the_file(tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, codec="unbiased", flip_shift=False, mean=(1.0, 2.0, 3.5))
    model = make_model()
    model.metadata_props.add(key="author", value="somebody")
    attach_spec(model, SPEC)
    attach_spec(model, spec)
    save_graph(model, tmp_path / "a.onnx")
    loaded = load_graph(tmp_path / "a.onnx")
    assert spec_of(loaded) == spec
    assert {entry.key: entry.value for entry in loaded.metadata_props}["author"] == "somebody"
    assert len(loaded.metadata_props) == 2


def test_absent_and_broken_specs_are_refused() -> None:
    model = make_model()
    with pytest.raises(GraphError, match="carries no spec"):
        spec_of(model)
    model.metadata_props.add(key=METADATA_KEY, value="{")
    with pytest.raises(GraphError, match="not JSON"):
        spec_of(model)
    model.metadata_props[0].value = '{"name": "a", "colour": "rgb"}'
    with pytest.raises(GraphError, match="unknown key 'colour'"):
        spec_of(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_name": "image"}, "input is 'input'.*input_name is 'image'"),
        ({"output_name": "out"}, "outputs are 'heatmaps'.*output_name is 'out'"),
        ({"input_wh": (16, 12)}, r"\(n, 3, 16, 12\).*input_wh is 16x12.*\(N, 3, 12, 16\)"),
        ({"heatmap_wh": (6, 8)}, r"\(n, 17, 16, 12\).*heatmap_wh 6x8"),
        ({"num_joints": 21}, r"num_joints is 21"),
    ],
)
def test_a_spec_that_contradicts_the_graph_is_refused(changes: dict[str, object], message: str) -> None:
    model = make_model()
    check_spec(model, SPEC)
    with pytest.raises(GraphError, match=message):
        check_spec(model, dataclasses.replace(SPEC, **changes))  # type: ignore[arg-type]


def test_symbolic_sizes_fit_any_spec() -> None:
    model = make_model(["n", 3, "h", "w"], ["n", 17, "h", "w"])
    check_spec(model, SPEC)
    check_spec(model, dataclasses.replace(SPEC, input_wh=(48, 64), heatmap_wh=(48, 64)))


def test_an_output_of_another_rank_is_no_heatmap() -> None:
    model = make_model()
    del model.graph.output[0].type.tensor_type.shape.dim[3]
    with pytest.raises(GraphError, match="'heatmaps' has rank 3"):
        check_spec(model, SPEC)
