from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from posedge.calibration.placement import Placement, plan
from posedge.calibration.targets import TARGETS
from posedge.errors import CalibrationError
from posedge.export.graphs import load_graph


def graph(body: str, output: str = "float[n, 4, 8, 8] y", **constants: tuple[int, ...]) -> onnx.ModelProto:
    """A model from ONNX's text form; the keywords are shapes of float32 initializers."""
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> net (float[n, 4, 8, 8] x) => ({output}) {{ {body} }}'
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in constants.items()
    )
    return model


def edges(placement: Placement) -> list[tuple[str, int, str]]:
    return [(site.node, site.index, site.tensor) for site in placement.inputs]


KERNEL = {"w": (4, 4, 1, 1), "v": (4, 4, 1, 1)}


def test_convolutions_read_int8_and_their_outputs_stay_float() -> None:
    placement = plan(graph("a = Conv(x, w, b) r = Relu(a) y = Conv(r, v)", **KERNEL, b=(4,)))
    assert edges(placement) == [("a", 0, "x"), ("y", 0, "r")], "no Q between Conv and Relu, none on the bias"
    assert [(site.tensor, site.axis) for site in placement.weights] == [("w", 0), ("v", 0)]
    assert placement.activations == ("x", "r")
    assert not placement.residual_adds
    assert not placement.float_layers


def test_only_the_shortcut_of_a_residual_add_is_quantised_and_shared() -> None:
    placement = plan(graph("r = Relu(x) a = Conv(r, w) y = Add(a, r)", **KERNEL))
    assert edges(placement) == [("a", 0, "r"), ("y", 1, "r")]
    assert placement.activations == ("r",)
    assert placement.residual_adds == ("y",)


def test_a_bias_that_is_a_node_belongs_to_the_branch() -> None:
    placement = plan(graph("a = Conv(x, w) c = Add(a, b) y = Add(x, c)", **KERNEL, b=(1, 4, 1, 1)))
    assert edges(placement) == [("a", 0, "x"), ("y", 0, "x")]
    assert placement.residual_adds == ("y",), "the bias is no residual"


def test_of_two_convolutions_the_shorter_way_is_the_shortcut() -> None:
    body = "a = Conv(x, w) r = Relu(a) c = Conv(r, v) d = Conv(x, u)"
    for add, index in (("y = Add(c, d)", 1), ("y = Add(d, c)", 0)):
        placement = plan(graph(f"{body} {add}", **KERNEL, u=(4, 4, 1, 1)))
        assert edges(placement)[-1] == ("y", index, "d")


# an Add of these operands has no convolution to fuse with
NOT_RESIDUAL = [
    "r = Relu(x) a = Conv(r, w) s = Relu(a) y = Add(s, r)",  # an activation lies between
    "r = Relu(x) y = Add(r, x)",
    "r = Relu(x) y = Add(r, r)",
    "a = Conv(x, w) s = Sigmoid(a) m = Mul(a, s) y = Add(a, x)",  # the branch has a second reader
]


@pytest.mark.parametrize("body", NOT_RESIDUAL)
def test_other_adds_stay_float(body: str) -> None:
    placement = plan(graph(body, w=(4, 4, 1, 1)))
    assert not placement.residual_adds
    assert all(site.operator != "Add" for site in placement.inputs)


# groups of 32 channels, channels of a group, whether TensorRT runs it in INT8; the others run every grouping
GROUPINGS = [
    (32, (32, 1, 3, 3), True),  # depthwise
    (32, (64, 1, 3, 3), False),  # two outputs for each input
    (16, (32, 2, 3, 3), False),
    (8, (32, 4, 3, 3), True),
    (8, (16, 4, 3, 3), False),  # two outputs in a group
    (4, (32, 8, 3, 3), True),
]


@pytest.mark.parametrize(("groups", "shape", "by_tensorrt"), GROUPINGS)
def test_grouped_convolutions_by_what_the_target_can_do(groups, shape, by_tensorrt) -> None:
    model = graph(
        f"k = Concat <axis = 1> (x, x, x, x, x, x, x, x) y = Conv <group = {groups}> (k, w)",
        f"float[n, {shape[0]}, 6, 6] y",
        w=shape,
    )
    for target in TARGETS:
        placement = plan(model, target)
        if target != "tensorrt" or by_tensorrt:
            assert [(site.tensor, site.axis) for site in placement.weights] == [("w", 0)]
        else:
            assert not placement.inputs
            (left,) = placement.float_layers
            assert f"its {groups} groups have {shape[1]} input and {shape[0] // groups} output" in left.reason


def test_transposed_convolutions_have_one_scale_for_tensorrt_and_stay_float_for_others() -> None:
    model = graph("t = ConvTranspose(x, w) y = Conv(t, v)", **KERNEL)
    assert plan(model) == plan(model, "tensorrt-rtx")
    for target in ("tensorrt-rtx", "onnxruntime"):
        placement = plan(model, target)
        (left,) = placement.float_layers
        assert (left.node, left.operator) == ("t", "ConvTranspose")
        assert left.reason == f"{target} never runs it in INT8"
        assert edges(placement) == [("y", 0, "t")]
    placement = plan(model, "tensorrt")
    assert edges(placement) == [("t", 0, "x"), ("y", 0, "t")]
    assert [(site.tensor, site.axis) for site in placement.weights] == [("w", None), ("v", 0)]


