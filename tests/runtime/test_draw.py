"""Skeletons in pictures: where they are, what is left out, and that no input makes it fail."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posedge.errors import DataError
from posedge.runtime.draw import draw_poses

LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_ELBOW, RIGHT_ELBOW = 5, 6, 7, 8


@pytest.fixture
def canvas() -> np.ndarray:
    return np.full((120, 160, 3), 40, np.uint8)


def arms() -> tuple[np.ndarray, np.ndarray]:
    """One person of whom shoulders and elbows are seen."""
    keypoints = np.zeros((1, 17, 2), np.float32)
    keypoints[0, [LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_ELBOW, RIGHT_ELBOW]] = (
        [100, 20],
        [40, 20],
        [100, 90],
        [40, 90],
    )
    scores = np.zeros((1, 17), np.float32)
    scores[0, LEFT_SHOULDER : RIGHT_ELBOW + 1] = 0.9
    return keypoints, scores


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(axis=2)


def test_limbs_join_their_joints_and_the_input_is_untouched(canvas: np.ndarray) -> None:
    original = canvas.copy()
    drawn = draw_poses(canvas, *arms())
    assert np.array_equal(canvas, original)
    assert drawn.dtype == np.uint8
    assert drawn.shape == canvas.shape
    where = changed(canvas, drawn)
    assert where[20, 70]
    assert where[55, 100]
    assert where[55, 40]
    assert not where[55, 70]
    assert not where[105:].any()
    assert not where[:, 120:].any()


def test_left_right_and_middle_have_their_colours(canvas: np.ndarray) -> None:
    drawn = draw_poses(canvas, *arms()).astype(int)
    left, right, middle = drawn[55, 100], drawn[55, 40], drawn[20, 70]
    assert left.argmax() == 0
    assert right.argmax() == 2
    assert middle.argmax() == 1


def test_joints_below_the_threshold_are_left_out(canvas: np.ndarray) -> None:
    keypoints, scores = arms()
    scores[0, LEFT_ELBOW] = 0.29
    where = changed(canvas, draw_poses(canvas, keypoints, scores, threshold=0.3))
    assert where[55, 40]
    assert not where[55, 100]
    assert not where[90, 100]
    assert not changed(canvas, draw_poses(canvas, keypoints, scores, threshold=0.95)).any()


def test_positions_and_scores_that_are_nan_are_left_out(canvas: np.ndarray) -> None:
    keypoints, scores = arms()
    keypoints[0, LEFT_ELBOW, 1] = np.nan
    scores[0, RIGHT_ELBOW] = np.nan
    where = changed(canvas, draw_poses(canvas, keypoints, scores))
    assert where[20, 70]
    assert not where[40:].any()


def test_the_part_inside_the_image_is_drawn(canvas: np.ndarray) -> None:
    keypoints, scores = arms()
    keypoints[0, LEFT_ELBOW] = (100, 1e6)
    assert changed(canvas, draw_poses(canvas, keypoints, scores))[119, 100]


def test_edges_are_smooth(canvas: np.ndarray) -> None:
    keypoints, scores = arms()
    keypoints[0, LEFT_ELBOW] = (120, 90)
    blue = draw_poses(canvas, keypoints, scores)[55, 100:120, 0]
    assert set(blue.tolist()) - {40, 255}  # something in between background and limb


def test_boxes_are_outlined(canvas: np.ndarray) -> None:
    keypoints, scores = arms()
    boxes = np.array([[10, 10, 150, 110]], np.float32)
    where = changed(canvas, draw_poses(canvas, keypoints, scores, boxes))
    assert where[10, 80]
    assert where[110, 80]
    assert where[60, 10]
    assert where[60, 150]
    assert not where[60, 70]


def test_other_joint_counts_are_dots(canvas: np.ndarray) -> None:
    keypoints = np.array([[[30, 30], [120, 90]]], np.float32)
    where = changed(canvas, draw_poses(canvas, keypoints, np.ones((1, 2), np.float32)))
    assert where[30, 30]
    assert where[90, 120]
    assert not where[60, 75]


def test_nobody_changes_nothing(canvas: np.ndarray) -> None:
    drawn = draw_poses(canvas, np.zeros((0, 17, 2)), np.zeros((0, 17)), np.zeros((0, 4)))
    assert np.array_equal(drawn, canvas)
    assert drawn is not canvas


@pytest.mark.parametrize(
    ("keypoints", "scores", "boxes"),
    [
        (np.zeros((17, 2)), np.zeros((1, 17)), None),  # a person without the first axis
        (np.zeros((1, 17, 3)), np.zeros((1, 17)), None),  # scores inside the keypoints
        (np.zeros((2, 17, 2)), np.zeros((1, 17)), None),  # another number of persons
        (np.zeros((1, 17, 2)), np.zeros((1, 17)), np.zeros((2, 4))),  # another number of boxes
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    canvas: np.ndarray, keypoints: np.ndarray, scores: np.ndarray, boxes: np.ndarray | None
) -> None:
    with pytest.raises(DataError):
        draw_poses(canvas, keypoints, scores, boxes)


anything = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(anything, anything, anything), min_size=17, max_size=17))
def test_no_position_makes_it_fail(joints: list[tuple[float, float, float]]) -> None:
    image = np.zeros((24, 32, 3), np.uint8)
    person = np.array([joints], np.float32)
    boxes = person[:, :2, :2].reshape(1, 4)
    drawn = draw_poses(image, person[..., :2], person[..., 2], boxes)
    assert drawn.shape == image.shape
