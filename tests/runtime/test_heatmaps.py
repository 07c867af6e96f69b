"""Decoders, flip test and the way back to the image, on maps whose answer is known."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from posedge.errors import GraphError
from posedge.runtime.boxes import boxes_to_centre_scale
from posedge.runtime.heatmaps import (
    decode,
    decode_megvii,
    decode_msra,
    decode_unbiased,
    merge_flip,
    to_image,
)
from posedge.runtime.preprocess import warp_matrix
from posedge.runtime.spec import COCO_FLIP_PAIRS, ModelSpec

HEIGHT, WIDTH = 64, 48
DECODERS = {
    "msra": decode_msra,
    "unbiased": lambda maps: decode_unbiased(maps, 11),
    "megvii": lambda maps: decode_megvii(255 * maps),
}
each_decoder = pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
inner_point = st.tuples(st.floats(9, WIDTH - 10), st.floats(9, HEIGHT - 10))


def gaussian(*points, sigma=2.0):
    """One person's maps (1, K, h, w), a peak of 1 at each x, y."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    maps = [np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)) for x, y in points]
    return np.array(maps, np.float32)[None]


@pytest.mark.parametrize(
    ("decoder", "error"),
    # Megvii's half pixel is meant for maps whose pixel centres lie at + 0.5
    [(decode_msra, 0.36), (DECODERS["unbiased"], 0.05), (DECODERS["megvii"], 0.86)],
    ids=DECODERS,
)
@settings(deadline=None, max_examples=50)
@given(point=inner_point)
def test_encoded_points_come_back(decoder, error, point):
    keypoints, scores = decoder(gaussian(point))
    assert np.abs(keypoints[0, 0] - point).max() <= error
    assert scores[0, 0] > 0.8


@settings(deadline=None, max_examples=50)
@given(point=inner_point)
def test_megvii_is_half_a_pixel_further_than_its_maximum(point):
    keypoints, _ = DECODERS["megvii"](gaussian(point))
    assert np.abs(keypoints[0, 0] - 0.5 - point).max() <= 0.36


@each_decoder
@settings(deadline=None, max_examples=25)
@given(
    x=st.floats(16, 22),
    y=st.floats(20, 30),
    dx=st.integers(-4, 6),
    dy=st.integers(-4, 9),
    seed=st.integers(0, 9),
)
def test_a_moved_map_moves_its_keypoint(decoder, x, y, dx, dy, seed):
    noise = np.random.default_rng(seed).normal(0, 0.02, (1, 1, 21, 21))
    maps = np.zeros((2, 1, HEIGHT, WIDTH), np.float32)
    peak = gaussian((x, y))[:, :, int(y) - 10 : int(y) + 11, int(x) - 10 : int(x) + 11] + noise
    maps[0, :, int(y) - 10 : int(y) + 11, int(x) - 10 : int(x) + 11] = peak[0]
    maps[1, :, int(y) + dy - 10 : int(y) + dy + 11, int(x) + dx - 10 : int(x) + dx + 11] = peak[0]
    keypoints, scores = decoder(maps)
    np.testing.assert_allclose(keypoints[1] - keypoints[0], [[dx, dy]], atol=1e-3)
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-5)


@each_decoder
def test_batches_equal_single_persons(decoder):
    maps = np.random.default_rng(0).normal(0, 1, (5, 7, HEIGHT, WIDTH)).astype(np.float32)
    keypoints, scores = decoder(maps)
    assert keypoints.shape == (5, 7, 2)
    assert scores.shape == (5, 7)
    assert keypoints.dtype == scores.dtype == np.float32
    for person in range(5):
        alone_keypoints, alone_scores = decoder(maps[person : person + 1])
        np.testing.assert_allclose(keypoints[person], alone_keypoints[0], atol=1e-4)
        np.testing.assert_allclose(scores[person], alone_scores[0], rtol=1e-5)


@each_decoder
def test_no_persons(decoder):
    keypoints, scores = decoder(np.zeros((0, 17, HEIGHT, WIDTH), np.float32))
    assert keypoints.shape == (0, 17, 2)
    assert scores.shape == (0, 17)


@each_decoder
def test_float16_maps_and_views_are_read_as_float32(decoder):
    maps = gaussian((20.3, 30.6), (9.9, 50.2)).astype(np.float16)
    expected = decoder(maps.astype(np.float32))
    strided = np.asfortranarray(maps)
    for got in (decoder(maps), decoder(strided)):
        # Megvii's 255 times a float16 is rounded to a float16 again
        np.testing.assert_allclose(got[0], expected[0], atol=1e-6)
        np.testing.assert_allclose(got[1], expected[1], rtol=1e-3)


