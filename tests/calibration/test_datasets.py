import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posedge.calibration.datasets import CocoPersons, batches
from posedge.errors import DataError
from posedge.runtime.images import write_png
from posedge.runtime.preprocess import Preprocessor
from posedge.runtime.spec import ModelSpec

KEYPOINTS = [20, 20, 2, 30, 30, 2]
PREPROCESSOR = Preprocessor(ModelSpec(name="two joints", num_joints=2, flip_pairs=()))


def person(identity: int, image: int = 1, **changes: Any) -> dict[str, Any]:
    record = {
        "id": identity,
        "image_id": image,
        "category_id": 1,
        "bbox": [10, 20, 30, 20],
        "iscrowd": 0,
        "area": 300.0,
        "num_keypoints": 2,
        "keypoints": KEYPOINTS,
    }
    return {key: value for key, value in (record | changes).items() if value is not None}


def image(identity: int) -> dict[str, Any]:
    return {"id": identity, "file_name": f"{identity}.png", "width": 64, "height": 48}


def write(
    folder: Path, annotations: list[dict[str, Any]], images: int = 1, categories: Any = None
) -> tuple[Path, Path]:
    """An annotation file and a directory with its images."""
    for identity in range(1, images + 1):
        pixels = np.full((48, 64, 3), 40 * identity % 256, np.uint8)
        write_png(folder / "images" / f"{identity}.png", pixels)
    document = {"images": [image(i + 1) for i in range(images)], "annotations": annotations}
    document["categories"] = categories or [{"id": 1, "keypoints": ["nose", "tail"]}]
    path = folder / "persons.json"
    path.write_text(json.dumps(document))
    return path, folder / "images"


def load(folder: Path, annotations: list[dict[str, Any]], images: int = 1) -> CocoPersons:
    return CocoPersons.load(*write(folder, annotations, images))


def test_ground_truth_is_clipped_to_the_last_pixel_and_scores_one(tmp_path: Path) -> None:
    (record,) = load(tmp_path, [person(7, bbox=[-5, 20, 100, 100])]).images
    (found,) = record.persons
    assert found.box_xyxy.dtype == np.float32
    assert found.box_xyxy.tolist() == [0, 20, 63, 47]
    assert (found.annotation_id, found.image_id, found.box_score, found.area) == (7, 1, 1.0, 300.0)


def test_area_is_estimated_where_the_file_gives_none(tmp_path: Path) -> None:
    dataset = load(tmp_path, [person(1, area=None)])
    assert dataset.persons[0].area == pytest.approx(0.53 * 30 * 20)


def test_what_is_no_person_to_estimate_is_left_out_and_counted(tmp_path: Path) -> None:
    dataset = load(
        tmp_path,
        [
            person(1),
            person(2, iscrowd=1, keypoints=None),
            person(3, num_keypoints=0, keypoints=[0] * 6),
            person(4, keypoints=None),
            person(5, bbox=[70, 10, 20, 20]),  # wholly to the right: clipped to nothing
            person(6, bbox=[10, 10, 0, 20]),
            person(1, bbox=[0, 0, 10, 10]),  # an id that came before
            person(8, image=99),
        ],
    )
    assert [found.annotation_id for found in dataset.persons] == [1]
    assert dataset.persons[0].box_xyxy.tolist() == [10, 20, 40, 40], "the first of a repeated id is kept"
    assert str(dataset.left_out) == (
        "1 crowd regions, 2 without keypoints, 2 empty boxes, 1 repeated ids, 1 unlisted images"
    )


def test_detections_are_not_clipped_and_keep_their_scores(tmp_path: Path) -> None:
    annotations, images = write(tmp_path, [person(1)])
    detections = tmp_path / "detections.json"
    entries = [
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 9, 9], "score": 0.9},  # a car
        {"image_id": 1, "category_id": 1, "bbox": [-4, 2, 10, 20], "score": 0.5},
        {"image_id": 1, "category_id": 1, "bbox": [5, 5, 0, 3], "score": 0.25},
        {"image_id": 1, "category_id": 1, "bbox": [65, 5, 3, 3], "score": 0.25},
        {"image_id": 1, "category_id": 1, "bbox": [5, 5, 10, 10], "score": 0.25},
    ]
    detections.write_text(json.dumps(entries))
    dataset = CocoPersons.load(annotations, images, boxes=detections)
    assert [found.annotation_id for found in dataset.persons] == [0, 3], "indices count persons, empty too"
    assert dataset.persons[0].box_xyxy.tolist() == [-4, 2, 6, 22]
    assert [found.box_score for found in dataset.persons] == [0.5, 0.25]
    assert dataset.persons[0].area == 200
    assert str(dataset.left_out) == "2 empty boxes, 1 other categories"


