"""Warp, pack, normalise: with OpenCV and without, the conventions, and what is refused."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posedge.errors import DataError
from posedge.runtime.boxes import boxes_to_centre_scale
from posedge.runtime.preprocess import Preprocessor, warp_crop, warp_matrix
from posedge.runtime.spec import ModelSpec

SPEC = ModelSpec("test", input_wh=(48, 64), mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 8.0))
# no padding, and a box of the input's aspect and size: the crop is the box, pixel by pixel
EXACT = ModelSpec("exact", input_wh=(48, 64), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), box_padding=1.0)


@pytest.fixture(params=["opencv", "numpy"])
def warper(request, monkeypatch):
    """Each test that asks for it runs with OpenCV and as if OpenCV were not installed."""
    if request.param == "numpy":
        monkeypatch.setitem(sys.modules, "cv2", None)
    else:
        pytest.importorskip("cv2")
    return request.param


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_a_box_of_the_input_size_is_copied(warper):
    image = noise(100, 90)
    crops = Preprocessor(EXACT)(image, [[20, 10, 68, 74]])
    expected = image[10:74, 20:68, ::-1].transpose(2, 0, 1)
    np.testing.assert_array_equal(crops.batch, expected[None])
    np.testing.assert_array_equal(crops.centre, [[44, 42]])
    np.testing.assert_array_equal(crops.scale, [[48, 64]])


@pytest.mark.parametrize(("colour_order", "planes"), [("rgb", (2, 1, 0)), ("bgr", (0, 1, 2))])
def test_colour_order_mean_and_std(warper, colour_order, planes):
    bgr = (50, 100, 200)
    image = np.full((80, 80, 3), bgr, np.uint8)
    spec = ModelSpec("c", input_wh=(48, 64), mean=SPEC.mean, std=SPEC.std, colour_order=colour_order)
    batch = Preprocessor(spec)(image, [[30, 30, 50, 50]]).batch
    for plane, channel in enumerate(planes):
        value = (np.float32(bgr[channel]) - np.float32(spec.mean[plane])) / np.float32(spec.std[plane])
        assert batch[0, plane, 32, 24] == value


def test_outside_the_image_is_black_before_normalising(warper):
    image = np.full((64, 48, 3), 255, np.uint8)
    batch = Preprocessor(SPEC)(image, [[-400, -400, 4, 4]]).batch
    for plane, (mean, std) in enumerate(zip(SPEC.mean, SPEC.std, strict=True)):
        assert batch[0, plane, 0, 0] == np.float32(-mean) / np.float32(std)


def test_no_boxes_give_empty_arrays(warper):
    crops = Preprocessor(SPEC)(noise(30, 30), [])
    assert crops.batch.shape == (0, 3, 64, 48)
    assert crops.batch.dtype == np.float32
    assert crops.centre.shape == crops.scale.shape == (0, 2)


def test_opencv_and_numpy_agree(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    # OpenCV 4 rounds coordinates to 1/32 pixel: on noise that is up to 1/32 of 255 in each direction
    tolerance = 1 if int(cv2.__version__.split(".")[0]) >= 5 else 16
    image = noise(120, 160)
    centre, scale = boxes_to_centre_scale(np.array([[-20, 10, 61, 130], [30, 3, 50, 40.0]]), (48, 64), 1.25)
    fast = [warp_crop(image, *box, (48, 64)) for box in zip(centre, scale, strict=True)]
    monkeypatch.setitem(sys.modules, "cv2", None)
    plain = [warp_crop(image, *box, (48, 64)) for box in zip(centre, scale, strict=True)]
    difference = np.abs(np.array(fast, int) - np.array(plain, int))
    assert difference.max() <= tolerance


def test_one_box_on_a_large_image_equals_many(warper):
    # many boxes on a small image and one on a large image take different ways through OpenCV
    image = noise(700, 700)
    boxes = [[10 + 5 * i, 20, 90 + 7 * i, 150 + 3 * i] for i in range(24)]
    together = Preprocessor(SPEC)(image, boxes)
    apart = [Preprocessor(SPEC)(image, [box]) for box in boxes]
    np.testing.assert_array_equal(together.batch, np.concatenate([crops.batch for crops in apart]))
    np.testing.assert_array_equal(together.scale, np.concatenate([crops.scale for crops in apart]))


@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[:, ::-1],
        lambda image: image[..., ::-1],
        lambda image: image[10:-10, 10:-10],
        lambda image: image.transpose(1, 0, 2),
    ],
)
def test_views_of_arrays_are_images(warper, view):
    image = view(noise(100, 100))
    image.flags.writeable = False
    box = [[5, 5, 60, 70]]
    expected = Preprocessor(SPEC)(image.copy(), box).batch
    np.testing.assert_array_equal(Preprocessor(SPEC)(image, box).batch, expected)


def test_an_image_longer_than_opencv_warps():
    image = np.zeros((40, 33000, 3), np.uint8)
    image[:, 32900:] = 200
    crop = warp_crop(image, np.float32([32950, 20]), np.float32([24, 32]), (48, 64))
    assert (crop == 200).all()


def test_threads_may_share_a_preprocessor():
    preprocess = Preprocessor(SPEC)
    images = [noise(60 + 7 * i, 200 - 9 * i, seed=i) for i in range(12)]
    box = [[5, 5, 45, 50]]
    expected = [Preprocessor(SPEC)(image, box).batch for image in images]
    with ThreadPoolExecutor(4) as pool:
        crops = list(pool.map(lambda image: preprocess(image, box).batch, images * 5))
    np.testing.assert_array_equal(crops, expected * 5)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("photo.jpg", "image is str, not an array"),
        (None, "image is NoneType"),
        (np.zeros((10, 10, 3), np.float32), "dtype float32"),
        (np.zeros((10, 10), np.uint8), r"shape \(10, 10\)"),
        (np.zeros((10, 10, 4), np.uint8), r"shape \(10, 10, 4\)"),
        (np.zeros((3, 10, 10), np.uint8), r"shape \(3, 10, 10\)"),
        (np.zeros((0, 10, 3), np.uint8), "image is empty"),
    ],
)
def test_unusable_images_are_refused(image, message):
    with pytest.raises(DataError, match=message):
        Preprocessor(SPEC)(image, [[0, 0, 5, 5]])


def test_boxes_are_checked_against_the_image():
    with pytest.raises(DataError, match=r"box 1 .* outside its image of 30x20"):
        Preprocessor(SPEC)(noise(20, 30), [[0, 0, 10, 10], [0, 25, 10, 28]])


def test_mirror_turns_left_to_right():
    preprocess = Preprocessor(EXACT)
    image = noise(64, 48)
    box = [[0, 0, 48, 64]]
    batch = preprocess(image, box).batch
    np.testing.assert_array_equal(preprocess.mirror(batch), preprocess(image[:, ::-1], box).batch)
    np.testing.assert_array_equal(preprocess.mirror(preprocess.mirror(batch)), batch)
    assert preprocess.mirror(batch).flags.c_contiguous


@settings(deadline=None, max_examples=100)
@given(
    st.tuples(*[st.floats(-500, 2000, width=32)] * 2),
    st.tuples(*[st.floats(1, 1500, width=32)] * 2),
    st.sampled_from([(192, 256), (288, 384), (224, 224)]),
)
def test_corners_of_the_rectangle_go_to_the_corners_of_the_input(top_left, size, input_wh):
    box = np.float32([[*top_left, top_left[0] + size[0], top_left[1] + size[1]]])
    centre, scale = boxes_to_centre_scale(box, input_wh, 1.25)
    matrix = warp_matrix(centre, scale, input_wh)[0]
    for corner in ([0, 0], [1, 0], [0, 1], [1, 1]):
        point = centre[0] + scale[0] * (np.array(corner) - 0.5)
        # float32 coordinates of the image are good to 1e-4 px here, which a small crop magnifies
        atol = 1e-3 + 5e-4 * input_wh[0] / scale[0, 0]
        np.testing.assert_allclose(matrix @ [*point, 1], np.array(corner) * input_wh, atol=atol)
