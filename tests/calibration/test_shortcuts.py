"""Ranges of residual shortcuts: what the Relu after the Add removes has no say."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from posedge.calibration.calibrate import calibrate
from posedge.calibration.placement import plan
from posedge.calibration.recipe import Recipe
from posedge.calibration.shortcuts import rectified_shortcuts, surviving

NET = """
    <ir_version: 8, opset_import: ["": 17]>
    net (float[n, 3, 8, 8] input) => (OUTPUTS)
    {
        inner = Conv(input, w1) positive = Relu(inner) branch = Conv(positive, w2)
        shortcut = Conv(input, w3)
        sum = Add(branch, shortcut) rectified = ACTIVATION(sum) heatmaps = Conv(rectified, w4)
    }
"""


def net(path: Path, activation: str = "Relu", also: str = "") -> Path:
    """A residual block with a shortcut of its own, whose values lie about -5 with a deviation of 2."""
    outputs = "float[n, 2, 8, 8] heatmaps" + (f", float[n, 4, 8, 8] {also}" if also else "")
    model = parser.parse_model(NET.replace("ACTIVATION", activation).replace("OUTPUTS", outputs))
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 1, 1), "w2": (4, 4, 1, 1), "w3": (4, 3, 1, 1), "w4": (2, 4, 1, 1)}
    model.graph.initializer.extend(
        numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)
        for name, shape in shapes.items()
    )
    bias = numpy_helper.from_array(np.full(4, -5, np.float32), "bias")
    model.graph.initializer.append(bias)
    next(node for node in model.graph.node if node.output[0] == "shortcut").input.append("bias")
    onnx.save(model, path)
    return path


def crops() -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    return [rng.normal(0, 4, (4, 3, 8, 8)).astype(np.float32) for _ in range(4)]


NUMBERS = st.lists(st.tuples(*[st.floats(-1e3, 1e3, width=32)] * 2), min_size=1, max_size=20)


@given(NUMBERS)
def test_what_survives_makes_the_same_rectified_sum(pairs: list[tuple[float, float]]) -> None:
    shortcut, branch = np.array(pairs, np.float32).T
    kept = surviving(shortcut, branch)
    assert np.array_equal(np.maximum(branch + kept, 0), np.maximum(branch + shortcut, 0))
    assert (np.abs(kept) <= np.abs(shortcut)).all()


def test_a_broadcast_branch_leaves_all_of_the_shortcut() -> None:
    shortcut = np.array([[-3.0, 2.0]], np.float32)
    assert surviving(shortcut, np.ones((1, 1), np.float32)) is shortcut


def test_the_range_holds_what_the_relu_lets_through(tmp_path: Path) -> None:
    plain = Recipe("minmax", equalized=False)
    rectified = calibrate(net(tmp_path / "relu.onnx"), crops(), plain).table.tensors["shortcut"]
    whole = calibrate(net(tmp_path / "tanh.onnx", "Tanh"), crops(), plain).table.tensors["shortcut"]
    assert rectified.maximum == whole.maximum
    assert whole.minimum < -8
    assert -3 < rectified.minimum < 0
    assert rectified.amax < 0.5 * whole.amax


def test_only_a_downsampling_shortcut_has_something_to_lose(residual_net: Path) -> None:
    model = onnx.load(residual_net)
    found = rectified_shortcuts(model, plan(model))
    assert len(found) == 1, "the other two shortcuts are rectified before"
    shortcut, branch = next(iter(found.items()))
    add = next(node for node in model.graph.node if node.op_type == "Add" and shortcut in node.input)
    assert set(add.input) == {shortcut, branch}


@pytest.mark.parametrize("also", ["shortcut", "sum"])
def test_a_tensor_with_another_reader_keeps_its_range(also: str, tmp_path: Path) -> None:
    model = onnx.load(net(tmp_path / "net.onnx", also=also))
    assert rectified_shortcuts(model, plan(model)) == {}
    alone = onnx.load(net(tmp_path / "alone.onnx"))
    assert rectified_shortcuts(alone, plan(alone)) == {"shortcut": "branch"}
