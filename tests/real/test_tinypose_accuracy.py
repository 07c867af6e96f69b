"""A trained network on real persons: the AP it is known to have, and what each wrong convention costs."""

import json
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from posedge.benchmarks.accuracy import Accuracy, evaluate, predict
from posedge.benchmarks.coco import ScoringRules, evaluate_keypoints, instance_scores, survivors
from posedge.calibration.datasets import CocoPersons, PersonCrops, batches
from posedge.runtime.heatmaps import merge_flip
from posedge.runtime.preprocess import Preprocessor
from posedge.runtime.sessions import Outputs
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.spec import ModelSpec

Maps = NDArray[np.float32]


@pytest.fixture(scope="module")
def spec(tinypose_spec: ModelSpec) -> ModelSpec:
    """The known figures were measured without NMS."""
    return replace(tinypose_spec, nms="none")


@pytest.fixture(scope="module")
def persons(coco: Path) -> CocoPersons:
    return CocoPersons.load(coco / "val.json", coco / "images")


class Recording(OnnxRuntimeSession):
    """A session that keeps what it computed, so that it is computed once."""

    def __init__(self, graph: Path, spec: ModelSpec) -> None:
        super().__init__(graph, spec)
        self.maps: list[Maps] = []

    def run(self, batch: Maps) -> Outputs:
        outputs = super().run(batch)
        self.maps.append(outputs[0])
        return outputs


class Replay:
    """A session that hands out what was recorded."""

    name, simulated = "replay", True

    def __init__(self, spec: ModelSpec, maps: Maps) -> None:
        self.spec = spec
        self._maps = maps

    def run(self, batch: Maps) -> Outputs:
        assert len(batch) == len(self._maps)
        return (self._maps,)

    def close(self) -> None:
        return None


@pytest.fixture(scope="module")
def evaluated(tinypose: Path, spec: ModelSpec, persons: CocoPersons) -> tuple[Accuracy, Maps]:
    with Recording(tinypose, spec) as session:
        return evaluate(session, persons), np.concatenate(session.maps)


@pytest.fixture(scope="module")
def accuracy(evaluated: tuple[Accuracy, Maps]) -> Accuracy:
    return evaluated[0]


@pytest.fixture(scope="module")
def flipped(
    tinypose: Path, spec: ModelSpec, persons: CocoPersons, evaluated: tuple[Accuracy, Maps]
) -> tuple[PersonCrops, Maps, Maps]:
    """All crops, their heatmaps, and those of the mirrored crops."""
    preprocessor = Preprocessor(spec)
    (crops,) = batches(persons, preprocessor, len(persons.persons))
    with OnnxRuntimeSession(tinypose, spec) as session:
        mirrored = [session.run(preprocessor.mirror(part))[0] for part in np.array_split(crops.batch, 53)]
    return crops, evaluated[1], np.concatenate(mirrored)


def ap_of(maps: Maps, crops: PersonCrops, spec: ModelSpec, persons: CocoPersons) -> float:
    predictions = predict(Replay(spec, maps), [crops])
    return evaluate_keypoints(persons.annotations, predictions, ScoringRules.of(spec)).ap


def test_known_figures_of_pp_tinypose(accuracy: Accuracy) -> None:
    assert (accuracy.persons, accuracy.images) == (420, 145)
    figures = accuracy.figures
    assert figures.ap == pytest.approx(0.673, abs=0.002)
    assert figures.ap50 == pytest.approx(0.895, abs=0.003)
    assert figures.ar == pytest.approx(0.706, abs=0.002)
    # wide: boxes are clipped to the image here as mmpose does (0.764); unclipped ones give 0.772
    assert figures.ap75 == pytest.approx(0.773, abs=0.011)


def test_bgr_where_rgb_is_meant_costs_its_known_share(
    tinypose: Path, spec: ModelSpec, persons: CocoPersons, accuracy: Accuracy
) -> None:
    with OnnxRuntimeSession(tinypose, replace(spec, colour_order="bgr")) as session:
        wrong = evaluate(session, persons).figures.ap
    assert 0.05 <= accuracy.figures.ap - wrong <= 0.09


def test_mirrored_maps_that_are_not_shifted_cost_their_known_share(
    flipped: tuple[PersonCrops, Maps, Maps], spec: ModelSpec, persons: CocoPersons, accuracy: Accuracy
) -> None:
    crops, maps, mirrored = flipped
    shifted = merge_flip(maps, mirrored, spec.flip_pairs, True)
    unshifted = merge_flip(maps, mirrored, spec.flip_pairs, False)
    averaged = [ap_of(merged, crops, spec, persons) for merged in (shifted, unshifted)]
    # the mirrored half alone, which the average with the upright maps hides in part
    alone = [ap_of(2 * merged - maps, crops, spec, persons) for merged in (shifted, unshifted)]
    assert averaged[0] > accuracy.figures.ap + 0.005
    assert averaged[1] < accuracy.figures.ap - 0.003
    assert 0.05 <= alone[0] - alone[1] <= 0.09
    assert 0.01 < averaged[0] - averaged[1] < 0.03, "what is left of it after averaging"


def test_evaluating_with_the_flip_test_is_merging_both_maps(
    flipped: tuple[PersonCrops, Maps, Maps], tinypose: Path, spec: ModelSpec, persons: CocoPersons
) -> None:
    crops, maps, mirrored = flipped
    few = persons.take(24)
    with OnnxRuntimeSession(tinypose, spec) as session:
        predictions = evaluate(session, few, flip_test=True).predictions
    all_of_them = predict(Replay(spec, merge_flip(maps, mirrored, spec.flip_pairs, True)), [crops])
    at = {person: index for index, person in enumerate(all_of_them.instance_ids.tolist())}
    chosen = [at[person] for person in predictions.instance_ids.tolist()]
    np.testing.assert_allclose(predictions.scores, all_of_them.scores[chosen], atol=1e-3)


def test_pycocotools_gives_the_same_figures(
    accuracy: Accuracy, persons: CocoPersons, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rules, found = ScoringRules(), accuracy.predictions
    scores = instance_scores(found, rules)
    truth = COCO(str(persons.annotations))
    results = []
    for i in survivors(found, rules):
        left, top, right, bottom = found.boxes_xyxy[i].tolist()
        joints = np.column_stack([found.keypoints[i], found.scores[i]]).ravel().tolist()
        results.append(
            {
                "image_id": int(found.image_ids[i]),
                "category_id": 1,
                "keypoints": joints,
                "score": float(scores[i]),
                "bbox": [left, top, right - left, bottom - top],
            }
        )
    evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    ours = evaluate_keypoints(persons.annotations, found, rules)
    np.testing.assert_allclose(astuple(ours), evaluation.stats, rtol=0, atol=1e-12)


def test_detection_boxes(tinypose: Path, spec: ModelSpec, coco: Path, tmp_path: Path) -> None:
    detections = [d for d in json.loads((coco / "val_detections.json").read_text()) if d["score"] > 0.5]
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(detections))
    persons = CocoPersons.load(coco / "val.json", coco / "images", boxes=path)
    with OnnxRuntimeSession(tinypose, replace(spec, nms="oks")) as session:
        found = evaluate(session, persons)
    assert found.persons == len(detections)
    # a weak detector: fewer persons are found than with the annotated boxes, many all the same
    assert 0.2 < found.figures.ap < 0.67
    assert found.predictions.box_scores.min() > 0.5
