"""The main job with a SimCC model: two outputs from an ONNX file to a bundle that finds joints."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from posedge import ModelSpec, PoseEstimator
from posedge.deploy import deploy
from posedge.engines import BatchProfile, BuildOptions
from posedge.errors import GraphError
from posedge.export.graphs import load_graph, run_graph
from posedge.export.onnx_export import prepare_onnx
from posedge.options import DataPaths, DeployOptions
from posedge.runtime.bundle import open_bundle
from posedge.runtime.images import read_image
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession

SPEC = ModelSpec(
    name="small_simcc", input_wh=(48, 64), codec="simcc", output_name="x_bins", output_name_y="y_bins"
)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Random weights: a strided stem, 17 maps, each flattened, and one linear layer for each axis (RTMPose).

    The outputs stand in the other order, beside a third one that no spec names, and the batch is fixed.
    """
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        return numpy_helper.from_array(
            (rng.normal(size=shape) * (2 / fan_in) ** 0.5).astype(np.float32), name
        )

    width, height = SPEC.input_wh
    cells = (width // 4) * (height // 4)
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["c1"], "stem1", strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "stem2", strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("Conv", ["r2", "w3"], ["maps"], "maps"),
        helper.make_node("Reshape", ["maps", "flat"], ["cells"], "flatten"),
        helper.make_node("MatMul", ["cells", "wy"], ["y_bins"], "head_y"),
        helper.make_node("MatMul", ["cells", "wx"], ["x_bins"], "head_x"),
        helper.make_node("ReduceMean", ["maps"], ["means"], "means"),
    ]
    outputs = {"y_bins": [1, 17, 2 * height], "means": [1, 1, 1, 1], "x_bins": [1, 17, 2 * width]}
    graph = helper.make_graph(
        nodes,
        "small_simcc",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, height, width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [
            *(weight("w1", 16, 3, 3, 3), weight("w2", 16, 16, 3, 3), weight("w3", 17, 16, 1, 1)),
            *(weight("wx", cells, 2 * width), weight("wy", cells, 2 * height)),
            numpy_helper.from_array(np.array([0, 17, cells]), "flat"),
        ],
    )
    path = tmp_path / "simcc.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_prepared_graphs_have_both_outputs_in_the_specs_order(network: Path, tmp_path: Path) -> None:
    prepare_onnx(network, SPEC, tmp_path / "out.onnx")
    prepared = load_graph(tmp_path / "out.onnx")
    assert [value.name for value in prepared.graph.output] == ["x_bins", "y_bins"]
    batch = np.random.default_rng(1).normal(size=(1, 3, 64, 48)).astype(np.float32)
    before, after = run_graph(load_graph(network), batch), run_graph(prepared, batch)
    for name in SPEC.output_names:
        np.testing.assert_allclose(after[name], before[name], atol=1e-5)
    with OnnxRuntimeSession(tmp_path / "out.onnx") as session:
        assert session.spec == SPEC
        assert [len(output) for output in session.run(batch.repeat(3, axis=0))] == [3, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_name_y": "z_bins"}, "output_name_y is 'z_bins'"),
        ({"split_ratio": 3.0}, r"split_ratio 3\.0"),
        ({"codec": "msra"}, "rank 3"),
    ],
)
def test_a_wrong_spec_is_refused_before_any_work(
    network: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    spec = ModelSpec(**{**vars(SPEC), **changes})
    with pytest.raises(GraphError, match=message):
        prepare_onnx(network, spec, tmp_path / "out.onnx")


def test_the_main_job_from_an_onnx_file_to_joints(network: Path, coco: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(SPEC.to_json())
    outcome = deploy(
        DeployOptions(
            model=str(network),
            output=tmp_path / "out",
            data=DataPaths(coco / "val.json", coco / "images", coco / "train.json"),
            spec=spec,
            build=BuildOptions(BatchProfile(1, 2, 4)),
            calibration_crops=8,
            limit=12,
            batch_sizes=(1, 2),
            seconds=0.05,
        )
    )
    receipt = json.loads((outcome.directory / "receipt.json").read_text())
    assert receipt["spec"]["codec"] == "simcc"
    assert all(0 <= variant["ap"] <= 1 for variant in receipt["variants"].values())
    assert set(open_bundle(outcome.directory).variants) == {"fp32", "fp16", "int8"}
    image = read_image(coco / "images" / "000000000785.jpg")
    found = {}
    for variant in ("fp32", "fp16", "int8"):
        with PoseEstimator(outcome.directory, variant, flip_test=True) as pose:
            found[variant], scores = pose(image, [[280.79, 44.73, 499.49, 391.41]])
        assert found[variant].shape == (1, 17, 2)
        assert (scores > 0).any()
    # random weights: no joint is meant, but the variants of one network agree on most places
    for variant, share in (("fp16", 0.9), ("int8", 0.5)):
        near = np.abs(found[variant] - found["fp32"]).max(axis=-1) < 20
        assert near.mean() >= share
