"""SimCC with an AP that is known: a trained network whose heatmaps become distributions inside its graph.

No trained SimCC model is at hand. The maximum of each column and of each row of PP-TinyPose's heatmaps, drawn
out to two bins a pixel, says the same as the heatmap where there is one peak: the AP has to come out near.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from posedge.benchmarks.accuracy import evaluate
from posedge.calibration.datasets import CocoPersons
from posedge.export.draft_spec import draft_spec
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.spec import ModelSpec

PERSONS, BINS = 64, 8  # bins for each pixel of a heatmap


def drawn_out(cells: int) -> np.ndarray:
    """(cells, BINS * cells): the cubic convolution of Keys (1981) through the cells; bin 8 i is cell i."""
    places = np.arange(BINS * cells) / BINS
    away = np.abs(places - np.arange(cells)[:, None])
    near, far = 1.5 * away**3 - 2.5 * away**2 + 1, -0.5 * away**3 + 2.5 * away**2 - 4 * away + 2
    return np.where(away <= 1, near, np.where(away < 2, far, 0)).astype(np.float32)


@pytest.fixture(scope="module")
def simcc(tinypose: Path, tinypose_spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = onnx.load(tinypose)
    width, height = tinypose_spec.heatmap_wh
    maps = tinypose_spec.output_name
    for name, axis, cells in (("simcc_x", 2, width), ("simcc_y", 3, height)):
        table = numpy_helper.from_array(drawn_out(cells), f"{name}_table")
        model.graph.initializer.append(table)
        model.graph.node.extend(
            [
                helper.make_node("ReduceMax", [maps], [f"{name}_cells"], axes=[axis], keepdims=0),
                helper.make_node("MatMul", [f"{name}_cells", table.name], [name]),
            ]
        )
        shape = ["n", tinypose_spec.num_joints, BINS * cells]
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    del model.graph.output[0]
    path = tmp_path_factory.mktemp("simcc") / "simcc.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.slow
def test_a_trained_network_keeps_its_ap(
    simcc: Path, tinypose: Path, tinypose_spec: ModelSpec, coco: Path
) -> None:
    draft = draft_spec(simcc).values
    assert (draft["codec"], draft["split_ratio"], draft["output_name_y"]) == ("simcc", 2.0, "simcc_y")
    persons = CocoPersons.load(coco / "val.json", coco / "images").take(PERSONS)
    with OnnxRuntimeSession(tinypose, tinypose_spec) as session:
        known = evaluate(session, persons).figures.ap
    assert known > 0.6
    spec = replace(tinypose_spec, codec="simcc", output_name="simcc_x", output_name_y="simcc_y")
    with OnnxRuntimeSession(simcc, spec) as session:
        for flip_test in (False, True):
            assert evaluate(session, persons, flip_test=flip_test).figures.ap == pytest.approx(
                known, abs=0.03
            )