@each_decoder
def test_decoding_does_not_change_the_maps(decoder):
    maps = gaussian((20, 30), (0, 0)) - np.float32(0.2)
    before = maps.copy()
    decoder(maps)
    np.testing.assert_array_equal(maps, before)


@each_decoder
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_gone_wrong_gives_no_warning_and_no_finite_score(decoder, value):
    maps = gaussian((20, 30), (10, 10))
    maps[0, 1, 12, 13] = value
    keypoints, scores = decoder(maps)
    assert np.isfinite(keypoints[0, 0]).all()
    assert np.isfinite(scores[0, 0])
    assert not np.isfinite(scores[0, 1])


def blur_literally(heatmap, size):
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    kernel = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    across = np.apply_along_axis(np.convolve, 1, heatmap.astype(float), kernel, "same")
    return np.apply_along_axis(np.convolve, 0, across, kernel, "same")


def unbiased_literally(heatmap, blurred):
    """DARK on one map as mmpose writes it, the whole map blurred and rescaled: the maximum and the step."""
    p = np.log(np.maximum(blurred * heatmap.max() / blurred.max(), 1e-10))
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    gradient = np.array([p[y, x + 1] - p[y, x - 1], p[y + 1, x] - p[y - 1, x]]) / 2
    xx = (p[y, x + 2] - 2 * p[y, x] + p[y, x - 2]) / 4
    yy = (p[y + 2, x] - 2 * p[y, x] + p[y - 2, x]) / 4
    xy = (p[y + 1, x + 1] - p[y - 1, x + 1] - p[y + 1, x - 1] + p[y - 1, x - 1]) / 4
    hessian = np.array([[xx, xy], [xy, yy]])
    step = -np.linalg.solve(hessian, gradient) if np.linalg.det(hessian) else np.zeros(2)
    return np.array([x, y]), step


@settings(deadline=None, max_examples=60)
@given(
    point=st.tuples(st.floats(3, WIDTH - 4), st.floats(3, HEIGHT - 4)),
    hole=st.tuples(st.floats(-6, 6), st.floats(-6, 6)),
    depth=st.floats(0, 4),
    size=st.sampled_from([3, 11, 17]),
)
def test_unbiased_reads_25_pixels_as_if_it_had_blurred_and_rescaled_the_map(point, hole, depth, size):
    # the hole beside the peak can bring blurred pixels below the logarithm's floor
    maps = gaussian(point) - np.float32(depth) * gaussian((point[0] + hole[0], point[1] + hole[1]))
    y, x = np.unravel_index(maps.argmax(), maps.shape)[2:]
    assume(maps.max() > 0.01 and 1 < x < WIDTH - 2 and 1 < y < HEIGHT - 2)
    blurred = blur_literally(maps[0, 0], size)
    assume(blurred.max() != 0)
    peak, step = unbiased_literally(maps[0, 0], blurred)
    # where the Hessian is nearly singular the step is long, and float32 cannot tell how long
    assume(np.abs(step).max() < 3)
    keypoints, scores = decode_unbiased(maps, size)
    assert scores[0, 0] == maps.max()
    np.testing.assert_allclose(keypoints[0, 0], peak + step, atol=5e-3)


@pytest.mark.parametrize("depth", [0.5, 1.5, 3.0])
def test_unbiased_beside_a_hole_below_the_floor_of_its_logarithm(depth):
    maps = gaussian((20.3, 30.4)) - np.float32(depth) * gaussian((24, 33), sigma=3.0)
    peak, step = unbiased_literally(maps[0, 0], blur_literally(maps[0, 0], 3))
    keypoints, _ = decode_unbiased(maps, 3)
    assert np.abs(step).max() > 0.01
    np.testing.assert_allclose(keypoints[0, 0], peak + step, atol=1e-4)


def test_megvii_maps_that_the_blur_turns_negative():
    # mmpose rescales by 1 / (maximum of the blurred map), here negative: the map turns upside down
    maps = np.full((1, 1, HEIGHT, WIDTH), -1, np.float32)
    maps[0, 0, 30, 20] = 1
    keypoints, scores = decode_megvii(maps)
    highest = -((11 / 16) ** 2)  # in the corners, where 11 of 16 parts of the kernel lie on the map
    np.testing.assert_allclose(scores, -1 / highest / 255 + 0.5, rtol=1e-6)
    np.testing.assert_array_equal(keypoints, [[[2.75, 2.75]]])  # the first of the pixels that are -1