def test_batches_are_full_and_keep_the_order(tmp_path: Path) -> None:
    people = [person(i, image=1 + i % 3, bbox=[i, i, 20, 30]) for i in range(7)]
    dataset = load(tmp_path, people, images=3)
    made = list(batches(dataset, PREPROCESSOR, 3))
    assert [len(batch.batch) for batch in made] == [3, 3, 1]
    assert [one.annotation_id for batch in made for one in batch.persons] == [0, 3, 6, 1, 4, 2, 5]
    assert made[1].names == (
        "2.png, annotation 1",
        "2.png, annotation 4",
        "3.png, annotation 2",
    )
    for batch in made:
        assert batch.batch.dtype == np.float32
        assert batch.batch.shape == (len(batch.persons), 3, 256, 192)
        assert batch.centre.shape == batch.scale.shape == (len(batch.persons), 2)
    whole = next(batches(dataset, PREPROCESSOR, 7))
    assert np.array_equal(whole.batch, np.concatenate([batch.batch for batch in made]))
    centres = [(one.box_xyxy[:2] + one.box_xyxy[2:]) / 2 for one in whole.persons]
    np.testing.assert_allclose(whole.centre, centres)


def test_a_limit_takes_one_person_of_each_image_before_a_second(tmp_path: Path) -> None:
    people = [person(10 * i + k, image=i) for i in range(1, 7) for k in range(3)]
    dataset = load(tmp_path, people, images=6)
    three = dataset.take(3)
    assert [record.id for record in three.images] == [1, 3, 5]
    nine = dataset.take(9)
    assert sorted(len(record.persons) for record in nine.images) == [1, 1, 1, 2, 2, 2]
    assert len(dataset.take(1000).persons) == 18
    limited = [one for batch in batches(dataset, PREPROCESSOR, 2, limit=9) for one in batch.persons]
    assert [one.annotation_id for one in limited] == [one.annotation_id for one in nine.persons]


def test_a_limit_on_detections_keeps_whole_images(tmp_path: Path) -> None:
    annotations, images = write(tmp_path, [person(i, image=i) for i in range(1, 7)], 6)
    detections = tmp_path / "detections.json"
    found = [
        {"image_id": i, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.5} for i in (1, 1, 1, 2, 2, 3, 5)
    ]
    detections.write_text(json.dumps(found))
    dataset = CocoPersons.load(annotations, images, boxes=detections)
    assert dataset.evaluated_images == (1, 2, 3, 4, 5, 6)
    assert dataset.take(7) is dataset
    fewer = dataset.take(4)
    assert [(record.id, len(record.persons)) for record in fewer.images] == [(1, 3), (3, 1)]
    assert fewer.evaluated_images == (1, 3)
    assert [record.id for record in dataset.take(1).images] == [1]


def test_the_hash_follows_what_is_cropped(tmp_path: Path) -> None:
    dataset = load(tmp_path, [person(1), person(2)])
    again = load(tmp_path, [person(1), person(2), person(3, iscrowd=1)])
    assert dataset.image_list_sha256 == again.image_list_sha256
    assert dataset.image_list_sha256 != dataset.take(1).image_list_sha256
    assert (
        dataset.image_list_sha256
        != load(tmp_path, [person(1), person(2, bbox=[10, 20, 30, 21])]).image_list_sha256
    )


def test_the_hash_follows_the_pixels(tmp_path: Path) -> None:
    annotations, images = write(tmp_path, [person(1)])
    before = CocoPersons.load(annotations, images).image_list_sha256
    write_png(images / "1.png", np.zeros((48, 64, 3), np.uint8))
    assert CocoPersons.load(annotations, images).image_list_sha256 != before


# the file's text, what the message must name
UNREADABLE = [
    ("", "is empty"),
    ("  \n", "is empty"),
    ('{"images": [', "not JSON"),
    ("\x00\xff", "not JSON"),
    ("[1, 2]", "not a COCO annotation file"),
    ('{"annotations": {}}', "not a COCO annotation file"),
    ('{"annotations": []}', "lists no images"),
    ('{"annotations": [], "images": [{"id": 1}]}', "image 0: it has no file_name"),
    ('{"annotations": [], "images": [7]}', "image 0: should be a JSON object"),
]


@pytest.mark.parametrize(("text", "message"), UNREADABLE)
def test_an_unusable_annotation_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "persons.json"
    path.write_text(text, "latin-1")
    with pytest.raises(DataError, match=message) as caught:
        CocoPersons.load(path, tmp_path)
    assert "persons.json" in str(caught.value)


