"""The training targets equal what mmpose encodes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

_PATH = Path(__file__).resolve().parents[2] / "tools" / "heatmap_targets.py"
_SPEC = importlib.util.spec_from_file_location("heatmap_targets", _PATH)
heatmap_targets = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(heatmap_targets)

SIZES = ((192, 256), (48, 64))


@pytest.fixture(scope="module")
def encoded(reference):
    return np.load(reference / "fixtures" / "decode_256x192.npz")


@pytest.mark.parametrize(
    ("codec", "encode", "width"),
    [("megvii", heatmap_targets.megvii_targets, 5), ("msra", heatmap_targets.msra_targets, 2)],
)
def test_targets_equal_the_reference(encoded, codec, encode, width):
    start = f"256x192/{codec}/encode_"
    labelled = encoded[start + "visible"] > 0.5
    heatmaps, weights = encode(encoded[start + "keypoints"], labelled, *SIZES, width)
    np.testing.assert_allclose(heatmaps[0], encoded[start + "heatmaps"], atol=1e-4)
    np.testing.assert_array_equal(weights, encoded[start + "weights"])


def test_wider_kernels_keep_the_peak_and_the_place():
    keypoints = np.array([[[100.0, 60.0]]])
    labelled = np.ones((1, 1), bool)
    for kernel in (5, 7, 9, 11):
        heatmaps, _ = heatmap_targets.megvii_targets(keypoints, labelled, *SIZES, kernel, peak=1.0)
        assert np.unravel_index(heatmaps[0, 0].argmax(), (64, 48)) == (15, 25)
        assert heatmaps.max() == 1
        assert (heatmaps > 0).sum() == kernel**2


def test_a_joint_that_is_not_labelled_leaves_an_empty_map():
    keypoints = np.array([[[100.0, 60.0], [1e4, 60.0], [-300.0, -300.0]]])
    labelled = np.array([[False, True, True]])
    for encode, width in ((heatmap_targets.megvii_targets, 5), (heatmap_targets.msra_targets, 2)):
        heatmaps, weights = encode(keypoints, labelled, *SIZES, width)
        assert not heatmaps.any()
        assert not weights.any()