def test_merging_swaps_pairs_and_turns():
    left = np.zeros((1, 17, HEIGHT, WIDTH), np.float32)
    right = np.zeros_like(left)
    left[0, 5, 10, 7] = 1.0  # left shoulder
    right[0, 6, 10, WIDTH - 1 - 7] = 1.0  # in the mirror it is the right one
    merged = merge_flip(left, right, COCO_FLIP_PAIRS, shift=False)
    np.testing.assert_array_equal(merged, left)
    assert merged.dtype == np.float32
    assert merged.flags.c_contiguous


def test_merging_with_shift_moves_the_mirrored_maps_right():
    maps = np.zeros((1, 17, 2, 4), np.float32)
    mirrored = np.tile(np.float32([8, 6, 4, 2]), (1, 17, 2, 1))  # turned: 2 4 6 8
    merged = merge_flip(maps, mirrored, COCO_FLIP_PAIRS, shift=True)
    np.testing.assert_array_equal(2 * merged[0, 0, 0], [2, 2, 4, 6])  # column 0 keeps its own value


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_merging_is_its_own_mirror(seed):
    first, second = np.random.default_rng(seed).normal(0, 1, (2, 2, 17, 6, 5)).astype(np.float32)
    merged = merge_flip(first, second, COCO_FLIP_PAIRS, shift=False)
    swapped = merge_flip(second, first, COCO_FLIP_PAIRS, shift=False)
    nothing = np.zeros_like(first)
    # turning what was merged the other way round gives the same; turning twice gives back the maps
    turned = 2 * merge_flip(nothing, swapped, COCO_FLIP_PAIRS, shift=False)
    np.testing.assert_allclose(turned, merged, atol=1e-6)
    back = 2 * merge_flip(nothing, turned, COCO_FLIP_PAIRS, shift=False)
    np.testing.assert_allclose(back, swapped, atol=1e-6)


def test_merging_float16_averages_in_float32():
    maps = np.full((1, 17, 4, 4), 1, np.float16)
    mirrored = np.full((1, 17, 4, 4), 2**-12, np.float16)
    merged = merge_flip(maps, mirrored, COCO_FLIP_PAIRS, shift=True)
    assert (merged == np.float32(0.5 + 2**-13)).all()


def test_merging_leaves_its_inputs_alone():
    maps, mirrored = np.random.default_rng(1).normal(0, 1, (2, 1, 17, 4, 4)).astype(np.float32)
    before = maps.copy(), mirrored.copy()
    merge_flip(maps, mirrored, COCO_FLIP_PAIRS, shift=True)
    np.testing.assert_array_equal((maps, mirrored), before)


@settings(deadline=None, max_examples=50)
@given(
    st.tuples(st.floats(0, 500), st.floats(0, 500)),
    st.tuples(st.floats(20, 500), st.floats(20, 500)),
    st.tuples(st.floats(0, 48), st.floats(0, 64)),
)
def test_to_image_undoes_the_warp(top_left, size, keypoint):
    box = np.float32([[*top_left, top_left[0] + size[0], top_left[1] + size[1]]])
    centre, scale = boxes_to_centre_scale(box, (192, 256), 1.25)
    image_point = to_image(np.float32([[keypoint]]), centre, scale, (48, 64))[0, 0]
    input_point = warp_matrix(centre, scale, (192, 256))[0] @ [*image_point, 1]
    np.testing.assert_allclose(input_point / 4, keypoint, atol=2e-3)


@pytest.mark.parametrize("codec", ["msra", "unbiased", "megvii"])
def test_decode_follows_the_spec(codec):
    spec = ModelSpec(
        "m", codec=codec, blur_kernel=11 if codec == "unbiased" else 5, num_joints=2, flip_pairs=()
    )
    maps = gaussian((20.3, 30.6), (9.9, 50.2))
    if codec == "megvii":
        maps *= 255
        expected = decode_megvii(maps)
    else:
        expected = DECODERS[codec](maps)
    for got, wanted in zip(decode(maps, spec), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("shape", [(1, 16, 64, 48), (1, 17, 48, 64), (17, 64, 48), (1, 17, 96, 72)])
def test_maps_that_contradict_the_spec_are_refused(shape):
    with pytest.raises(GraphError, match=r"shape .* spec promises \(N, 17, 64, 48\)"):
        decode(np.zeros(shape, np.float32), ModelSpec("m"))