def test_a_missing_annotation_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.json: cannot be read"):
        CocoPersons.load(tmp_path / "nothing.json", tmp_path)


# a record that no reading can make sense of, what the message must name
MALFORMED = [
    ({"bbox": [1, 2, float("nan"), 4]}, r"annotation 5: bbox: .* finite number, not nan"),
    ({"bbox": [1, 2, 1e300, 4]}, r"annotation 5: bbox: .* finite number"),
    ({"bbox": [1, 2, 3]}, r"annotation 5: bbox should be four numbers"),
    ({"bbox": [1, 2, "3", 4]}, r"annotation 5: bbox"),
    ({"bbox": None}, r"annotation 5: bbox should be four numbers"),
    ({"keypoints": [1, 2, 3]}, r"annotation 5: keypoints should be 6 numbers \(2 joints\), not 3"),
    ({"keypoints": {"nose": 1}}, r"annotation 5: keypoints should be 6 numbers"),
    ({"keypoints": [float("inf")] * 6}, r"annotation 5: keypoints"),
    ({"num_keypoints": "two"}, r"annotation 5: num_keypoints"),
    ({"area": "big"}, r"annotation 5: area"),
    ({"image_id": None}, r"annotation 5: image_id"),
    ({"id": "five"}, r"annotation 'five': id"),
]


@pytest.mark.parametrize(("changes", "message"), MALFORMED)
def test_a_malformed_annotation_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    record = {**person(5), **changes}
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path, [person(1), {key: value for key, value in record.items() if value is not None}])
    assert "persons.json" in str(caught.value)


def test_a_file_without_keypoints_says_which_file_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of its 1 annotations has keypoints.*person_keypoints"):
        load(tmp_path, [person(1, keypoints=None)])


def test_a_file_without_persons_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no person to estimate .*1 crowd regions"):
        load(tmp_path, [person(1, iscrowd=1)])


def test_missing_images_are_counted_and_named(tmp_path: Path) -> None:
    annotations, images = write(tmp_path, [person(i, image=i) for i in range(1, 7)], images=6)
    for identity in (1, 3, 4, 6):
        (images / f"{identity}.png").unlink()
    with pytest.raises(DataError, match=r"4 of the 6 images .* missing: 1\.png, 3\.png, 4\.png, \.\.\."):
        CocoPersons.load(annotations, images)
    with pytest.raises(DataError, match="does not exist"):
        CocoPersons.load(annotations, tmp_path / "elsewhere")


DETECTION = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
BAD_DETECTIONS = [
    ({}, "a detections file is a JSON list"),
    ([], "no person to estimate"),
    ([7], "detection 0: should be a JSON object"),
    ([DETECTION, DETECTION | {"image_id": 99}], "detection 1: image 99 is not in the annotation file"),
    ([DETECTION | {"bbox": [1, 2, 3]}], "detection 0: bbox should be four numbers"),
    ([DETECTION | {"score": None}], "detection 0: score"),
    ([DETECTION | {"category_id": 2}], "no person to estimate .*1 other categories"),
    ([{"image_id": 1}], "detection 0: category_id"),
]


@pytest.mark.parametrize(("document", "message"), BAD_DETECTIONS)
def test_bad_detections_are_named(tmp_path: Path, document: Any, message: str) -> None:
    annotations, images = write(tmp_path, [person(1)])
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=message) as caught:
        CocoPersons.load(annotations, images, boxes=path)
    assert "detections.json" in str(caught.value)


def test_an_unreadable_image_stops_the_stream_with_its_name(tmp_path: Path) -> None:
    dataset = load(tmp_path, [person(1), person(2, image=2)], images=2)
    dataset.images[1].path.write_bytes(b"")
    stream = batches(dataset, PREPROCESSOR, 1)
    next(stream)
    with pytest.raises(DataError, match=r"2\.png"):
        next(stream)


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    dataset = load(tmp_path, [person(1)])
    write_png(dataset.images[0].path, np.zeros((64, 48, 3), np.uint8))
    with pytest.raises(DataError, match=r"1\.png: the image is 48x64 but the annotation file says 64x48"):
        next(batches(dataset, PREPROCESSOR, 1))


@pytest.mark.parametrize("bad", [0, -3])
def test_sizes_must_be_positive(tmp_path: Path, bad: int) -> None:
    dataset = load(tmp_path, [person(1)])
    with pytest.raises(DataError, match="positive"):
        batches(dataset, PREPROCESSOR, bad)
    with pytest.raises(DataError, match="positive"):
        batches(dataset, PREPROCESSOR, 1, limit=bad)
