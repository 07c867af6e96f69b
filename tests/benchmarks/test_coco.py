"""COCO figures where they can be worked out by hand. The comparison with mmpose is in tests/reference."""

from collections.abc import Callable
from dataclasses import astuple, replace
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
from posedge.errors import DataError
from posedge.runtime.spec import ModelSpec

WriteAnnotations = Callable[[list[dict[str, Any]]], Path]
BOX = ScoringRules(score="box", nms="none")
PLACES = {1: (60, 70), 2: (50, 90), 3: (100, 60)}


def annotation(annotation_id: int, image_id: int, area: float = 6000, **changes: Any) -> dict[str, Any]:
    x, y = PLACES[image_id]
    return {
        "id": annotation_id, "image_id": image_id, "category_id": 1, "iscrowd": 0, "area": area,
        "bbox": [x - 30, y - 50, 60, 100], "keypoints": [x, y, 2] * 17, "num_keypoints": 17, **changes,
    }  # fmt: skip


def found(*persons: tuple[int, int, float], shift: float = 0.0) -> Predictions:
    """(image, instance, box score) each, exactly right but for ``shift`` pixels."""
    places = np.array([PLACES[image] for image, _, _ in persons], np.float32).reshape(-1, 1, 2)
    count = len(persons)
    return Predictions(
        np.array([image for image, _, _ in persons], np.int64),
        np.array([instance for _, instance, _ in persons], np.int64),
        np.repeat(places, 17, axis=1) + np.float32(shift),
        np.full((count, 17), 0.5, np.float32),
        np.concatenate([places[:, 0] - [30, 50], places[:, 0] + [30, 50]], axis=1).astype(np.float32),
        np.array([score for _, _, score in persons], np.float32),
        np.full(count, 9000, np.float32),
    )


def test_all_found_is_one_and_nobody_found_is_zero(write_annotations: WriteAnnotations) -> None:
    path = write_annotations([annotation(i, i) for i in (1, 2, 3)])
    figures = evaluate_keypoints(path, found((1, 1, 1), (2, 2, 1), (3, 3, 1)), BOX)
    assert (figures.ap, figures.ap50, figures.ap75, figures.ar) == (1, 1, 1, 1)
    assert evaluate_keypoints(path, found(), BOX).ap == 0


def test_one_of_two_found(write_annotations: WriteAnnotations) -> None:
    path = write_annotations([annotation(1, 1), annotation(2, 2)])
    figures = evaluate_keypoints(path, found((1, 1, 1)), BOX)
    assert figures.ar == 0.5
    # precision is 1 at the 51 of COCO's 101 recall steps up to 0.5
    assert figures.ap == pytest.approx(51 / 101)


def test_sizes_without_anybody_have_no_figure(write_annotations: WriteAnnotations) -> None:
    medium = evaluate_keypoints(write_annotations([annotation(1, 1, 6000)]), found((1, 1, 1)), BOX)
    assert (medium.ap_medium, medium.ap_large, medium.ar_large) == (1, None, None)
    large = evaluate_keypoints(write_annotations([annotation(1, 1, 20000)]), found((1, 1, 1)), BOX)
    assert (large.ap_medium, large.ar_medium, large.ap_large) == (None, None, 1)


def test_annotation_id_zero_is_a_person_like_any_other(write_annotations: WriteAnnotations) -> None:
    # COCO's tools mark "matches nobody" by 0, so a person of that id is never found by them
    path = write_annotations([annotation(0, 1), annotation(1, 2)])
    assert evaluate_keypoints(path, found((1, 0, 1), (2, 1, 1)), BOX).ap == 1


def test_missing_area_and_missing_count_are_filled_in(write_annotations: WriteAnnotations) -> None:
    record = annotation(1, 1)
    del record["area"], record["num_keypoints"]
    figures = evaluate_keypoints(write_annotations([record]), found((1, 1, 1)), BOX)
    assert figures.ap == 1
    assert figures.ap_medium == 1  # 0.53 * 60 * 100 is between 32^2 and 96^2


def test_crowds_and_persons_without_joints_are_nobody_to_find(write_annotations: WriteAnnotations) -> None:
    unlabelled = annotation(2, 2, keypoints=[0] * 51, num_keypoints=0)
    crowd = annotation(3, 3, iscrowd=1)
    path = write_annotations([annotation(1, 1), unlabelled, crowd])
    assert evaluate_keypoints(path, found((1, 1, 1)), BOX).ar == 1


def test_only_the_images_that_were_asked_for_count(write_annotations: WriteAnnotations) -> None:
    path = write_annotations([annotation(i, i) for i in (1, 2, 3)])
    assert evaluate_keypoints(path, found((1, 1, 1)), BOX, image_ids=[1]).ap == 1
    assert evaluate_keypoints(path, found((1, 1, 1)), BOX).ar == pytest.approx(1 / 3)