def test_a_shortcut_is_quantised_only_where_the_add_joins_the_convolution() -> None:
    model = graph("r = Relu(x) a = Conv(r, w) y = Add(a, r)", **KERNEL)
    assert plan(model, "tensorrt").residual_adds == ("y",)
    placement = plan(model, "onnxruntime")
    assert not placement.residual_adds
    assert edges(placement) == [("a", 0, "r")]
    assert [layer.node for layer in placement.float_layers] == ["y"]


def test_an_unknown_target_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(CalibrationError, match="'tpu'; there are tensorrt, tensorrt-rtx, onnxruntime"):
        plan(graph("y = Conv(x, w)", **KERNEL), "tpu")


def test_layers_stay_in_float_by_request() -> None:
    model = graph("a = Conv(x, w) r = Relu(a) c = Conv(r, v) y = Add(c, x)", **KERNEL)
    placement = plan(model, keep_float=("c", "y"))
    assert edges(placement) == [("a", 0, "x")]
    assert [site.tensor for site in placement.weights] == ["w"]
    assert not placement.residual_adds
    assert [(layer.node, layer.reason) for layer in placement.float_layers] == [
        ("c", "kept in float by request"),
        ("y", "kept in float by request"),
    ]


# a Relu is no layer that could be quantised; what is close to a wrong name comes first
@pytest.mark.parametrize(
    ("name", "message"),
    [("r", "'r' is no layer .* there are 2: 'stem', 'y'"), ("sten", "'sten' .* there are 2: 'stem', ...")],
)
def test_a_name_to_keep_in_float_that_is_no_layer_is_refused(name: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        plan(graph("stem = Conv(x, w) r = Relu(stem) y = Conv(r, v)", **KERNEL), keep_float=("y", name))


# body, initializers, axis of the weight's scales: output channels lie on axis 0 or the scale is one number
DENSE = [
    ("f = Flatten(x) y = Gemm <transB = 1> (f, w, b)", {"w": (5, 256), "b": (5,)}, 0),
    ("f = Flatten(x) y = Gemm(f, w, b)", {"w": (256, 5), "b": (5,)}, None),
    ("f = Flatten(x) y = MatMul(f, w)", {"w": (256, 5)}, None),
]


@pytest.mark.parametrize(("body", "constants", "axis"), DENSE)
def test_dense_layers_never_have_scales_on_axis_1(body, constants, axis) -> None:
    placement = plan(graph(body, "float[n, 5] y", **constants))
    assert edges(placement) == [("y", 0, "f")]
    assert [(site.index, site.tensor, site.axis) for site in placement.weights] == [(1, "w", axis)]


def test_a_product_of_two_activations_reads_both_in_int8() -> None:
    placement = plan(graph("r = Relu(x) y = MatMul(r, x)"))
    assert edges(placement) == [("y", 0, "r"), ("y", 1, "x")]
    assert not placement.weights


# a layer that cannot be quantised, and why
IMPOSSIBLE = [
    ("k = Relu(w) y = Conv(x, k)", {"w": (4, 4, 1, 1)}, "computed"),
    ("k = Relu(x) y = MatMul(k, w)", {"w": (8,)}, "vector"),
    ("k = MatMul(v, w) y = Add(x, k)", {"v": (8, 8), "w": (8, 8)}, "both inputs are constants"),
]


@pytest.mark.parametrize(("body", "constants", "reason"), IMPOSSIBLE)
def test_what_cannot_be_quantised_is_listed_with_its_reason(body, constants, reason) -> None:
    placement = plan(graph(body, **constants))
    assert not placement.inputs
    assert not placement.weights
    assert reason in placement.float_layers[0].reason


def test_layers_without_a_range_leave_the_plan_whole() -> None:
    body = "a = Conv(x, w) r = Relu(a) c = Conv(r, v) y = Add(c, x)"
    placement = plan(graph(body, **KERNEL)).without({"r": "it was zero on every crop"})
    assert edges(placement) == [("a", 0, "x"), ("y", 1, "x")]
    assert [site.tensor for site in placement.weights] == ["w"], "its weights stay float too"
    assert placement.residual_adds == ("y",)
    (left,) = placement.float_layers
    assert (left.node, left.operator) == ("c", "Conv")
    assert left.reason == "its input 'r': it was zero on every crop"


def test_planning_changes_nothing() -> None:
    model = graph("a = Conv(x, w) y = Relu(a)", w=(4, 4, 1, 1))
    before = model.SerializeToString(deterministic=True)
    assert plan(model) == plan(model)
    assert model.SerializeToString(deterministic=True) == before


def test_an_exported_residual_network(residual_net: Path) -> None:
    model = load_graph(residual_net)
    placement = plan(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(placement.weights) == len(convolutions) == 9
    assert len(placement.residual_adds) == 3
    assert [layer.operator for layer in placement.float_layers] == ["ConvTranspose"]
    # nine convolutions and three Adds read nine tensors: two share with a shortcut, two read one tensor
    assert len(placement.inputs) == 12
    assert len(placement.activations) == 9
