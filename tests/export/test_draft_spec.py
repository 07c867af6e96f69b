"""`posedge spec init`: what a graph shows, what it cannot show, and that gaps are not deployed."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from posedge.cli import main
from posedge.errors import GraphError
from posedge.export.draft_spec import draft_spec
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.spec import COCO_FLIP_PAIRS, ModelSpec, read_spec

GAPS = {"colour_order": "bgr", "mean": [0, 0, 0], "std": [255, 255, 255]}


def write_model(
    path: Path,
    outputs: dict[str, Sequence[int]],
    input_shape: Sequence[int | str] = ("n", 3, 64, 48),
    stated: bool = False,
) -> Path:
    """Outputs of these shapes (without the batch axis) from a mean of the input; "n" is the batch."""
    constants = [numpy_helper.from_array(np.array([-1, 1]), "row")]
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("ReduceMean", ["pooled"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Reshape", ["mean", "row"], ["level"]),
    ]
    for name, shape in outputs.items():
        constants.append(numpy_helper.from_array(np.ones((1, int(np.prod(shape))), np.float32), f"{name}.w"))
        constants.append(numpy_helper.from_array(np.array([-1, *shape]), f"{name}.shape"))
        nodes.append(helper.make_node("MatMul", ["level", f"{name}.w"], [f"{name}.flat"]))
        nodes.append(helper.make_node("Reshape", [f"{name}.flat", f"{name}.shape"], [name]))
    values = [
        helper.make_tensor_value_info(
            name,
            TensorProto.FLOAT,
            [input_shape[0], *(shape if stated else (f"{name}{i}" for i in range(len(shape))))],
        )
        for name, shape in outputs.items()
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, input_shape)
    graph = helper.make_graph(nodes, "model", [image], values, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def filled_in(path: Path, **more: object) -> ModelSpec:
    """Do as a user does: write values where null is, and read the file."""
    document = json.loads(path.read_text())
    for key, value in {**GAPS, **more}.items():
        assert document[key] is None
        document[key] = value
    path.write_text(json.dumps(document))
    return read_spec(path)


@pytest.mark.parametrize("stated", [True, False], ids=["stated", "symbolic"])
def test_heatmaps_are_recognised(tmp_path: Path, stated: bool) -> None:
    model = write_model(tmp_path / "my net!.onnx", {"maps": (17, 16, 12)}, stated=stated)
    draft = draft_spec(model)
    assert list(draft.unknown) == list(GAPS)
    assert any("codec" in line for line in draft.assumed)
    path = tmp_path / "spec.json"
    path.write_text(draft.to_json())
    assert filled_in(path) == ModelSpec(
        "my_net_",
        input_wh=(48, 64),
        heatmap_wh=(12, 16),
        colour_order="bgr",
        mean=(0, 0, 0),
        std=(255, 255, 255),
        flip_pairs=COCO_FLIP_PAIRS,
        input_name="image",
        output_name="maps",
    )


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ({"simcc_x": (21, 96), "simcc_y": (21, 128)}, ("simcc_x", "simcc_y", 2.0)),
        ({"down": (21, 192), "across": (21, 144)}, ("across", "down", 3.0)),  # told by their lengths
        ({"a": (21, 48), "b": (21, 64), "other": (21, 7)}, ("a", "b", 1.0)),
    ],
)
def test_simcc_is_recognised(
    tmp_path: Path, outputs: dict[str, tuple[int, int]], expected: tuple[str, str, float]
) -> None:
    model = write_model(tmp_path / "net.onnx", outputs)
    (tmp_path / "spec.json").write_text(draft_spec(model).to_json())
    spec = filled_in(tmp_path / "spec.json", flip_pairs=[[0, 1]])  # 21 joints: pairs cannot be known
    assert spec.codec == "simcc"
    assert (spec.output_name, spec.output_name_y, spec.split_ratio) == expected
    assert spec.num_joints == 21
    with OnnxRuntimeSession(model, spec, threads=1) as session:  # the draft fits the graph
        x, y = session.run(np.zeros((2, 3, 64, 48), np.float32))
    assert (x.shape[2], y.shape[2]) == (48 * expected[2], 64 * expected[2])


def test_with_a_square_input_names_tell_x_from_y(tmp_path: Path) -> None:
    outputs = {"simcc_y": (17, 128), "simcc_x": (17, 128)}
    draft = draft_spec(write_model(tmp_path / "net.onnx", outputs, (1, 3, 64, 64)))
    assert (draft.values["output_name"], draft.values["output_name_y"]) == ("simcc_x", "simcc_y")
    assert any("output_name" in line for line in draft.assumed)


def test_of_several_heatmaps_the_last_is_taken_and_said(tmp_path: Path) -> None:
    outputs = {"first": (17, 16, 12), "second": (17, 16, 12), "count": (3,)}
    draft = draft_spec(write_model(tmp_path / "net.onnx", outputs))
    assert draft.values["output_name"] == "second"
    assert any("'first', 'second'" in line for line in draft.assumed)


def test_a_real_model(tinypose: Path, tinypose_spec: ModelSpec, tmp_path: Path) -> None:
    draft = draft_spec(tinypose)
    values = {**draft.values, "colour_order": "rgb", "mean": list(tinypose_spec.mean)}
    (tmp_path / "s.json").write_text(json.dumps({**values, "std": list(tinypose_spec.std)}))
    assert read_spec(tmp_path / "s.json") == tinypose_spec


def test_a_classifier_is_recognised(tmp_path: Path) -> None:
    model = write_model(tmp_path / "net.onnx", {"scores": (12,)}, ("n", 3, 224, 224))
    draft = draft_spec(model)
    assert list(draft.unknown) == list(GAPS)
    assert any("resize_short: 256" in line for line in draft.assumed)
    (tmp_path / "spec.json").write_text(draft.to_json())
    spec = filled_in(tmp_path / "spec.json")
    assert (spec.task, spec.num_classes, spec.resize_short) == ("classification", 12, 256)
    with OnnxRuntimeSession(model, spec, threads=1) as session:
        (logits,) = session.run(np.zeros((2, 3, 224, 224), np.float32))
    assert logits.shape == (2, 12)


@pytest.mark.parametrize(
    ("outputs", "input_shape", "message"),
    [
        ({"scores": (12,), "features": (64,)}, ("n", 3, 64, 48), "a classifier has one"),
        ({"points": (17, 2)}, ("n", 3, 64, 48), r"'points' \(N, 17, 2\).*SimCC"),
        ({"x": (17, 96), "y": (16, 128)}, ("n", 3, 64, 48), "SimCC"),  # not the same joints
        ({"maps": (17, 16, 12)}, ("n", 64, 48, 3), "channels last"),
        ({"maps": (17, 16, 12)}, ("n", 3, "h", "w"), "does not state its height"),
    ],
)
def test_what_is_neither_is_refused(
    tmp_path: Path, outputs: dict[str, Sequence[int]], input_shape: Sequence[int | str], message: str
) -> None:
    model = write_model(tmp_path / "net.onnx", outputs, input_shape)
    with pytest.raises(GraphError, match=message) as error:
        draft_spec(model)
    assert "net.onnx" in str(error.value)


def test_the_command_writes_a_file_that_is_refused_until_it_is_filled_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "net.onnx", {"maps": (17, 16, 12)})
    assert main(["spec", "init", str(model)]) == 0
    path = tmp_path / "net.json"
    said = capsys.readouterr().out
    for key in ("net.json", "colour_order", "mean", "std", "codec", "box_padding"):
        assert key in said
    assert json.loads(path.read_text())["unknown"] == list(GAPS)
    with pytest.raises(GraphError, match=r"net\.json: colour_order, mean, std are not known yet.*Fill in"):
        read_spec(path)
    deploy = ["deploy", str(model), "--spec", str(path), "--images", "a", "--annotations", "b"]
    assert main(deploy) == 1
    assert "Fill in" in capsys.readouterr().err

    filled_in(path)
    assert main(["spec", "init", str(model)]) == 1  # what was filled in is kept
    assert "-o FILE" in capsys.readouterr().err
    assert read_spec(path).colour_order == "bgr"
    assert main(["spec", "init", str(model), "-o", str(tmp_path / "other.json")]) == 0


def test_a_spec_inside_the_file_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(write_model(tmp_path / "net.onnx", {"maps": (17, 16, 12)}))
    spec = ModelSpec("known", input_wh=(48, 64), heatmap_wh=(12, 16), input_name="image", output_name="maps")
    helper.set_model_props(model, {"posedge.spec": spec.to_json()})
    onnx.save(model, tmp_path / "net.onnx")
    assert main(["spec", "init", str(tmp_path / "net.onnx")]) == 0
    assert read_spec(tmp_path / "net.json") == spec
    assert "To fill in" not in capsys.readouterr().out
