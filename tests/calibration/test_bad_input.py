"""Data and graphs that calibration cannot use: each is named, and nothing is half-written."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from PIL import Image

from posedge.calibration.calibrate import calibrate, quantize, write_quantized
from posedge.calibration.datasets import CocoPersons, batches
from posedge.calibration.observers import few_crops_note
from posedge.calibration.table import CalibrationTable
from posedge.deploy import deploy
from posedge.errors import CalibrationError, DataError
from posedge.export.graphs import load_graph, run_graph
from posedge.options import DeployOptions
from posedge.progress import SilentProgress
from posedge.runtime.preprocess import Preprocessor
from posedge.runtime.spec import ModelSpec


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def network(path: Path, first_bias: float | NDArray[np.float64] = 0.0, first_weight: float = 1.0) -> Path:
    """y = conv2(relu(conv1(x))) on 5 x 4 pixels, 3 to 4 to 2 channels."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[n, 3, 5, 4] x) => (float[n, 2, 5, 4] y)'
        "{ a = Conv(x, w1, b1) r = Relu(a) y = Conv(r, w2) }"
    )
    rng = np.random.default_rng(0)
    constants = {
        "w1": rng.normal(size=(4, 3, 1, 1)) * first_weight,
        "b1": np.full(4, first_bias),
        "w2": rng.normal(size=(2, 4, 1, 1)),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()
    )
    onnx.save(model, path)
    return path


def crops(count: int = 8, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 3, 5, 4)).astype(np.float32)


@contextmanager
def nothing_is_written(output: Path) -> Iterator[None]:
    """The file that was there stays, and no other appears beside it."""
    output.write_bytes(b"an earlier result")
    before = sorted(output.parent.iterdir())
    yield
    assert output.read_bytes() == b"an earlier result"
    assert sorted(output.parent.iterdir()) == before


def test_no_crops_at_all(tmp_path: Path) -> None:
    graph = network(tmp_path / "net.onnx")
    with (
        nothing_is_written(tmp_path / "int8.onnx"),
        pytest.raises(CalibrationError, match="give more images"),
    ):
        quantize(graph, [], tmp_path / "int8.onnx")


def test_a_file_without_persons(coco: Path, tmp_path: Path) -> None:
    document = json.loads((coco / "train.json").read_text())
    for record in document["annotations"]:
        record["iscrowd"] = 1
    (tmp_path / "crowds.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"crowds\.json: no person .* crowd regions"):
        CocoPersons.load(tmp_path / "crowds.json", coco / "images")


def test_an_image_that_cannot_be_read_ends_it_by_name(
    coco: Path, small_pose: Path, small_spec: ModelSpec, tmp_path: Path
) -> None:
    dataset = CocoPersons.load(coco / "train.json", coco / "images", limit=8)
    images = tmp_path / "images"
    images.mkdir()
    for record in dataset.images:
        (images / record.path.name).symlink_to(record.path)
    broken = images / dataset.images[5].path.name
    broken.unlink()
    broken.write_bytes(dataset.images[5].path.read_bytes()[:500])
    copied = CocoPersons.load(coco / "train.json", images, limit=8)
    with nothing_is_written(tmp_path / "int8.onnx"), pytest.raises(DataError, match=broken.name):
        quantize(small_pose, batches(copied, Preprocessor(small_spec), 4), tmp_path / "int8.onnx")


@pytest.mark.parametrize(("count", "said"), [(1, "from 1 crop only"), (7, "from 7 crops only"), (8, None)])
def test_few_crops_are_warned_of_and_used(tmp_path: Path, count: int, said: str | None) -> None:
    notes = Notes()
    table = calibrate(network(tmp_path / "net.onnx"), [crops(count)], progress=notes).table
    assert table.crops == count
    assert notes.texts == ([] if said is None else [few_crops_note(count)])
    assert said is None or said in notes.texts[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named_with_its_crop(tmp_path: Path, value: float) -> None:
    graph, pixels = network(tmp_path / "net.onnx"), crops()
    pixels[6, 1, 2, 3] = value
    with (
        nothing_is_written(tmp_path / "int8.onnx"),
        pytest.raises(CalibrationError, match=r"'x' .* NaN or infinity for batch 0, crop 6\. Check"),
    ):
        quantize(graph, [pixels], tmp_path / "int8.onnx")


def test_an_overflow_inside_is_named_with_its_tensor(tmp_path: Path) -> None:
    graph = network(tmp_path / "net.onnx", first_weight=1e38)
    with pytest.raises(CalibrationError, match=r"tensor 'r' .* NaN or infinity for batch 1, crop 0"):
        calibrate(graph, [crops() * 0, crops() * 100])


def test_a_tensor_of_zeros_leaves_its_readers_in_float(tmp_path: Path) -> None:
    graph = network(tmp_path / "net.onnx", first_bias=-1e3)
    table = quantize(graph, [crops()], tmp_path / "int8.onnx")
    assert dict(table.excluded) == {"r": "it was zero on every crop"}
    assert list(table.tensors) == ["x"]
    placement = write_quantized(graph, table, tmp_path / "int8.onnx")
    (layer,) = placement.float_layers
    assert layer.node == "y"
    assert "'r': it was zero on every crop" in layer.reason


def test_a_constant_tensor_leaves_its_readers_in_float(tmp_path: Path) -> None:
    """Its range would hold that one value and nothing that another image brings."""
    graph = network(tmp_path / "net.onnx", first_bias=0.7, first_weight=0.0)
    table = quantize(graph, [crops()], tmp_path / "int8.onnx")
    assert dict(table.excluded) == {"r": "it was 0.7 everywhere on every crop, from batch 0, crop 0 on"}
    assert list(table.tensors) == ["x"]
    (layer,) = write_quantized(graph, table, tmp_path / "int8.onnx").float_layers
    assert layer.node == "y"
    assert "'r': it was 0.7 everywhere" in layer.reason
    expected, actual = (
        run_graph(load_graph(path), crops(seed=1))["y"] for path in (graph, tmp_path / "int8.onnx")
    )
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.01 * np.abs(expected).max())


def test_constant_channels_that_differ_are_named_and_stay_in_int8(tmp_path: Path) -> None:
    """A layer that was pruned to its biases makes such a tensor, and its range is a range."""
    graph = network(tmp_path / "net.onnx", first_bias=np.array([0.2, 0.4, 0.6, 0.9]), first_weight=0.0)
    notes = Notes()
    table = quantize(graph, [crops()], tmp_path / "int8.onnx", progress=notes)
    assert not table.excluded
    assert set(table.tensors) == {"x", "r"}
    (note,) = notes.texts
    assert "1 tensor had the same value in each channel on every crop, from batch 0, crop 0 on: 'r'" in note
    expected, actual = (
        run_graph(load_graph(path), crops(seed=1))["y"] for path in (graph, tmp_path / "int8.onnx")
    )
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.02 * np.abs(expected).max())


