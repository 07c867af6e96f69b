"""Classifiers: Pillow's resize to the byte, the crop, the ranking, and a network whose answer is known."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from posedge import Classifier, PoseEstimator
from posedge.errors import BundleError, DataError, GraphError, SessionError
from posedge.runtime.bundle import VariantFiles, seal_bundle
from posedge.runtime.classify import ImagePreprocessor, top_classes
from posedge.runtime.resize import resize_part
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.spec import ModelSpec

# the classes are red, green and blue: the logit of each is that channel's mean of the middle of the image
SPEC = ModelSpec(
    "colours",
    task="classification",
    input_wh=(28, 28),
    mean=(0, 0, 0),
    std=(255, 255, 255),
    output_name="logits",
    num_classes=3,
    resize_short=32,
)
RED, GREEN, BLUE = (0, 0, 255), (0, 255, 0), (255, 0, 0)


def colour_network(gain: float = 10.0) -> bytes:
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Mul", ["flat", "gain"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.array(gain, np.float32), "gain")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def plain(colour: tuple[int, int, int], height: int = 40, width: int = 60) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "fp32.onnx").write_bytes(colour_network())
    seal_bundle(tmp_path, SPEC, {"fp32": VariantFiles("fp32.onnx")}, "fp32")
    return tmp_path


side = st.integers(1, 90)


@settings(deadline=None, max_examples=100)
@given(side, side, side, side, st.integers(0, 2**32 - 1))
def test_resizing_is_pillows_to_the_byte(height, width, new_height, new_width, seed):
    pillow = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    bilinear = pillow.Resampling.BILINEAR
    # one direction at a time: for odd shapes some versions of Pillow do the columns first
    narrow = pillow.fromarray(image).resize((new_width, height), bilinear)
    expected = np.asarray(narrow.resize((new_width, new_height), bilinear))
    whole = resize_part(image, (new_width, new_height), (0, 0), (new_width, new_height))
    np.testing.assert_array_equal(whole, expected)
    left, top = rng.integers(new_width), rng.integers(new_height)
    part = resize_part(image, (new_width, new_height), (left, top), (new_width - left, new_height - top))
    np.testing.assert_array_equal(part, expected[top:, left:])


def test_a_photograph_is_prepared_as_published(reference: Path) -> None:
    """Short edge to 256, the longer one cut to whole pixels, the middle 224: with Pillow, step by step."""
    pillow = pytest.importorskip("PIL.Image")
    spec = ModelSpec("r", task="classification", input_wh=(224, 224), num_classes=1000, output_name="logits")
    with pillow.open(reference / "images" / "000000000785.jpg") as picture:
        rgb = picture.convert("RGB")
    assert rgb.size == (640, 425)
    resized = rgb.resize((int(256 * 640 / 425), 256), pillow.Resampling.BILINEAR)
    left = round((resized.width - 224) / 2)
    crop = np.asarray(resized.crop((left, 16, left + 224, 240)), np.float32)
    expected = (crop - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    batch = ImagePreprocessor(spec)([np.asarray(rgb)[..., ::-1]])
    np.testing.assert_allclose(batch, expected.transpose(2, 0, 1)[None], atol=1e-5)


def test_only_the_middle_is_seen() -> None:
    image = plain(GREEN, 32, 96)
    image[:, :32], image[:, 64:] = RED, BLUE
    batch = ImagePreprocessor(SPEC)([image])
    assert (batch[0, 1] == 1).all()
    assert not batch[0, [0, 2]].any()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=12))
def test_the_likeliest_classes_come_first(logits):
    classes, probabilities = top_classes(np.array([logits], np.float32))
    assert classes.shape == probabilities.shape == (1, min(5, len(logits)))
    values = np.array(logits, np.float32)[classes[0]]
    assert (np.diff(values) <= 0).all()
    assert values[0] == np.float32(max(logits))
    assert (np.diff(probabilities[0]) <= 0).all()
    assert 0 < probabilities.sum() <= 1.0001
    if len(logits) <= 5:
        assert probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_ties_and_values_that_are_no_numbers() -> None:
    logits = np.array([[1, 1, 1], [np.nan, 0, np.nan], [0, np.inf, 3], [np.nan] * 3], np.float32)
    classes, probabilities = top_classes(logits)
    assert classes[:3, 0].tolist() == [0, 1, 1]
    np.testing.assert_allclose(probabilities[0], 1 / 3, rtol=1e-6)
    assert probabilities[1:, 0].tolist() == [1, 1, 0]
    assert top_classes(np.zeros((0, 3), np.float32))[0].shape == (0, 3)


def test_a_bundle_classifies_images_one_by_one_and_as_a_stream(bundle: Path) -> None:
    images = [plain(colour, height) for height in (40, 90, 200) for colour in (RED, GREEN, BLUE)]
    with Classifier(bundle, threads=1) as classifier:
        assert (classifier.variant, classifier.spec) == ("fp32", SPEC)
        classes, probabilities = classifier(images[2])
        assert classes[0] == 2
        # softmax of 10, 0, 0
        assert probabilities[0] == pytest.approx(1 / (1 + 2 * np.exp(-10)), abs=1e-5)
        assert probabilities.dtype == np.float32
        for size in (1, 4, 100):
            streamed = list(classifier.stream(iter(images), size))
            assert [int(found[0]) for found, _ in streamed] == [0, 1, 2] * 3
        assert classifier.batch(images)[0].shape == (9, 3)
        assert list(classifier.stream([])) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (plain(RED).astype(float), "float64"),
        (plain(RED)[0], "shape"),
    ],
)
def test_unusable_images(bundle: Path, image: np.ndarray, message: str) -> None:
    with Classifier(bundle) as classifier:
        with pytest.raises(DataError, match=message):
            classifier(image)
        results = classifier.stream([plain(RED), image], max_batch=1)
        assert next(results)[0][0] == 0
        with pytest.raises(DataError, match=message):
            next(results)


def test_closed_and_mistaken_models(bundle: Path, small_pose: Path, small_spec: ModelSpec) -> None:
    classifier = Classifier(bundle)
    classifier.close()
    classifier.close()
    with pytest.raises(SessionError, match="closed"):
        classifier(plain(RED))
    with pytest.raises(BundleError, match="Open it with Classifier"):
        PoseEstimator(bundle)
    with pytest.raises(BundleError, match="Open it with PoseEstimator"):
        Classifier.from_session(OnnxRuntimeSession(small_pose, small_spec))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"num_classes": 0}, "num_classes"), ({"resize_short": 20}, "resize_short is 20.*28x28")],
)
def test_specs_that_make_no_sense(changes: dict[str, int], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        dataclasses.replace(SPEC, **changes)


def test_a_graph_with_another_number_of_classes_is_refused() -> None:
    with pytest.raises(GraphError, match="num_classes"):
        OnnxRuntimeSession(colour_network(), dataclasses.replace(SPEC, num_classes=1000))
