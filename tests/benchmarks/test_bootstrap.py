"""Per-image matching against COCO's own evaluation, and what an interval must do."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posedge.benchmarks.accuracy import evaluate
from posedge.benchmarks.bootstrap import DropInterval, Matches, match_persons, paired_drop
from posedge.benchmarks.coco import Predictions, ScoringRules, evaluate_keypoints
from posedge.calibration.datasets import CocoPersons
from posedge.errors import DataError
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.spec import ModelSpec

PERSONS = 60
BOX = ScoringRules(score="box", nms="none")


class Scene:
    """Real persons and what PP-TinyPose finds of them; noise makes it worse."""

    def __init__(self, dataset: CocoPersons, predictions: Predictions, rules: ScoringRules) -> None:
        self.dataset, self.predictions, self.rules = dataset, predictions, rules
        self.asked = {(person.image_id, person.annotation_id) for person in dataset.persons}

    def noisy(self, pixels: float, seed: int = 0) -> Predictions:
        noise = np.random.default_rng(seed).normal(0, pixels, self.predictions.keypoints.shape)
        return replace(self.predictions, keypoints=(self.predictions.keypoints + noise).astype(np.float32))

    def matches(self, predictions: Predictions) -> Matches:
        images = self.dataset.evaluated_images
        return match_persons(self.dataset.annotations, predictions, self.rules, images, self.asked)

    def coco_ap(self, predictions: Predictions) -> float:
        images = self.dataset.evaluated_images
        return evaluate_keypoints(self.dataset.annotations, predictions, self.rules, images, self.asked).ap


@pytest.fixture(scope="module")
def scene(coco: Path, tinypose: Path, tinypose_spec: ModelSpec) -> Scene:
    dataset = CocoPersons.load(coco / "val.json", coco / "images", limit=PERSONS)
    with OnnxRuntimeSession(tinypose, tinypose_spec) as session:
        predictions = evaluate(session, dataset).predictions
    return Scene(dataset, predictions, ScoringRules.of(tinypose_spec))


@pytest.mark.parametrize("pixels", [0, 1, 4, 1000])
def test_ap_on_real_persons_is_that_of_coco(scene: Scene, pixels: float) -> None:
    predictions = scene.noisy(pixels)
    ap = scene.matches(predictions).ap()
    assert ap == pytest.approx(scene.coco_ap(predictions), abs=1e-12)
    assert (ap > 0.5) == (pixels <= 1)


def joints(rng: np.random.Generator, labelled: bool = True) -> list[float]:
    points = np.column_stack([rng.uniform(20, 140, (17, 2)), rng.integers(0, 3, 17)])
    return (points if labelled else np.zeros((17, 3))).ravel().tolist()


def crowded(rng: np.random.Generator) -> tuple[list[dict[str, Any]], Predictions]:
    """Three images with crowds, persons without joints, twins, many detections and equal scores."""
    records: list[dict[str, Any]] = []
    for i in range(24):
        image, keypoints = i % 3 + 1, joints(rng, labelled=i % 6 != 5)
        if i in (6, 7):
            keypoints = records[i - 3]["keypoints"]
        box = [float(side) for side in rng.uniform([0, 0, 30, 30], [60, 40, 100, 90])]
        flags = np.array(keypoints[2::3])
        records.append(
            {
                "id": i, "image_id": image, "category_id": 1, "iscrowd": int(i % 8 == 0), "bbox": box,
                "area": float(rng.uniform(2e3, 4e4)), "keypoints": keypoints,
                "num_keypoints": int((flags > 0).sum()),
            }
        )  # fmt: skip
    source = rng.integers(0, len(records), 90)
    points = np.array([records[i]["keypoints"] for i in source]).reshape(-1, 17, 3)[..., :2]
    points = points + rng.normal(0, 12, points.shape) * rng.random((90, 1, 1)) ** 3
    images = np.array([records[i]["image_id"] for i in source], np.int64)
    scores = rng.choice([0.25, 0.5, 0.75, 1], 90) * rng.choice([1, 0.9], 90)
    found = Predictions(
        images, np.arange(90), points.astype(np.float32), np.ones((90, 17), np.float32),
        np.tile(np.array([10, 10, 100, 120], np.float32), (90, 1)), scores.astype(np.float32),
        np.full(90, 9000, np.float32),
    )  # fmt: skip
    return records, found


@pytest.mark.parametrize("seed", range(8))
def test_ap_of_crowded_images_is_that_of_coco(
    write_annotations: Callable[[list[dict[str, Any]]], Path], seed: int
) -> None:
    records, found = crowded(np.random.default_rng(seed))
    path = write_annotations(records)
    asked = {(record["image_id"], record["id"]) for record in records if record["id"] % 5}
    for rules in (BOX, ScoringRules(score="box", nms_threshold=0.7)):
        for image_ids, person_ids in ((None, None), (None, asked), ((1, 2, 3), asked)):
            theirs = evaluate_keypoints(path, found, rules, image_ids, person_ids).ap
            ours = match_persons(path, found, rules, image_ids, person_ids)
            assert ours.ap() == pytest.approx(theirs, abs=1e-12)
            assert 0.01 < theirs < 0.9


def test_an_image_that_counts_twice_is_one_that_is_there_twice(scene: Scene, tmp_path: Path) -> None:
    document = json.loads(scene.dataset.annotations.read_bytes())
    predictions = scene.noisy(2)
    counts = np.random.default_rng(3).integers(0, 4, len(scene.dataset.evaluated_images))
    images, records, parts = [], [], []
    of_id = {image["id"]: image for image in document["images"]}
    for image_id, count in zip(sorted(scene.dataset.evaluated_images), counts.tolist(), strict=True):
        for copy in range(count):
            there = int(image_id) + 10_000_000 * copy
            images.append({**of_id[image_id], "id": there})
            for record in document["annotations"]:
                if record["image_id"] == image_id:
                    records.append({**record, "image_id": there})
            members = predictions.image_ids == image_id
            part = Predictions(*(column[members] for column in vars(predictions).values()))
            parts.append(replace(part, image_ids=np.full(len(part), there)))
    path = tmp_path / "repeated.json"
    path.write_text(json.dumps({**document, "images": images, "annotations": records}))
    joined = Predictions(*(np.concatenate(c) for c in zip(*(vars(p).values() for p in parts), strict=True)))
    asked = {(copy * 10_000_000 + image, person) for image, person in scene.asked for copy in range(4)}
    theirs = evaluate_keypoints(path, joined, scene.rules, person_ids=asked).ap
    matches = scene.matches(predictions)
    assert matches.ap(counts) == pytest.approx(theirs, abs=1e-12)
    assert abs(matches.ap(counts) - matches.ap()) > 1e-3


def test_counting_every_image_twice_changes_nothing(scene: Scene) -> None:
    matches = scene.matches(scene.noisy(2))
    twice = np.full(len(matches.images), 2)
    assert matches.ap(twice) == pytest.approx(matches.ap(), abs=1e-12)


def test_counts_that_do_not_fit_are_refused_and_nobody_to_find_has_no_ap(scene: Scene) -> None:
    matches = scene.matches(scene.predictions)
    with pytest.raises(DataError, match=f"for {len(matches.images)} images"):
        matches.ap(np.ones(3, np.int64))
    with pytest.raises(DataError, match="not negative"):
        matches.ap(np.full(len(matches.images), -1))
    assert np.isnan(matches.ap(np.zeros(len(matches.images), np.int64)))


def test_a_variant_that_is_the_same_has_a_drop_of_exactly_nothing(scene: Scene) -> None:
    matches = scene.matches(scene.predictions)
    interval = paired_drop(matches, scene.matches(scene.predictions), samples=50)
    assert interval == DropInterval(0.0, 0.0, 0.0, 0.95, 50)


def test_a_worse_variant_has_an_interval_above_nothing(scene: Scene) -> None:
    reference, worse = scene.matches(scene.predictions), scene.matches(scene.noisy(4))
    found = paired_drop(reference, worse, samples=300)
    assert found.drop == pytest.approx(reference.ap() - worse.ap())
    assert 0 < found.low < found.drop < found.high < 1
    swapped = paired_drop(worse, reference, samples=300)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))


def test_the_same_draws_for_both_make_the_interval_narrower(scene: Scene) -> None:
    reference, other = scene.matches(scene.predictions), scene.matches(scene.noisy(1))
    paired = paired_drop(reference, other, samples=300)
    # the AP of either alone swings far more than their difference
    missed = replace(other, found=np.zeros_like(other.found))
    alone = paired_drop(reference, missed, samples=300)
    assert paired.high - paired.low < 0.7 * (alone.high - alone.low)


def only(matches: Matches, count: int) -> Matches:
    """The first images alone."""
    kept = matches.image_of < count
    return Matches(
        matches.images[:count], matches.persons[:count], matches.image_of[kept],
        matches.found[:, kept], matches.counted[:, kept],
    )  # fmt: skip


def test_fewer_images_make_the_interval_wider_and_so_does_a_higher_level(scene: Scene) -> None:
    reference, other = scene.matches(scene.predictions), scene.matches(scene.noisy(2))

    def width(count: int, level: float = 0.95) -> float:
        found = paired_drop(only(reference, count), only(other, count), samples=300, level=level)
        return found.high - found.low

    total = len(reference.images)
    assert width(total // 6) > 1.3 * width(total)
    assert width(total, 0.5) < 0.7 * width(total, 0.95)


def test_the_same_seed_gives_the_same_interval(scene: Scene) -> None:
    reference, other = scene.matches(scene.predictions), scene.matches(scene.noisy(2))
    first, again, another = (paired_drop(reference, other, 100, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.drop == another.drop
    assert (first.low, first.high) != (another.low, another.high)


def test_draws_without_anybody_to_find_are_drawn_again(scene: Scene) -> None:
    pair = only(scene.matches(scene.predictions), 2)
    half = replace(pair, persons=np.array([pair.persons[0], 0]), counted=pair.counted & (pair.image_of == 0))
    found = paired_drop(half, replace(half, found=np.zeros_like(half.found)), samples=40)
    assert np.isfinite([found.low, found.high]).all()
    nobody = replace(half, persons=np.zeros(2, np.int64))
    with pytest.raises(DataError, match="nobody to find"):
        paired_drop(nobody, nobody)


def test_what_cannot_be_compared_is_refused(scene: Scene) -> None:
    matches = scene.matches(scene.predictions)
    with pytest.raises(DataError, match="measure both on the same"):
        paired_drop(matches, only(matches, 3))
    with pytest.raises(DataError, match="two images at least"):
        paired_drop(only(matches, 1), only(matches, 1))
    for samples, level in ((0, 0.95), (10, 1.0), (10, 0.0)):
        with pytest.raises(DataError, match=f"{samples} samples and the level {level}"):
            paired_drop(matches, matches, samples, level)
