"""Calibration on real crops of a real model that is known to be hard to quantise."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from posedge.benchmarks.accuracy import evaluate
from posedge.calibration.calibrate import plan_quantization, quantize, write_quantized
from posedge.calibration.datasets import CocoPersons, batches
from posedge.calibration.half import write_float16
from posedge.calibration.recipe import Recipe
from posedge.calibration.table import CalibrationTable
from posedge.export.graphs import load_graph, run_graph
from posedge.runtime.preprocess import Preprocessor
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.spec import ModelSpec

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"
)


@pytest.fixture(scope="module")
def val_crops(coco: Path, tinypose_spec: ModelSpec) -> NDArray[np.float32]:
    dataset = CocoPersons.load(coco / "val.json", coco / "images")
    return next(batches(dataset, Preprocessor(tinypose_spec), 16, limit=16)).batch


@pytest.fixture(scope="module")
def quantized(
    coco: Path, tinypose: Path, tinypose_spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, CalibrationTable]:
    """PP-TinyPose calibrated with min-max on 12 persons of the training images."""
    dataset = CocoPersons.load(coco / "train.json", coco / "images").take(12)
    path = tmp_path_factory.mktemp("int8") / "int8.onnx"
    stream = batches(dataset, Preprocessor(tinypose_spec), 8)
    return path, quantize(tinypose, stream, path, Recipe("minmax", False, False), dataset.image_list_sha256)


def peaks(heatmaps: NDArray[np.float32]) -> NDArray[np.intp]:
    """Row and column (N, K, 2) of each map's maximum."""
    flat = heatmaps.reshape(*heatmaps.shape[:2], -1).argmax(-1)
    return np.stack(np.unravel_index(flat, heatmaps.shape[2:]), -1)


def near(heatmaps: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Share of the joints found within one heatmap pixel of where they were."""
    return float((np.abs(peaks(heatmaps) - peaks(expected)).max(-1) <= 1).mean())


def test_the_persons_are_those_that_the_data_describes(coco: Path) -> None:
    val = CocoPersons.load(coco / "val.json", coco / "images")
    train = CocoPersons.load(coco / "train.json", coco / "images")
    assert (len(val.images), len(val.persons), val.num_joints) == (145, 420, 17)
    assert (len(train.images), len(train.persons)) == (101, 304)
    assert str(train.left_out) == "6 crowd regions, 87 without keypoints"
    detected = CocoPersons.load(coco / "val.json", coco / "images", coco / "val_detections.json")
    assert len(detected.persons) == 6968


def test_every_layer_is_calibrated(tinypose: Path, quantized: tuple[Path, CalibrationTable]) -> None:
    table = quantized[1]
    placement = plan_quantization(load_graph(tinypose), tinypose)
    assert len(placement.weights) == 269
    assert not placement.float_layers
    assert list(table.tensors) == list(placement.activations)
    assert table.crops == 12
    # normalised pixels: black and white in the three channels
    pixels = table.tensors["input"]
    assert -2.2 < pixels.minimum < -2.0
    assert 2.2 < pixels.maximum < 2.7


def test_int8_as_it_comes_collapses(
    tinypose: Path, quantized: tuple[Path, CalibrationTable], val_crops: NDArray[np.float32]
) -> None:
    expected = run_graph(load_graph(tinypose), val_crops, optimise=True)["heatmaps"]
    actual = run_graph(load_graph(quantized[0]), val_crops, optimise=True)["heatmaps"]
    assert np.isfinite(actual).all()
    assert near(actual, expected) < 0.5, "an INT8 graph this good would be news: is it quantised at all?"


@pytest.mark.slow
def test_the_default_recipe_holds_the_ap_with_every_convolution_in_int8(
    coco: Path, tinypose: Path, tinypose_spec: ModelSpec, tmp_path: Path
) -> None:
    persons = CocoPersons.load(coco / "train.json", coco / "images").take(48)
    table = quantize(tinypose, batches(persons, Preprocessor(tinypose_spec), 4), tmp_path / "int8.onnx")
    assert not table.excluded
    measured = CocoPersons.load(coco / "val.json", coco / "images")
    with OnnxRuntimeSession(tmp_path / "int8.onnx", tinypose_spec) as session:
        ap = evaluate(session, measured).figures.ap
    # FP32 has 0.673 (test_tinypose_accuracy.py); without equalisation INT8 has 0.38 (docs/calibration.md)
    assert ap > 0.643


def test_float16_is_faithful(tinypose: Path, val_crops: NDArray[np.float32], tmp_path: Path) -> None:
    write_float16(tinypose, tmp_path / "half.onnx")
    expected = run_graph(load_graph(tinypose), val_crops, optimise=True)["heatmaps"]
    actual = run_graph(load_graph(tmp_path / "half.onnx"), val_crops, optimise=True)["heatmaps"]
    assert np.abs(actual - expected).max() < 0.02 * np.abs(expected).max()
    assert near(actual, expected) > 0.99


@needs_rtx
@pytest.mark.parametrize("variant", ["int8", "fp16"])
def test_tensorrt_rtx_builds_both(
    tinypose: Path, quantized: tuple[Path, CalibrationTable], tmp_path: Path, variant: str
) -> None:
    from posedge.engines.build import build_engine
    from posedge.engines.lint import lint_file

    graph = tmp_path / f"{variant}.onnx"
    if variant == "int8":
        write_quantized(tinypose, quantized[1], graph)
    else:
        write_float16(tinypose, graph)
    assert lint_file(graph) == []
    result = build_engine(graph, tmp_path / "engine", flavour="tensorrt_rtx", time_limit_s=300)
    assert result.engine_bytes == (tmp_path / "engine").stat().st_size