def test_persons_who_were_not_asked_for_are_neither_missed_nor_wrong(
    write_annotations: WriteAnnotations,
) -> None:
    path = write_annotations([annotation(1, 1), annotation(2, 2)])
    asked = {(1, 1)}
    assert evaluate_keypoints(path, found((1, 1, 0.5)), BOX, person_ids=asked).ap == 1
    both = found((1, 1, 0.5), (2, 2, 0.9))
    assert evaluate_keypoints(path, both, BOX, person_ids=asked).ap == 1


def test_a_detection_without_any_joint_is_ignored(write_annotations: WriteAnnotations) -> None:
    path = write_annotations([annotation(1, 1)])
    persons = found((1, 1, 0.5), (1, 2, 0.9))
    wrong = replace(persons, keypoints=persons.keypoints + np.array([[[0]], [[500]]], np.float32))
    assert evaluate_keypoints(path, wrong, BOX).ap == pytest.approx(0.5)
    silent = replace(wrong, scores=np.array([[0.5] * 17, [0] * 17], np.float32))
    assert evaluate_keypoints(path, silent, BOX).ap == 1


def test_of_a_repeated_instance_the_first_stays() -> None:
    persons = found((2, 7, 0.1), (1, 7, 0.9), (2, 7, 0.9), (2, 3, 0.5))
    kept = survivors(persons, ScoringRules(nms="none"))
    assert kept.tolist() == [3, 0, 1]  # images as they come, in them by id


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("box_keypoint", 0.5 * (0.9 + 0.3) / 2),  # 0.1 and the joint that is no number do not count
        ("box", 0.5),
        ("keypoint", (0.9 + 0.3 + 0.1) / 4),
        ("rle", 0.5 + (0.9 + 0.3 + 0.1) / 4 + 0.9),
    ],
)
def test_instance_scores(mode: str, expected: float) -> None:
    person = replace(found((1, 1, 0.5)), scores=np.array([[0.9, 0.3, 0.1, np.nan]], np.float32))
    assert instance_scores(person, ScoringRules(score=mode)) == pytest.approx([expected])


def test_rules_come_from_the_spec() -> None:
    spec = ModelSpec(name="m", keypoint_threshold=0.3, nms="soft", nms_threshold=0.5)
    assert ScoringRules.of(spec) == ScoringRules("box_keypoint", 0.3, "soft", 0.5)
    with pytest.raises(DataError, match="score mode 'boxes'"):
        ScoringRules(score="boxes")


def test_nothing_is_printed(write_annotations: WriteAnnotations, capfd: pytest.CaptureFixture[str]) -> None:
    evaluate_keypoints(write_annotations([annotation(1, 1)]), found((1, 1, 1)), BOX)
    assert capfd.readouterr() == ("", "")


def test_unknown_images_and_other_joints_are_refused(write_annotations: WriteAnnotations) -> None:
    path = write_annotations([annotation(1, 1)])
    persons = found((1, 1, 1))
    stranger = replace(persons, image_ids=np.array([99]))
    with pytest.raises(DataError, match="image of the predictions, 99"):
        evaluate_keypoints(path, stranger, BOX)
    with pytest.raises(DataError, match="image to evaluate, 98"):
        evaluate_keypoints(path, persons, BOX, image_ids=[98])
    with pytest.raises(DataError, match="17 joints"):
        evaluate_keypoints(path, replace(persons, keypoints=persons.keypoints[:, :5]), BOX)
    with pytest.raises(DataError, match="no person with labelled joints"):
        evaluate_keypoints(path, found(), BOX, image_ids=[2])


def test_pycocotools_agrees(write_annotations: WriteAnnotations, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    random = np.random.default_rng(5)
    path = write_annotations(
        [annotation(i + 1, i % 3 + 1, float(random.choice([2e3, 2e4]))) for i in range(9)]
    )
    persons = found(*[(i % 3 + 1, i, float(random.random())) for i in range(24)])
    noise = random.normal(0, 8, persons.keypoints.shape) * random.random((24, 1, 1))
    persons = replace(persons, keypoints=(persons.keypoints + noise).astype(np.float32))
    ours = astuple(evaluate_keypoints(path, persons, BOX))

    truth = COCO(str(path))
    results = [
        {
            "image_id": int(persons.image_ids[i]),
            "category_id": 1,
            "keypoints": np.column_stack([persons.keypoints[i], persons.scores[i]]).ravel().tolist(),
            "score": float(persons.box_scores[i]),
            "bbox": [*persons.boxes_xyxy[i, :2].tolist(), 60.0, 100.0],
        }
        for i in range(len(persons))
    ]
    evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    assert 0.1 < evaluation.stats[0] < 0.9
    np.testing.assert_allclose(ours, evaluation.stats, rtol=0, atol=1e-12)
