"""The kernel that warps and normalises, against exact bilinear interpolation and the CPU's preprocessing."""

import json
import platform
import sys

import numpy as np
import pytest

from posedge.errors import DataError
from posedge.runtime.boxes import boxes_to_centre_scale
from posedge.runtime.cuda.crops import DeviceImage
from posedge.runtime.cuda.warp import warp_launch
from posedge.runtime.preprocess import Preprocessor, warp_matrix
from posedge.runtime.spec import ModelSpec
from posedge.runtime.yuv import YUV_STANDARDS, yuv_factors

SPEC = ModelSpec("test", input_wh=(48, 64), mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 8.0))
PLAIN = ModelSpec("plain", input_wh=(48, 64), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def rectangles(*boxes, spec=SPEC):
    return boxes_to_centre_scale(np.array(boxes, np.float32), spec.input_wh, spec.box_padding)


def exact_bilinear(image, centre, scale, spec):
    """Crops (N, H, W, 3) in float64, not rounded; zero outside the image, which is (height, width, 3)."""
    height, width = image.shape[:2]
    crops = []
    for matrix in warp_matrix(centre, scale, spec.input_wh):
        axes = []
        for axis, limit in ((0, width), (1, height)):
            position = (np.arange(spec.input_wh[axis]) - matrix[axis, 2]) / matrix[axis, axis]
            # a hat of width 1 around every pixel of the image
            axes.append(np.maximum(0, 1 - np.abs(position[:, None] - np.arange(limit))))
        crops.append(np.einsum("yj,jic,xi->yxc", axes[1], image.astype(np.float64), axes[0], optimize=True))
    return np.array(crops)


def normalised(crops, spec, step=-1):
    """BGR crops (N, H, W, 3) as the network's input in the spec's RGB; ``step`` 1 leaves BGR."""
    return ((crops[..., ::step] - np.array(spec.mean)) / np.array(spec.std)).transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def real(reference):
    """Images (BGR) with the boxes of their persons."""
    cv2 = pytest.importorskip("cv2")
    boxes = {}
    for box in json.loads((reference / "fixtures" / "boxes_gt.json").read_text("utf-8"))["boxes"]:
        boxes.setdefault(box["img"], []).append(box["bbox_xyxy"])
    return [(cv2.imread(str(reference / "images" / name)), found) for name, found in boxes.items()]


def test_real_images_are_exactly_bilinear(kernels, real):
    spec = ModelSpec("pose")
    for image, boxes in real:
        centre, scale = rectangles(*boxes, spec=spec)
        batch = kernels.warp(spec, image, centre, scale, whole_levels=False)
        expected = normalised(exact_bilinear(image, centre, scale, spec), spec)
        np.testing.assert_allclose(batch, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("opencv", [True, False])
def test_real_images_in_whole_levels_are_the_bytes_of_the_cpu(kernels, real, monkeypatch, opencv):
    cv2 = pytest.importorskip("cv2")
    spec = ModelSpec("pose")
    if not opencv:
        monkeypatch.setitem(sys.modules, "cv2", None)
    for image, boxes in real:
        crops = Preprocessor(spec)(image, boxes)
        batch = kernels.warp(spec, image, crops.centre, crops.scale)
        levels = np.abs(batch - crops.batch) * np.array(spec.std, np.float32)[:, None, None]
        if not (opencv and cv2.__version__.startswith("4.")):  # which rounds coordinates to 1/32 pixel
            assert levels.max() < 1.001
            assert (batch != crops.batch).mean() < 3e-4
        if opencv and cv2.__version__.startswith("5.") and platform.machine() == "x86_64":
            np.testing.assert_array_equal(batch, crops.batch)


def test_halves_are_rounded_to_even(kernels):
    """As OpenCV rounds. A crop twice as large as its box has nothing but whole, half and quarter levels."""
    spec = ModelSpec("double", input_wh=(48, 64), mean=PLAIN.mean, std=PLAIN.std, box_padding=1.0)
    image, boxes = noise(60, 50, 3), rectangles([8, 8, 32, 40], spec=spec)
    exact = normalised(exact_bilinear(image, *boxes, spec), spec)
    assert (exact % 1 == 0.5).mean() > 0.1
    np.testing.assert_array_equal(kernels.warp(spec, image, *boxes), np.rint(exact))


@pytest.mark.parametrize("half", [False, True])
def test_the_mirrored_batch_is_the_batch_mirrored(kernels, half):
    image = noise(90, 70, 3)
    boxes = rectangles([5, 6, 60, 80], [-20, 3, 30, 200])
    batch, mirrored = kernels.warp(SPEC, image, *boxes, half=half, mirror=True)
    assert len(np.unique(batch)) > 100
    np.testing.assert_array_equal(mirrored, batch[..., ::-1])


@pytest.mark.parametrize("whole_levels", [False, True])
def test_float16_is_float32_rounded(kernels, whole_levels):
    spec = ModelSpec(
        "narrow", input_wh=(48, 64), std=(0.001, 57.12, 1e9)
    )  # overflow and subnormal values too
    image, boxes = noise(90, 70, 3), rectangles([5, 6, 60, 80])
    single = kernels.warp(spec, image, *boxes, whole_levels=whole_levels)
    half = kernels.warp(spec, image, *boxes, whole_levels=whole_levels, half=True)
    with np.errstate(over="ignore"):
        expected = single.astype(np.float16)
    np.testing.assert_array_equal(half.view(np.uint16), expected.view(np.uint16))
    assert np.isinf(half).any()
    assert (np.abs(half) < 6e-5).any()


def test_colour_orders_and_formats(kernels):
    image, boxes = noise(90, 70, 3), rectangles([5, 6, 60, 80])
    batch = kernels.warp(SPEC, image, *boxes)
    rgb = np.ascontiguousarray(image[..., ::-1])
    np.testing.assert_array_equal(kernels.warp(SPEC, rgb, *boxes, format="rgb"), batch)
    bgr_spec = ModelSpec("bgr", "pose", (48, 64), colour_order="bgr", mean=SPEC.mean, std=SPEC.std)
    expected = normalised(exact_bilinear(image, *boxes, SPEC), SPEC, step=1)
    bgr = kernels.warp(bgr_spec, image, *boxes, whole_levels=False)
    np.testing.assert_allclose(bgr, expected, rtol=0, atol=1e-3)
    grey = noise(90, 70)
    np.testing.assert_array_equal(
        kernels.warp(SPEC, grey, *boxes, format="grey"),
        kernels.warp(SPEC, np.repeat(grey[..., None], 3, axis=2), *boxes),
    )


def test_a_pitch_of_any_length(kernels):
    boxes = rectangles([5, 6, 60, 80])
    wide = noise(90, 3 * 70 + 17)
    view = np.lib.stride_tricks.as_strided(wide, (90, 70, 3), (wide.strides[0], 3, 1))
    np.testing.assert_array_equal(
        kernels.warp(SPEC, view, *boxes), kernels.warp(SPEC, np.ascontiguousarray(view), *boxes)
    )


@pytest.mark.parametrize("size", [(90, 70), (31, 45)])
def test_nv12_is_what_opencv_makes_of_it(kernels, size):
    cv2 = pytest.importorskip("cv2")
    height, width = size
    luma, chroma = noise(height, width + 5)[:, :width], noise((height + 1) // 2, width // 2 * 2 + 8, seed=1)
    even = (height // 2 * 2, width // 2 * 2)  # what OpenCV can read of it
    planes = np.concatenate([luma[: even[0], : even[1]], chroma[: even[0] // 2, : even[1]]])
    converted = cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_NV12)
    boxes = rectangles([12, 12, 25, 24], spec=PLAIN)  # wholly inside, padding included
    batch = kernels.warp(PLAIN, luma, *boxes, chroma=chroma, format="nv12", whole_levels=False)
    expected = normalised(exact_bilinear(converted, *boxes, PLAIN), PLAIN)
    # OpenCV rounds every pixel to a grey level and its factors to five digits
    assert np.abs(batch - expected).max() < 1.5
    assert np.abs(batch - expected).mean() < 0.4


@pytest.mark.parametrize("standard", YUV_STANDARDS)
def test_yuv_standards_map_black_white_and_red(standard):
    zero, gain, red_v, green_u, green_v, blue_u = yuv_factors(standard)
    black, white = (0, 255) if standard.endswith("-full") else (16, 235)
    assert ((black - zero) * gain, (white - zero) * gain) == pytest.approx((0, 255))
    # pure red, by the standard's own definition of luma and of the colour differences
    red, blue = (0.2126, 0.0722) if standard.startswith("bt709") else (0.299, 0.114)
    swing = 255 if standard.endswith("-full") else 224
    u, v = -red / (2 * (1 - blue)) * swing, 0.5 * swing
    luma = red * 255
    assert luma + red_v * v == pytest.approx(255)
    assert luma + green_u * u + green_v * v == pytest.approx(0, abs=1e-9)
    assert luma + blue_u * u == pytest.approx(0, abs=1e-9)


def test_far_from_the_origin_the_weights_are_still_exact(kernels):
    """float32 coordinates would be off by 1/1024 pixel here."""
    image = noise(8, 30000, 3)
    boxes = rectangles([29_900.3, 1.2, 29_990.6, 7.9], spec=PLAIN)
    batch = kernels.warp(PLAIN, image, *boxes, whole_levels=False)
    # the same pixels near to the origin; the rectangle's own float32 coordinates stay as they are
    matrix = warp_matrix(*boxes, PLAIN.input_wh)[0]
    position = (np.arange(48) - matrix[0, 2]) / matrix[0, 0]
    rows = (np.arange(64) - matrix[1, 2]) / matrix[1, 1]
    hat = [
        np.maximum(0, 1 - np.abs(at[:, None] - np.arange(first, first + count)))
        for at, first, count in ((position, 29_000, 1000), (rows, 0, 8))
    ]
    expected = np.einsum("yj,jic,xi->cyx", hat[1], image[:, 29_000:].astype(np.float64), hat[0])[::-1]
    np.testing.assert_allclose(batch[0], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "box",
    [
        [200, 10, 300, 90],
        [-300, -300, -100, -100],
        [10, 500, 60, 900],
        [np.nan, 10, 60, 90],
        [10, 10, np.inf, 90],
        [30, 30, 30, 30],
        [60, 30, 20, 10],
        [1e30, 1e30, 2e30, 2e30],
    ],
    ids=["right", "left above", "below", "NaN", "infinite", "no area", "negative area", "far away"],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of numpy, at the infinite box
def test_boxes_that_show_nothing_of_the_image_are_all_border(kernels, box):
    batch = kernels.warp(SPEC, noise(90, 70, 3), *rectangles(box, [5, 6, 60, 80]))
    border = -np.array(SPEC.mean, np.float32) / np.array(SPEC.std, np.float32)
    np.testing.assert_array_equal(batch[0], np.broadcast_to(border[:, None, None], batch.shape[1:]))
    assert len(np.unique(batch[1])) > 100, "the person beside it is not touched"


def test_an_image_of_one_pixel(kernels):
    image = np.full((1, 1, 3), 200, np.uint8)
    boxes = rectangles([0, 0, 1, 1], spec=PLAIN)
    batch = kernels.warp(PLAIN, image, *boxes, whole_levels=False)
    np.testing.assert_allclose(batch, normalised(exact_bilinear(image, *boxes, PLAIN), PLAIN), atol=1e-3)
    assert 195 < batch.max() <= 200


def test_no_person_is_no_launch():
    assert warp_launch(SPEC, 0, 1, 1) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((1, 4, 4, 12, "bgra"), "must be one of bgr, rgb, grey, nv12"),
        ((1, 0, 4, 12), "empty"),
        ((1, 4, 4, 11), "pitch is 11 bytes; a row has 12"),
        ((1, 5, 4, 5, "nv12"), "chroma"),
        ((1, 5, 4, 5, "nv12", 1, 5), "chroma_pitch is 5 bytes; a row has 6"),
    ],
)
def test_images_that_are_refused(arguments, said):
    with pytest.raises(DataError, match=said):
        DeviceImage(*arguments)


def test_what_a_launch_refuses():
    with pytest.raises(DataError, match="smaller batches"):
        warp_launch(SPEC, 70_000, 1, 1)
    with pytest.raises(DataError, match="bt601-full"):
        warp_launch(SPEC, 1, 1, 1, yuv="pal")