def test_one_crop_shows_no_constants(tmp_path: Path) -> None:
    """Behind a global pooling each channel of a crop has one value, whatever the crop."""
    model = onnx.load(network(tmp_path / "net.onnx"))
    pooled = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[n, 3, 5, 4] x) => (float[n, 2, 1, 1] y)'
        "{ a = Conv(x, w1, b1) r = Relu(a) p = GlobalAveragePool(r) y = Conv(p, w2) }"
    )
    pooled.graph.initializer.extend(model.graph.initializer)
    onnx.save(pooled, tmp_path / "pooled.onnx")
    notes = Notes()
    table = calibrate(tmp_path / "pooled.onnx", [crops(1)], progress=notes).table
    assert not table.excluded
    assert notes.texts == [few_crops_note(1)]
    notes = Notes()
    assert not calibrate(tmp_path / "pooled.onnx", [crops(8)], progress=notes).table.excluded
    assert not notes.texts


@pytest.mark.parametrize("colour", [(0, 0, 0), (-2.12, -2.04, -1.8)], ids=["zero", "normalised black"])
def test_blank_images_are_refused(tmp_path: Path, colour: tuple[float, float, float]) -> None:
    """Black is not zero behind a normalisation, and then every tensor has a range of some kind."""
    blank = np.broadcast_to(np.array(colour, np.float32)[:, None, None], (8, 3, 5, 4)).copy()
    graph = network(tmp_path / "net.onnx")
    with (
        nothing_is_written(tmp_path / "int8.onnx"),
        pytest.raises(CalibrationError, match=r"crops are blank: .*from batch 0, crop 0 on.*mean and std"),
    ):
        quantize(graph, [blank[:4], blank[4:]], tmp_path / "int8.onnx")


def test_one_crop_with_a_picture_is_enough_to_be_no_blank(tmp_path: Path) -> None:
    pixels = np.full((8, 3, 5, 4), -2.1, np.float32)
    pixels[7, 1, 2, 3] = 1.5
    assert calibrate(network(tmp_path / "net.onnx"), [pixels]).table.crops == 8


def test_blank_images_are_named(coco: Path, small_pose: Path, small_spec: ModelSpec, tmp_path: Path) -> None:
    dataset = CocoPersons.load(coco / "train.json", coco / "images", limit=3)
    images = tmp_path / "images"
    images.mkdir()
    for record in dataset.images:
        Image.new("RGB", (record.width, record.height)).save(images / record.path.name)
    black = CocoPersons.load(coco / "train.json", images, limit=3)
    with pytest.raises(CalibrationError, match=f"blank: .*from {dataset.images[0].path.name}, annotation"):
        calibrate(small_pose, batches(black, Preprocessor(small_spec), 4))


def test_a_graph_that_is_quantised_already(tmp_path: Path) -> None:
    graph = network(tmp_path / "net.onnx")
    quantize(graph, [crops()], tmp_path / "once.onnx")
    with (
        nothing_is_written(tmp_path / "int8.onnx"),
        pytest.raises(CalibrationError, match=r"once\.onnx: .*quantised already; give its float32 form"),
    ):
        quantize(tmp_path / "once.onnx", [crops()], tmp_path / "int8.onnx")


def test_a_table_of_another_graph(tmp_path: Path) -> None:
    table: CalibrationTable = calibrate(network(tmp_path / "net.onnx"), [crops()]).table
    other = network(tmp_path / "other.onnx", first_bias=0.5)
    with (
        nothing_is_written(tmp_path / "int8.onnx"),
        pytest.raises(CalibrationError, match=r"other\.onnx: .*another graph.*Calibrate this graph"),
    ):
        write_quantized(other, table, tmp_path / "int8.onnx")


def test_the_report_says_that_crops_were_few(options: DeployOptions) -> None:
    few = replace(options, calibration_crops=4, precisions=("int8",), limit=4, batch_sizes=(1,))
    note = few_crops_note(4)
    assert note is not None
    assert note in deploy(few).report.notes
