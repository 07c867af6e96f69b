"""Evaluation end to end on pictures in which a small network is exactly right."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from posedge.benchmarks.accuracy import evaluate, predict
from posedge.calibration.datasets import CocoPersons, batches
from posedge.errors import DataError
from posedge.progress import LineProgress
from posedge.runtime.preprocess import Preprocessor
from posedge.runtime.sessions import Outputs
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.spec import ModelSpec


class Broken(OnnxRuntimeSession):
    """A session whose output overflows for every second person, as float16 does."""

    def run(self, batch: np.ndarray) -> Outputs:
        (heatmaps,) = super().run(batch)
        heatmaps[::2] = np.nan
        return (heatmaps,)


def test_a_right_network_gets_one(dot_session: OnnxRuntimeSession, dots: CocoPersons) -> None:
    accuracy = evaluate(dot_session, dots)
    assert accuracy.figures.ap == 1
    assert (accuracy.figures.ap_large, accuracy.figures.ap_medium) == (1, None)
    assert (accuracy.persons, accuracy.images) == (4, 3)
    for person, found in zip(dots.persons, accuracy.predictions.keypoints, strict=True):
        middle = (person.box_xyxy[:2] + person.box_xyxy[2:]) / 2
        assert np.abs(found - middle).max() < 4


def test_predictions_are_in_the_order_of_the_dataset(
    dot_session: OnnxRuntimeSession, dots: CocoPersons
) -> None:
    predictions = evaluate(dot_session, dots, batch=3).predictions
    assert predictions.instance_ids.tolist() == [person.annotation_id for person in dots.persons]
    assert predictions.image_ids.tolist() == [person.image_id for person in dots.persons]
    # boxes of 60x100 pixels, padded by 1.25 and then as wide as 48:64 asks
    np.testing.assert_allclose(predictions.areas, 125 * 125 * 48 / 64, rtol=1e-5)


def test_the_batch_size_changes_nothing(dot_session: OnnxRuntimeSession, dots: CocoPersons) -> None:
    one, many = (evaluate(dot_session, dots, batch=size).predictions for size in (1, 8))
    for name, column in vars(one).items():
        np.testing.assert_allclose(column, getattr(many, name), atol=1e-5)


def test_the_flip_test_mirrors_back(dot_network: bytes, dot_spec: ModelSpec, dots: CocoPersons) -> None:
    # this network is exactly symmetric, so its mirrored maps need no shift
    spec = replace(dot_spec, flip_shift=False)
    with OnnxRuntimeSession(dot_network, spec, threads=1) as session:
        plain, flipped = evaluate(session, dots), evaluate(session, dots, flip_test=True)
    assert flipped.figures.ap == 1
    np.testing.assert_allclose(flipped.predictions.keypoints, plain.predictions.keypoints, atol=2.5)
    with OnnxRuntimeSession(dot_network, replace(dot_spec, flip_pairs=()), threads=1) as session:
        shifted = evaluate(session, dots, flip_test=True).predictions.keypoints
    assert (shifted[..., 0] - plain.predictions.keypoints[..., 0]).mean() > 1


def test_a_dataset_that_was_cut_is_judged_on_what_is_left(
    dot_session: OnnxRuntimeSession, dots: CocoPersons
) -> None:
    for limit in (1, 3):
        accuracy = evaluate(dot_session, dots.take(limit))
        assert (accuracy.persons, accuracy.figures.ap, accuracy.figures.ar) == (limit, 1, 1)


def test_with_detections_everybody_in_the_images_should_be_found(
    dot_session: OnnxRuntimeSession, dots: CocoPersons, tmp_path: Path
) -> None:
    boxes = [
        {"image_id": person.image_id, "category_id": 1, "bbox": [*person.box_xyxy[:2].tolist(), 60, 100]}
        for person in dots.persons
        if person.annotation_id != 1  # one of the two in the second image
    ]
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([{**box, "score": 0.9} for box in boxes]))
    detected = CocoPersons.load(dots.annotations, tmp_path, boxes=path)
    accuracy = evaluate(dot_session, detected)
    assert accuracy.persons == 3
    assert accuracy.figures.ar == 0.75
    np.testing.assert_allclose(accuracy.predictions.box_scores, 0.9)


def test_outputs_that_are_not_numbers_are_persons_not_found(
    dot_network: bytes, dot_spec: ModelSpec, dots: CocoPersons
) -> None:
    with Broken(dot_network, dot_spec, threads=1) as session:
        accuracy = evaluate(session, dots, batch=8)
    assert accuracy.figures.ar == 0.5
    assert (accuracy.predictions.scores[::2] == 0).all()
    assert np.isfinite(accuracy.predictions.keypoints).all()


def test_scores_rank_as_they_were_decoded(dot_network: bytes, dot_spec: ModelSpec, dots: CocoPersons) -> None:
    # Megvii's scores reach 1.5; clipped to 1, persons could not be ranked
    spec = replace(dot_spec, codec="megvii", blur_kernel=5, std=(0.5, 0.5, 0.5))
    crops = batches(dots, Preprocessor(spec), 8)
    with OnnxRuntimeSession(dot_network, spec, threads=1) as session:
        assert predict(session, crops).scores.max() > 1


def test_progress_is_told_and_an_unreadable_image_is_named(
    dot_session: OnnxRuntimeSession, dots: CocoPersons, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(dot_session, dots, progress=LineProgress())
    assert "evaluating: done" in capsys.readouterr().err
    dots.images[1].path.write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"2\.png"):
        evaluate(dot_session, dots)


def test_no_crops_are_refused(dot_session: OnnxRuntimeSession) -> None:
    with pytest.raises(DataError, match="no person"):
        predict(dot_session, [])
