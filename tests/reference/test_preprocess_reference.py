"""Geometry and crops, held to the original implementation on real images."""

import json
import sys

import numpy as np
import pytest

from posedge.runtime.boxes import boxes_to_centre_scale
from posedge.runtime.preprocess import Preprocessor, warp_crop, warp_matrix
from posedge.runtime.spec import ModelSpec

INPUT_WH = (192, 256)


@pytest.fixture(scope="module")
def fixture(reference):
    with np.load(reference / "fixtures" / "preproc_256x192_gt_boxes.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def images(reference):
    """The image of each of the fixture's boxes."""
    cv2 = pytest.importorskip("cv2")
    boxes = json.loads((reference / "fixtures" / "boxes_gt.json").read_text("utf-8"))["boxes"]
    return [cv2.imread(str(reference / "images" / box["img"])) for box in boxes]


def test_centre_and_scale(fixture):
    centre, scale = boxes_to_centre_scale(fixture["bbox_xyxy"], INPUT_WH, 1.25)
    np.testing.assert_array_equal(centre, fixture["center"])
    np.testing.assert_array_equal(scale, fixture["scale_input"])


def test_matrices(fixture):
    matrix = warp_matrix(fixture["center"], fixture["scale_input"], INPUT_WH)
    np.testing.assert_allclose(matrix, fixture["warp"], rtol=0, atol=1e-9)


def test_matrices_move_annotated_joints_where_the_original_moves_them(fixture, reference):
    boxes = json.loads((reference / "fixtures" / "boxes_gt.json").read_text("utf-8"))["boxes"]
    annotations = json.loads((reference / "images" / "test_coco.json").read_text("utf-8"))["annotations"]
    joints = {record["id"]: np.reshape(record["keypoints"], (17, 3))[:, :2] for record in annotations}
    matrices = warp_matrix(fixture["center"], fixture["scale_input"], INPUT_WH)
    moved = [
        joints[box["id"]] @ matrix[:, :2].T + matrix[:, 2]
        for box, matrix in zip(boxes, matrices, strict=True)
    ]
    np.testing.assert_allclose(moved, fixture["transformed_gt_keypoints"], atol=1e-4)


def test_crops_of_the_same_opencv(fixture, images):
    cv2 = pytest.importorskip("cv2")
    crops = np.array(
        [
            warp_crop(image, centre, scale, INPUT_WH)
            for image, centre, scale in zip(images, fixture["center"], fixture["scale_input"], strict=True)
        ]
    )
    if cv2.__version__.startswith("4."):
        # OpenCV 4 rounds coordinates to 1/32 pixel, where the last bit of a matrix decides some ties
        assert (crops != fixture["crops_bgr"]).mean() < 2e-3
    else:
        np.testing.assert_array_equal(crops, fixture["crops_bgr_cv5"])


def test_crops_without_opencv_are_within_one_grey_level(fixture, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    for image, centre, scale, crop in zip(
        images, fixture["center"], fixture["scale_input"], fixture["crops_bgr_cv5"], strict=True
    ):
        difference = np.abs(warp_crop(image, centre, scale, INPUT_WH).astype(int) - crop)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize(("colour_order", "step"), [("rgb", -1), ("bgr", 1)])
def test_network_input_is_the_normalised_crop(fixture, images, colour_order, step):
    spec = ModelSpec("reference", colour_order=colour_order)
    preprocess = Preprocessor(spec)
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    for index in (0, 4, 11):
        crops = preprocess(images[index], fixture["bbox_xyxy"][index : index + 1])
        crop = warp_crop(images[index], crops.centre[0], crops.scale[0], INPUT_WH)
        expected = (crop[..., ::step].astype(np.float32) - mean) / std
        np.testing.assert_array_equal(crops.batch[0], expected.transpose(2, 0, 1))
