"""The evaluation against what mmpose 1.3's CocoMetric gave for the same predictions."""

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posedge.benchmarks.coco import (
    Predictions,
    ScoringRules,
    evaluate_keypoints,
    instance_scores,
    survivors,
)
from posedge.benchmarks.oks import COCO_SIGMAS, hard_nms, oks_matrix, soft_nms

SETS = ("mid_noise", "near_dups")
SCORE_MODES = {"bbox": "box", "keypoint": "keypoint", "bbox_rle": "rle"}
NMS_MODES = {"none": "none", "soft_oks_nms": "soft"}
IMAGES = (785, 40083, 196141, 197388)


@pytest.fixture(scope="module")
def expected(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "fixtures" / "eval_reference.json").read_text())


@pytest.fixture(scope="module")
def predictions(reference: Path) -> dict[str, Predictions]:
    return {name: read(reference / "fixtures" / f"eval_predictions_{name}.json") for name in SETS}


def read(path: Path) -> Predictions:
    records = json.loads(path.read_text())

    def column(key: str, dtype: type) -> np.ndarray:
        return np.array([record[key] for record in records], dtype)

    return Predictions(
        column("img_id", np.int64),
        column("id", np.int64),
        column("keypoints", np.float32),
        column("keypoint_scores", np.float32),
        column("bbox_xyxy", np.float32),
        column("bbox_score", np.float32),
        column("bbox_scale", np.float32).prod(axis=1),
    )


def rules(mode: str | dict[str, Any]) -> ScoringRules:
    if mode == "default":
        return ScoringRules()
    assert isinstance(mode, dict)
    names = {"score_mode": ("score", SCORE_MODES), "nms_mode": ("nms", NMS_MODES)}
    options = {"nms_thr": "nms_threshold", "keypoint_score_thr": "keypoint_threshold"}
    values: dict[str, Any] = {}
    for key, value in mode.items():
        if key in names:
            field, choices = names[key]
            values[field] = choices[value]
        else:
            values[options[key]] = value
    return ScoringRules(**values)


def kept_persons(predictions: Predictions, mode: ScoringRules) -> dict[str, list[tuple[int, float]]]:
    scores = instance_scores(predictions, mode)
    kept: dict[str, list[tuple[int, float]]] = {}
    for i in survivors(predictions, mode):
        entry = (int(predictions.instance_ids[i]), float(scores[i]))
        kept.setdefault(str(predictions.image_ids[i]), []).append(entry)
    return kept


@pytest.mark.parametrize("name", SETS)
def test_every_mode_keeps_the_same_persons_with_the_same_scores(
    name: str, expected: dict[str, Any], predictions: dict[str, Predictions]
) -> None:
    assert len(expected["reference"][name]) == 10
    for entry in expected["reference"][name]:
        kept = kept_persons(predictions[name], rules(entry["mode"]))
        assert sum(len(persons) for persons in kept.values()) == entry["n_out"], entry["mode"]
        assert set(kept) == set(entry["kept"])
        for image, persons in entry["kept"].items():
            # among equal scores the original's order is that of numpy's unstable sort
            ours = sorted(kept[image], key=lambda person: person[0])
            theirs = sorted(((p["id"], p["score"]) for p in persons), key=lambda person: person[0])
            assert [person for person, _ in ours] == [person for person, _ in theirs], (entry["mode"], image)
            np.testing.assert_allclose([s for _, s in ours], [s for _, s in theirs], atol=1e-6)


@pytest.mark.parametrize("name", SETS)
def test_every_mode_gives_the_same_ten_figures(
    name: str, reference: Path, expected: dict[str, Any], predictions: dict[str, Predictions]
) -> None:
    annotations = reference / "images" / "test_coco.json"
    for entry in expected["reference"][name]:
        figures = evaluate_keypoints(annotations, predictions[name], rules(entry["mode"]))
        np.testing.assert_allclose(
            astuple(figures), list(entry["stats"].values()), atol=1e-9, err_msg=entry["mode"]
        )


def image_of(predictions: Predictions, image: int) -> np.ndarray:
    return np.flatnonzero(predictions.image_ids == image)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("image", IMAGES)
def test_similarity_of_each_pair(
    name: str, image: int, expected: dict[str, Any], predictions: dict[str, Predictions]
) -> None:
    found, members = predictions[name], image_of(predictions[name], image)
    similarity = oks_matrix(found.keypoints[members], found.areas[members])
    # the original computes in float32
    np.testing.assert_allclose(similarity, expected["functional"][f"{name}/{image}"]["oks"], atol=1e-6)
    np.testing.assert_allclose(COCO_SIGMAS, expected["sigmas_float32"], atol=1e-8)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("image", IMAGES)
def test_suppression_on_the_box_scores(
    name: str, image: int, expected: dict[str, Any], predictions: dict[str, Predictions]
) -> None:
    found, members = predictions[name], image_of(predictions[name], image)
    entry = expected["functional"][f"{name}/{image}"]
    similarity, scores = np.array(entry["oks"]), found.box_scores[members]
    for threshold, kept in entry["keep"].items():
        assert hard_nms(similarity, scores, float(threshold)).tolist() == kept
    for threshold, kept in entry["soft_keep"].items():
        ours = soft_nms(similarity, scores, float(threshold))
        # persons with equal scores and boxes change places in the original's unstable sort
        assert scores[ours].tolist() == scores[kept].tolist()
