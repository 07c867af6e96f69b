"""A small network that finds a white dot, and pictures with one dot a person: its AP is 1."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from posedge.calibration.datasets import CocoPersons
from posedge.runtime.images import write_png
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.spec import ModelSpec

JOINTS = 17
DOTS = {1: [(60, 70)], 2: [(50, 90), (150, 100)], 3: [(100, 60)]}  # image id to one dot for each person
BOX_WH = (60, 100)


@pytest.fixture(scope="session")
def dot_spec() -> ModelSpec:
    return ModelSpec(name="dots", input_wh=(48, 64), heatmap_wh=(12, 16), mean=(0, 0, 0), std=(255, 255, 255))


@pytest.fixture(scope="session")
def dot_network(dot_spec: ModelSpec) -> bytes:
    """Every output map is the mean of 4x4 pixels and three channels: its maximum is at the dot."""
    weight = np.full((JOINTS, 3, 4, 4), 1 / 48, np.float32)
    width, height = dot_spec.input_wh
    shape = ["n", JOINTS, height // 4, width // 4]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "weight"], ["heatmaps"], strides=[4, 4])],
        "dots",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, height, width])],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture
def dot_session(dot_network: bytes, dot_spec: ModelSpec) -> Iterator[OnnxRuntimeSession]:
    with OnnxRuntimeSession(dot_network, dot_spec, threads=1) as session:
        yield session


def person(annotation_id: int, image_id: int, dot: tuple[int, int], **changes: Any) -> dict[str, Any]:
    """An annotation whose joints all lie on ``dot``, in the middle of its box."""
    (x, y), (width, height) = dot, BOX_WH
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [x - width / 2, y - height / 2, width, height],
        "area": 1e5,  # large, so that a quarter of a heatmap pixel more or less is still right
        "keypoints": [x, y, 2] * JOINTS,
        "num_keypoints": JOINTS,
        **changes,
    }


@pytest.fixture
def write_annotations(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    """Write annotations of the three dotted images to a COCO file."""

    def write(annotations: list[dict[str, Any]]) -> Path:
        document = {
            "images": [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 160} for i in DOTS],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "person", "keypoints": [f"joint {i}" for i in range(JOINTS)]}],
        }
        path = tmp_path / "dots.json"
        path.write_text(json.dumps(document))
        return path

    return write


@pytest.fixture
def dots(tmp_path: Path, write_annotations: Callable[[list[dict[str, Any]]], Path]) -> CocoPersons:
    """Three pictures with four persons."""
    annotations = []
    for image_id, places in DOTS.items():
        image = np.zeros((160, 200, 3), np.uint8)
        for x, y in places:
            image[y - 3 : y + 4, x - 3 : x + 4] = 255
            annotations.append(person(len(annotations), image_id, (x, y)))
        write_png(tmp_path / f"{image_id}.png", image)
    return CocoPersons.load(write_annotations(annotations), tmp_path)
