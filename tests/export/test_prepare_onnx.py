"""Somebody's ONNX file becomes a graph like an exported one; passes that do harm are caught."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from posedge.errors import GraphError, OutputError
from posedge.export.graphs import dims, load_graph, opset_of, random_batch, run_graph, spec_of
from posedge.export.onnx_export import prepare_onnx
from posedge.export.passes.base import GraphPass, apply_passes, relative_difference
from posedge.runtime.spec import ModelSpec

SPEC = ModelSpec(name="foreign", input_wh=(24, 32), heatmap_wh=(12, 16), output_name="maps")


def network(opset: int = 17, batch: int | str = "n", reshape_batch: int = 0) -> ModelProto:
    """Conv, BatchNormalization, Relu and a Reshape, with a second output."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((17, 3, 2, 2)),
        "gamma": rng.uniform(0.5, 1.0, 17),
        "beta": rng.standard_normal(17),
        "mean": rng.standard_normal(17),
        "var": rng.uniform(0.5, 1.5, 17),
    }
    initializers = [
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()
    ]
    initializers.append(numpy_helper.from_array(np.array([reshape_batch, 17, 16, 12]), "shape"))
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["b"]),
        helper.make_node("Relu", ["b"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["maps"]),
        helper.make_node("Sigmoid", ["r"], ["second"]),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 32, 24])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 17, 16, 12])
            for name in ("maps", "second")
        ],
        initializers,
        doc_string="made in /home/somebody",
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7, producer_name="somebody"
    )


def prepare(model: ModelProto, tmp_path: Path) -> ModelProto:
    onnx.save(model, tmp_path / "source.onnx")
    prepare_onnx(tmp_path / "source.onnx", SPEC, tmp_path / "out.onnx")
    return load_graph(tmp_path / "out.onnx")


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("batch", ["batch", 1, 2])
def test_a_foreign_graph_is_prepared(tmp_path: Path, opset: int, batch: int | str) -> None:
    prepared = prepare(network(opset, batch), tmp_path)
    inputs = random_batch(SPEC, 5, seed=7)
    expected = run_graph(network(opset, "n"), inputs)["maps"]
    outputs = run_graph(prepared, inputs)
    assert list(outputs) == ["maps"]
    assert relative_difference(expected, outputs["maps"]) < 1e-6
    assert opset_of(prepared) == max(opset, 13)
    assert dims(prepared.graph.input[0]) == ["n", 3, 32, 24]
    assert "BatchNormalization" not in {node.op_type for node in prepared.graph.node}
    assert all(node.name for node in prepared.graph.node)
    assert spec_of(prepared) == SPEC
    assert b"somebody" not in prepared.SerializeToString()


def test_a_batch_size_that_the_nodes_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="DeclareShapes"):
        prepare(network(batch=1, reshape_batch=1), tmp_path)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("opset", [8, 22, 99])
def test_other_opsets_are_refused(tmp_path: Path, opset: int) -> None:
    model = network()
    model.opset_import[0].version = opset
    with pytest.raises(GraphError, match=f"opset {opset}.*from 13 to 21"):
        prepare(model, tmp_path)


def test_a_graph_that_overflows_is_refused(tmp_path: Path) -> None:
    model = network()
    weight = np.full((17, 3, 2, 2), np.inf, np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    with pytest.raises(GraphError, match="NaN or infinity"):
        prepare(model, tmp_path)


def test_an_unwritable_directory_is_reported(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "source.onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        prepare_onnx(tmp_path / "source.onnx", SPEC, tmp_path / "file" / "folder" / "a.onnx")


def test_tinypose_comes_through(tinypose: Path, tinypose_spec: ModelSpec, tmp_path: Path) -> None:
    original = load_graph(tinypose)
    spec = dataclasses.replace(tinypose_spec, output_name=original.graph.output[0].name)
    prepare_onnx(tinypose, spec, tmp_path / "a.onnx")
    prepared = load_graph(tmp_path / "a.onnx")
    assert (len(original.graph.node), len(prepared.graph.node)) == (1035, 766)
    for size in (1, 3):
        batch = random_batch(spec, size, seed=size)
        expected = run_graph(original, batch)[spec.output_name]
        assert relative_difference(expected, run_graph(prepared, batch)[spec.output_name]) < 1e-4


# passes check themselves


class ScaleWeights(GraphPass):
    def edit(self, model: ModelProto) -> ModelProto:
        weight = numpy_helper.to_array(model.graph.initializer[0]) * np.float32(1.001)
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, model.graph.initializer[0].name))
        return model


class DropNode(GraphPass):
    def edit(self, model: ModelProto) -> ModelProto:
        del model.graph.node[1]
        return model


class DoNothing(GraphPass):
    def edit(self, model: ModelProto) -> ModelProto:
        return model


@pytest.mark.parametrize(
    ("harmful", "message"),
    [(ScaleWeights(), "changed the output 'maps'"), (DropNode(), "onnx.checker rejects")],
)
def test_a_harmful_pass_is_caught_and_named(harmful: GraphPass, message: str) -> None:
    model = network()
    before = model.SerializeToString()
    with pytest.raises(GraphError, match=rf"{harmful.name} \(after DoNothing\) failed: .*{message}"):
        apply_passes(model, [DoNothing(), harmful], random_batch(SPEC, 2))
    assert model.SerializeToString() == before
