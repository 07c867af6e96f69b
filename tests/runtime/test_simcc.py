"""SimCC: distributions whose answer is known, the flip test, and a small network from image to joints."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from posedge.errors import GraphError
from posedge.runtime.heatmaps import decode
from posedge.runtime.joints import find_joints
from posedge.runtime.pose import PoseEstimator
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.simcc import decode_simcc, merge_flip_simcc
from posedge.runtime.spec import ModelSpec

WIDTH, HEIGHT = 48, 64
inner_point = st.tuples(st.floats(0, WIDTH - 1), st.floats(0, HEIGHT - 1))
ratios = st.sampled_from([1.0, 2.0, 3.0])


def encode(points, ratio=2.0, sigma=6.0):
    """One person's distributions x (1, K, W * ratio) and y (1, K, H * ratio), a peak of 1 at each point."""
    bins = [np.arange(round(side * ratio)) for side in (WIDTH, HEIGHT)]
    places = np.asarray(points, float).T[:, :, None] * ratio
    x, y = (np.exp(-((b - p) ** 2) / (2 * sigma**2)) for b, p in zip(bins, places, strict=True))
    return x[None].astype(np.float32), y[None].astype(np.float32)


@settings(deadline=None, max_examples=100)
@given(points=st.lists(inner_point, min_size=1, max_size=5), ratio=ratios)
def test_encoded_points_come_back_to_half_a_bin(points, ratio):
    keypoints, scores = decode_simcc(*encode(points, ratio), ratio)
    assert keypoints.dtype == scores.dtype == np.float32
    # at the far side a peak beyond the last bin is seen in it
    assert np.abs(keypoints[0] - points).max() <= 0.5 / ratio + 1e-4
    assert (scores > 0.98).all()


@settings(deadline=None, max_examples=50)
@given(points=st.lists(inner_point, min_size=5, max_size=5), shuffled=st.permutations(range(5)))
def test_the_flip_test_gives_back_what_was_mirrored(points, shuffled):
    """What a perfect network says of the mirrored image, turned back, is what it says of the image."""
    pairs = [tuple(shuffled[:2]), tuple(shuffled[2:4])]
    x, y = encode(points)
    swapped = np.arange(5)
    for left, right in pairs:
        swapped[[left, right]] = right, left
    merged_x, merged_y = merge_flip_simcc((x, y), (x[..., ::-1][:, swapped], y[:, swapped]), pairs)
    np.testing.assert_array_equal(merged_x, x)
    np.testing.assert_array_equal(merged_y, y)


def test_merging_is_the_mean_and_only_x_is_turned():
    x, y = np.array([[[1.0, 0, 0, 0]]], np.float32), np.array([[[1.0, 0, 0]]], np.float32)
    merged_x, merged_y = merge_flip_simcc((x, y), (x, y), [])
    assert merged_x.tolist() == [[[0.5, 0, 0, 0.5]]]
    assert merged_y.tolist() == [[[1, 0, 0]]]


@pytest.mark.parametrize(
    ("x", "y", "point", "score"),
    [
        ([0, 0.4, 0.2], [0.1, 0, 0.9], (0.5, 1), 0.4),  # the lower of the two maxima
        ([0, 0.9, 0.2], [0.3, 0, 0], (0.5, 0), 0.3),
        ([0.5, 0.5, 0.1], [0, 0.7, 0.7], (0, 0.5), 0.5),  # the first of equal maxima
        ([0, 0, 0], [0, 1, 0], (-0.5, -0.5), 0),  # nothing along x: not found
        ([0, 1, 0], [-3, -2, -4], (-0.5, -0.5), -2),
    ],
)
def test_rules_of_the_maximum(x, y, point, score):
    keypoints, scores = decode_simcc(np.array([[x]], np.float32), np.array([[y]], np.float32), 2.0)
    assert keypoints[0, 0].tolist() == list(point)
    assert scores[0, 0] == pytest.approx(score)


def test_float16_distributions_and_nobody():
    keypoints, scores = decode_simcc(*(half.astype(np.float16) for half in encode([(20, 30)])), 2.0)
    assert keypoints.tolist() == [[[20, 30]]]
    assert keypoints.dtype == scores.dtype == np.float32
    keypoints, scores = decode_simcc(np.zeros((0, 5, 96)), np.zeros((0, 5, 128)), 2.0)
    assert (keypoints.shape, scores.shape) == ((0, 5, 2), (0, 5))


def test_joints_land_in_the_image():
    """The crop shows the rectangle from (10, 20) to (106, 148): two image pixels for one of the input."""
    spec = ModelSpec("s", input_wh=(WIDTH, HEIGHT), codec="simcc", num_joints=1, flip_pairs=())
    centre, scale = np.array([[58, 84]], np.float32), np.array([[96, 128]], np.float32)
    keypoints, _ = find_joints(encode([(12.5, 40)]), None, spec, centre, scale)
    np.testing.assert_allclose(keypoints, [[[10 + 25, 20 + 80]]], atol=1e-4)


