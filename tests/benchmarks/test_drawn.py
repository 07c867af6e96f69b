"""The generator of drawn figures: the same pictures from the same seed, and annotations that fit them."""

import contextlib
import io
import json

import cv2
import numpy as np
import pytest

from posedge.benchmarks.drawn.dataset import write_dataset
from posedge.benchmarks.drawn.figure import JOINT_NAMES, sample_figure
from posedge.benchmarks.drawn.scene import sample_scene
from posedge.calibration.datasets import CocoPersons
from posedge.errors import DataError
from posedge.runtime.spec import COCO_FLIP_PAIRS

SEEDS = range(40)


@pytest.fixture(scope="module")
def scenes():
    return [sample_scene((5, seed)) for seed in SEEDS]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("drawn"), 6, seed=3)


def figures_of(scenes):
    return [(image, figure) for image, figures in scenes for figure in figures]


def test_same_seed_same_picture_other_seed_other_picture():
    image, figures = sample_scene(11)
    again, figures_again = sample_scene(11)
    assert np.array_equal(image, again)
    for one, other in zip(figures, figures_again, strict=True):
        assert np.array_equal(one.keypoints, other.keypoints)
        assert (one.box_xywh, one.area) == (other.box_xywh, other.area)
    other_image, _ = sample_scene(12)
    assert image.shape != other_image.shape or not np.array_equal(image, other_image)


def test_pictures_are_as_promised(scenes):
    for image, figures in scenes:
        assert image.dtype == np.uint8
        height, width, channels = image.shape
        assert 320 <= width <= 480
        assert 320 <= height <= 380
        assert channels == 3
        assert 1 <= len(figures) <= 4
    assert {len(figures) for _, figures in scenes} >= {1, 2, 3}


def test_joints_lie_in_the_picture_and_in_the_box(scenes):
    for image, figure in figures_of(scenes):
        x, y, flag = figure.keypoints.T
        assert set(flag) <= {0, 1, 2}
        labelled = flag > 0
        assert not figure.keypoints[~labelled].any()
        left, top, width, height = figure.box_xywh
        # joints lie inside limbs, limbs inside the box; coordinates are rounded to 0.01
        assert (x[labelled] >= left - 1).all()
        assert (x[labelled] <= left + width + 1).all()
        assert (y[labelled] >= top - 1).all()
        assert (y[labelled] <= top + height + 1).all()
        assert left >= 0
        assert top >= 0
        assert left + width <= image.shape[1]
        assert top + height <= image.shape[0]
        assert 0 < figure.area <= width * height


def test_all_flags_occur_and_most_joints_are_visible(scenes):
    flags = np.concatenate([figure.keypoints[:, 2] for _, figure in figures_of(scenes)])
    share = [float((flags == flag).mean()) for flag in (0, 1, 2)]
    assert share[2] > 0.6
    assert share[1] > 0.03
    assert share[0] > 0.03


def test_left_is_at_the_right_of_a_figure_that_shows_its_face():
    rng = np.random.default_rng(0)
    seen = {"face": 0, "back": 0}
    for _ in range(200):
        figure = sample_figure(rng, 200)
        joints = figure.joints
        turned = figure.body.forward[2]
        if abs(turned) < 0.8:
            continue
        for left, right in ((5, 6), (11, 12)):
            assert JOINT_NAMES[left].startswith("left")
            assert np.sign(joints[left, 0] - joints[right, 0]) == np.sign(turned)
        seen["face" if turned > 0 else "back"] += 1
    assert min(seen.values()) > 20


def test_a_face_is_labelled_only_where_it_can_be_seen(scenes):
    backs = 0
    for _, figure in figures_of(scenes):
        points = figure.keypoints
        hidden_nose = points[0, 2] == 0
        if hidden_nose and points[5, 2] and points[6, 2] and points[5, 0] < points[6, 0]:
            backs += 1
            assert (points[1:3, 2] > 0).sum() < 2  # no two eyes on the back of a head
    assert backs > 3


def test_joint_names_pair_up_as_the_flip_pairs():
    for left, right in COCO_FLIP_PAIRS:
        assert JOINT_NAMES[left].replace("left", "right") == JOINT_NAMES[right]


def test_limbs_keep_their_lengths_in_space():
    figure = sample_figure(np.random.default_rng(1), 200)
    joints, build = figure.joints, figure.build
    for start, end, length in ((5, 7, build.upper_arm), (7, 9, build.forearm), (12, 14, build.thigh)):
        assert np.linalg.norm(joints[start] - joints[end]) == pytest.approx(length)


def test_written_set_loads_in_pycocotools(drawn):
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(drawn.annotations))
    assert len(coco.getImgIds()) == drawn.pictures == 6
    assert len(coco.getAnnIds()) == drawn.figures
    for record in coco.loadAnns(coco.getAnnIds()):
        assert len(record["keypoints"]) == 51
        assert record["num_keypoints"] == sum(flag > 0 for flag in record["keypoints"][2::3])
        assert record["iscrowd"] == 0


def test_written_set_is_what_the_pipeline_reads(drawn):
    dataset = CocoPersons.load(drawn.annotations, drawn.images)
    assert len(dataset.persons) == drawn.figures
    for record in dataset.images:
        image = cv2.imread(str(record.path))
        assert image.shape[:2] == (record.height, record.width)
    # JPEG changes the picture only a little
    assert np.abs(image.astype(int) - sample_scene((3, 5))[0]).mean() < 6


def test_written_set_is_the_same_bytes_and_starts_a_larger_one(drawn, tmp_path):
    smaller = write_dataset(tmp_path, 2, seed=3)
    for name in ("000000.jpg", "000001.jpg"):
        assert (smaller.images / name).read_bytes() == (drawn.images / name).read_bytes()
    large = json.loads(drawn.annotations.read_text())["annotations"]
    small = json.loads(smaller.annotations.read_text())["annotations"]
    assert small == large[: len(small)]


def test_an_empty_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="at least one"):
        write_dataset(tmp_path, 0, seed=1)
