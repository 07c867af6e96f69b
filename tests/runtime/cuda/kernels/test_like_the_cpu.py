"""The kernels around a real network: keypoints as the estimator on the CPU finds them, on real images."""

import json

import numpy as np
import pytest

from posedge.runtime.boxes import boxes_to_centre_scale
from posedge.runtime.pose import PoseEstimator
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession


@pytest.fixture(scope="module")
def session(tinypose, tinypose_spec):
    session = OnnxRuntimeSession(tinypose, tinypose_spec, 1)
    yield session
    session.close()


@pytest.fixture(scope="module")
def persons(reference):
    """Images (BGR) with the boxes of their persons."""
    cv2 = pytest.importorskip("cv2")
    boxes = {}
    for box in json.loads((reference / "fixtures" / "boxes_gt.json").read_text("utf-8"))["boxes"]:
        boxes.setdefault(box["img"], []).append(box["bbox_xyxy"])
    return [(cv2.imread(str(reference / "images" / name)), found) for name, found in boxes.items()]


@pytest.mark.parametrize("flip_test", [False, True])
def test_keypoints_on_real_images(kernels, session, persons, flip_test):
    spec = session.spec
    estimator = PoseEstimator.from_session(session, flip_test)  # the fixture closes the session
    for image, boxes in persons:
        keypoints, scores = estimator(image, boxes)
        centre, scale = boxes_to_centre_scale(np.array(boxes, np.float32), spec.input_wh, spec.box_padding)
        batch, mirrored = kernels.warp(spec, image, centre, scale, mirror=True)
        outputs = session.run(batch)
        other = session.run(mirrored) if flip_test else ()
        found, found_scores = kernels.decode(spec, outputs, centre, scale, other, clip=True)
        np.testing.assert_allclose(found, keypoints, rtol=0, atol=0.05)
        np.testing.assert_allclose(found_scores, scores, rtol=0, atol=0.01)