def test_distributions_are_not_read_as_heatmaps():
    spec = ModelSpec("s", codec="simcc")
    with pytest.raises(GraphError, match="simcc"):
        decode(np.zeros((1, 17, 64, 48), np.float32), spec)


# --- a network from image to joints ----------------------------------------------------------------------

# joint 0 sees the sum of all colours, joint 1 blue, joint 2 red (RGB input)
SPEC = ModelSpec(
    name="profiles",
    input_wh=(WIDTH, HEIGHT),
    mean=(0.0, 0.0, 0.0),
    std=(255.0, 255.0, 255.0),
    codec="simcc",
    num_joints=3,
    flip_pairs=((1, 2),),
    box_padding=1.0,
    output_name="simcc_x",
    output_name_y="simcc_y",
)
SEES = np.array([[1 / 3, 1 / 3, 1 / 3], [0, 0, 1], [1, 0, 0]], np.float32)
BOX = (0.0, 0.0, 96.0, 128.0)  # 2 pixels of the image are one of the input and two bins


def between(side: int) -> np.ndarray:
    """(side, 2 * side): values of a line of pixels and half-way between them."""
    weights = np.zeros((side, 2 * side), np.float32)
    for index in range(side):
        weights[index, 2 * index] = 1
        weights[index, 2 * index - 1] = weights[index, min(2 * index + 1, 2 * side - 1)] = 0.5
    weights[0, -1] = 0
    return weights


def profile_network(first: str = "simcc_x") -> bytes:
    """The brightest pixel of each column and of each row, after a blur."""
    nodes = [
        helper.make_node("Conv", ["input", "colours"], ["seen"]),
        helper.make_node("AveragePool", ["seen"], ["blurred"], kernel_shape=[5, 5], pads=[2] * 4),
        helper.make_node("ReduceMax", ["blurred"], ["columns"], axes=[2], keepdims=0),
        helper.make_node("ReduceMax", ["blurred"], ["rows"], axes=[3], keepdims=0),
        helper.make_node("MatMul", ["columns", "wx"], ["simcc_x"]),
        helper.make_node("MatMul", ["rows", "wy"], ["simcc_y"]),
    ]
    sizes = {"simcc_x": 2 * WIDTH, "simcc_y": 2 * HEIGHT}
    order = sorted(sizes, key=lambda name: name != first)
    graph = helper.make_graph(
        nodes,
        "profiles",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, sizes[name]]) for name in order],
        [
            numpy_helper.from_array(SEES[:, :, None, None], "colours"),
            numpy_helper.from_array(between(WIDTH), "wx"),
            numpy_helper.from_array(between(HEIGHT), "wy"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def image_with(x: int, y: int, colour: tuple[int, int, int]) -> np.ndarray:
    image = np.zeros((128, 192, 3), np.uint8)
    image[y - 4 : y + 5, x - 4 : x + 5] = colour
    return image


@pytest.mark.parametrize("first", ["simcc_x", "simcc_y"])
def test_a_session_returns_both_outputs_in_the_specs_order(first: str) -> None:
    with OnnxRuntimeSession(profile_network(first), SPEC, threads=1) as session:
        for persons in (0, 2):
            x, y = session.run(np.ones((persons, 3, HEIGHT, WIDTH), np.float32))
            assert (x.shape, y.shape) == ((persons, 3, 96), (persons, 3, 128))
            assert x.dtype == y.dtype == np.float32


def test_an_estimator_finds_spots_with_and_without_the_flip_test() -> None:
    session = OnnxRuntimeSession(profile_network(), SPEC, threads=1)
    with PoseEstimator.from_session(session) as plain:
        keypoints, scores = plain(image_with(30, 40, (255, 255, 255)), [BOX])
        np.testing.assert_allclose(keypoints[0], [(30, 40)] * 3, atol=2)
        assert (scores > 0.5).all()
        blue = image_with(60, 100, (255, 0, 0))
        before, full = plain(blue, [BOX])
        assert full[0, 2] == 0
        with PoseEstimator.from_session(session, flip_test=True) as flipped:
            keypoints, scores = flipped(blue, [BOX])
    # blue is joint 1 as it stands and joint 2 in the mirror: each gets half of it at the same place
    np.testing.assert_allclose(scores[0, 1:], full[0, 1] / 2, rtol=0.02)
    np.testing.assert_allclose(keypoints[0, 1:], before[0, [1, 1]], atol=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_name_y": "other"}, "'other'.*'simcc_x', 'simcc_y'"),
        ({"split_ratio": 3.0}, "num_joints or input_wh or split_ratio"),
        ({"num_joints": 17}, "simcc_x"),
        ({"codec": "msra"}, "3 dimensions"),
    ],
)
def test_graphs_that_contradict_the_spec(changes: dict[str, object], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        OnnxRuntimeSession(profile_network(), dataclasses.replace(SPEC, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split_ratio": 0.0}, "split_ratio"),
        ({"split_ratio": float("nan")}, "split_ratio"),
        ({"output_name_y": "simcc_x"}, "two outputs"),
    ],
)
def test_specs_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        dataclasses.replace(SPEC, **changes)
