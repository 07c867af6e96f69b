"""Boxes: formats, checks, and the crop rectangle that a box becomes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posedge.errors import DataError
from posedge.runtime.boxes import (
    boxes_to_centre_scale,
    check_boxes,
    clip_boxes,
    xywh_to_xyxy,
    xyxy_to_xywh,
)

IMAGE_WH = (640, 480)

pixel = st.integers(-2000, 2000).map(lambda quarter: quarter / 4)
side = st.integers(1, 4000).map(lambda quarter: quarter / 4)
boxes_xywh = st.lists(st.tuples(pixel, pixel, side, side), min_size=1, max_size=5)


@settings(deadline=None, max_examples=50)
@given(boxes_xywh)
def test_formats_round_trip(boxes):
    # quarters of pixels are exact in float32
    np.testing.assert_array_equal(xyxy_to_xywh(xywh_to_xyxy(boxes)), boxes)


def test_formats_of_no_boxes():
    assert xywh_to_xyxy(np.zeros((0, 4))).shape == (0, 4)
    assert xyxy_to_xywh(np.zeros((0, 4))).shape == (0, 4)


@pytest.mark.parametrize(
    "box",
    [
        [10, 20, 30, 40],  # inside
        [-50, -50, 1, 1],  # over the upper left corner
        [639.5, 479.5, 900, 900],  # over the lower right corner
        [-100, -100, 800, 800],  # all around the image
    ],
)
def test_usable_boxes_pass_unchanged(box):
    checked = check_boxes([box], IMAGE_WH)
    assert checked.dtype == np.float32
    np.testing.assert_array_equal(checked, [box])


@pytest.mark.parametrize("empty", [[], np.zeros((0, 4)), np.zeros((0, 4), np.int64)])
def test_no_boxes_are_fine(empty):
    checked = check_boxes(empty, IMAGE_WH)
    assert checked.shape == (0, 4)
    assert checked.dtype == np.float32


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([np.nan, 0, 10, 10], "box 1 .*nan.* finite"),
        ([0, 0, np.inf, 10], "box 1 .*inf.* finite"),
        ([0, 0, 1e300, 10], "box 1 .* finite"),  # not a float32
        ([0, 0, 1e30, 10], "box 1 .* too large"),
        ([10, 10, 10, 50], "box 1 .* no area"),  # no width
        ([10, 50, 20, 50], "box 1 .* no area"),  # no height
        ([30, 10, 20, 50], "box 1 .* no area"),  # right of its own right edge: xywh given as xyxy
        ([640, 10, 700, 50], "box 1 .* outside its image of 640x480"),
        ([10, 480, 20, 500], "box 1 .* outside"),
        ([-20, 10, 0, 50], "box 1 .* outside"),
        ([10, -20, 20, 0], "box 1 .* outside"),
    ],
)
def test_bad_boxes_are_named_by_index(box, message):
    with pytest.raises(DataError, match=message):
        check_boxes([[0, 0, 10, 10], box, [np.nan] * 4], IMAGE_WH)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([1, 2, 3, 4], r"shape \(4,\), not \(N, 4\)"),
        ([[1, 2, 3]], r"shape \(1, 3\)"),
        (np.zeros((0, 5)), r"shape \(0, 5\)"),
        (np.ones((1, 1, 4)), r"shape \(1, 1, 4\)"),
        ([["a", "b", "c", "d"]], "must be numbers"),
        ([[1, 2, 3, 4], [1, 2]], "must be numbers"),  # ragged
        (None, "must be numbers|shape"),
    ],
)
def test_bad_shapes_are_refused(boxes, message):
    with pytest.raises(DataError, match=message):
        check_boxes(boxes, IMAGE_WH)


def test_clipping_stops_at_the_border_pixels():
    clipped = clip_boxes([[-5, -5, 700, 500], [10, 20, 30, 40]], IMAGE_WH)
    np.testing.assert_array_equal(clipped, [[0, 0, 639, 479], [10, 20, 30, 40]])


@settings(deadline=None, max_examples=50)
@given(boxes_xywh, st.sampled_from([(192, 256), (288, 384), (256, 256)]), st.floats(1, 2))
def test_crop_rectangle_contains_the_padded_box_and_touches_it(boxes, input_wh, padding):
    xyxy = xywh_to_xyxy(boxes)
    centre, scale = boxes_to_centre_scale(xyxy, input_wh, padding)
    assert centre.dtype == scale.dtype == np.float32
    np.testing.assert_allclose(centre, (xyxy[:, :2] + xyxy[:, 2:]) / 2, atol=1e-3)
    np.testing.assert_allclose(scale[:, 0] / scale[:, 1], input_wh[0] / input_wh[1], rtol=1e-5)
    surplus = scale / ((xyxy[:, 2:] - xyxy[:, :2]) * padding)
    np.testing.assert_allclose(surplus.min(axis=1), 1, rtol=1e-5)


def test_crop_rectangle_of_a_tall_and_of_a_wide_box():
    centre, scale = boxes_to_centre_scale(np.array([[0, 0, 10, 80], [0, 0, 60, 8.0]]), (192, 256), 1.25)
    np.testing.assert_array_equal(centre, [[5, 40], [30, 4]])
    np.testing.assert_array_equal(scale, [[75, 100], [75, 100]])
