"""Decoders and flip test, held to the original implementation."""

import json

import numpy as np
import pytest

from posedge.runtime.heatmaps import decode, merge_flip, to_image
from posedge.runtime.spec import COCO_FLIP_PAIRS, ModelSpec

SPECS = {
    "msra": ModelSpec("msra", codec="msra"),
    "msra_unbiased": ModelSpec("unbiased", codec="unbiased", blur_kernel=11),
    "megvii": ModelSpec("megvii", codec="megvii", blur_kernel=5),
}
MAPS = {
    "plain": "heatmaps",
    "edge": "edge_heatmaps",
    "flip_shift1": "flip_avg_shift1",
    "flip_shift0": "flip_avg_shift0",
}
SIZE = "256x192"


@pytest.fixture(scope="module")
def fixture(reference):
    with np.load(reference / "fixtures" / "decode_256x192.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def info(reference):
    return json.loads((reference / "fixtures" / "decode_info.json").read_text("utf-8"))


def read(fixture, info, codec, case, dtype=np.float32):
    """The fixture's maps decoded, and the prefix of what they should give."""
    prefix = f"{SIZE}/{codec}/{case}"
    factor = np.float32(info[prefix]["multiplied_by"])
    maps = (fixture[f"{SIZE}/{MAPS[case]}"] * factor).astype(dtype)
    return (*decode(maps, SPECS[codec]), prefix)


@pytest.mark.parametrize("case", MAPS)
@pytest.mark.parametrize("codec", SPECS)
def test_keypoints_and_scores(fixture, info, codec, case):
    keypoints, scores, prefix = read(fixture, info, codec, case)
    np.testing.assert_allclose(keypoints, fixture[f"{prefix}/keypoints_heatmap"], rtol=0, atol=1e-5)
    # the NaN scores of all-zero Megvii maps are part of it
    np.testing.assert_allclose(scores, fixture[f"{prefix}/scores"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", MAPS)
@pytest.mark.parametrize("codec", SPECS)
def test_image_coordinates(fixture, info, codec, case):
    keypoints, _, prefix = read(fixture, info, codec, case)
    persons = len(keypoints)
    centre, scale = fixture[f"{SIZE}/center"][:persons], fixture[f"{SIZE}/scale"][:persons]
    image = to_image(keypoints, centre, scale, (48, 64))
    assert image.dtype == np.float32
    # half a step of float32 at 500 px is 3e-5
    np.testing.assert_allclose(image, fixture[f"{prefix}/keypoints_image"], rtol=0, atol=2e-4)


@pytest.mark.parametrize("codec", SPECS)
def test_float16_maps_give_nearly_the_same(fixture, info, codec):
    keypoints, scores, prefix = read(fixture, info, codec, "plain", np.float16)
    distance = np.abs(keypoints - fixture[f"{prefix}/keypoints_heatmap"]).max(axis=2)
    # rounding makes ties: a quarter or a half pixel changes its direction on some flat peaks
    assert (distance < 0.05).mean() > 0.85
    np.testing.assert_allclose(scores, fixture[f"{prefix}/scores"], rtol=1e-3)


@pytest.mark.parametrize("shift", [True, False])
def test_flip_test(fixture, shift):
    merged = merge_flip(
        fixture[f"{SIZE}/heatmaps"],
        fixture[f"{SIZE}/heatmaps_from_flipped_input"],
        COCO_FLIP_PAIRS,
        shift,
    )
    np.testing.assert_array_equal(merged, fixture[f"{SIZE}/flip_avg_shift{int(shift)}"])


@pytest.mark.parametrize(
    ("config", "codec"),
    [
        ("td-hm_rsn18_8xb32-210e_coco-256x192", "megvii"),
        ("td-hm_resnest50_8xb64-210e_coco-256x192", "msra"),
        ("td-hm_resnext50_8xb64-210e_coco-256x192", "msra"),
    ],
)
@pytest.mark.parametrize(("maps", "case"), [("out", "noflip"), ("flip_avg", "flip")])
def test_network_outputs(reference, config, codec, maps, case):
    with np.load(reference / "fixtures" / f"parity_{config}.npz") as parity:
        keypoints, scores = decode(parity[maps], SPECS[codec])
        np.testing.assert_allclose(4 * keypoints, parity[f"decoded_{case}_keypoints_input_space"], atol=1e-4)
        np.testing.assert_allclose(scores, parity[f"decoded_{case}_scores"], rtol=0, atol=1e-5)
