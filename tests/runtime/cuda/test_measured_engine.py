"""The main job and the self test where engines run, on the stand-ins: figures come from the engine."""

import json
import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from posedge.benchmarks.engine_here import engine_here
from posedge.benchmarks.measure import Measurement, measure_variant
from posedge.benchmarks.place import device_description
from posedge.benchmarks.report.receipt import read_receipt
from posedge.benchmarks.report.results import BuiltEngine, MeasuredAccuracy, MeasuredSpeed, VariantReport
from posedge.benchmarks.self_test import SelfTest
from posedge.benchmarks.speed import NotMeasured
from posedge.benchmarks.tasks import ClassificationData, PoseData
from posedge.calibration.datasets import CocoPersons
from posedge.calibration.imagenet import ImageNet
from posedge.cli import main
from posedge.deploy import deploy
from posedge.files import sha256_file
from posedge.options import DeployOptions
from posedge.runtime.bundle import EngineBuild, VariantFiles, open_bundle, seal_bundle
from posedge.runtime.cuda import gpu
from posedge.runtime.images import write_png
from posedge.runtime.spec import ModelSpec
from posedge.runtime.target import Target

pytestmark = [pytest.mark.stand_in, pytest.mark.usefixtures("kernel_cache")]

PLACE = f"tensorrt 10.3.0 on stand-in device with {device_description()}"


@pytest.fixture
def job(options: DeployOptions, cuda) -> DeployOptions:
    return replace(options, precisions=("fp32",), seconds=0.01, flip_test=True, limit=4)


def places(variant: VariantReport) -> set[str]:
    parts = (variant.accuracy, variant.session_speed, variant.pipeline_speed, variant.engine_speed)
    return {part.measured_on for part in parts if isinstance(part, MeasuredAccuracy | MeasuredSpeed)}


def test_a_bundle_measured_on_a_cpu_is_measured_anew_on_the_engine(job: DeployOptions, cuda) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "DRIVER_LIBRARY", "libabsent.so.1")
        (before,) = deploy(job).report.variants
    assert isinstance(before.engine_speed, NotMeasured)
    assert "built and not run: there is no NVIDIA driver here" in before.engine_speed.reason
    assert not any(place.startswith("tensorrt") for place in places(before))

    outcome = deploy(job)
    (after,) = outcome.report.variants
    assert places(after) == {PLACE}
    assert after.engine == before.engine  # built by the first run and kept
    assert isinstance(after.engine_speed, MeasuredSpeed)
    assert after.engine_speed == after.session_speed
    assert [speed.batch for speed in after.engine_speed.by_batch] == [1, 2]
    assert isinstance(after.accuracy, MeasuredAccuracy)
    assert isinstance(before.accuracy, MeasuredAccuracy)
    assert after.accuracy.headline == pytest.approx(before.accuracy.headline, abs=0.02)
    receipt = json.loads((outcome.directory / "receipt.json").read_text())["variants"]["fp32"]
    assert receipt["measured_on"]["speed.engine"] == receipt["measured_on"]["ap"] == PLACE
    assert not any(cuda.live().values())

    written = (outcome.directory / "measurements" / "fp32.json").stat().st_mtime_ns
    assert deploy(job).report == outcome.report
    assert (outcome.directory / "measurements" / "fp32.json").stat().st_mtime_ns == written


def test_engines_are_tested_against_engines_built_anew(
    job: DeployOptions, capsys: pytest.CaptureFixture[str], cuda
) -> None:
    directory = deploy(job).directory
    capsys.readouterr()
    assert main(["verify", str(directory), "--run"]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("building fp32.engine ...") == 3
    assert f"fp32 tested with {PLACE}" in shown.out
    (tested,) = read_receipt(directory / "receipt.json").variants
    assert isinstance(tested.self_test, SelfTest)
    assert tested.self_test.sha256 == sha256_file(directory / "fp32.engine")
    assert tested.self_test.measured_on == PLACE
    assert len(tested.self_test.latency_ms) == 4  # the sealed engine's, and those of three built like it
    assert not any(cuda.live().values())

    (again,) = deploy(job).report.variants
    assert again.self_test == tested.self_test

    assert main(["build", str(directory), "--batch-profile", "1,1,2"]) == 0
    (built,) = read_receipt(directory / "receipt.json").variants
    for part in (built.accuracy, built.session_speed, built.engine_speed, built.self_test):
        assert isinstance(part, NotMeasured)
    assert places(built) == set()  # the old engine's figures are not the new one's
    open_bundle(directory)


def test_an_engine_that_cannot_be_built_anew(
    engine: Callable[..., bytes],
    small_pose: Path,
    small_spec: ModelSpec,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cuda,
) -> None:
    graph = onnx.load(small_pose)
    graph.opset_import[0].version = 1  # lint refuses it
    onnx.save(graph, tmp_path / "graph.onnx")
    (tmp_path / "fp32.engine").write_bytes(engine())
    files = VariantFiles("graph.onnx", "fp32.engine", EngineBuild(HERE))
    seal_bundle(tmp_path, small_spec, {"fp32": files}, "fp32")
    assert main(["verify", str(tmp_path), "--run"]) == 1
    said = capsys.readouterr().err
    assert "builds the engine of fp32 anew, and that failed: " in said
    assert f"not fit to be built. See all of it with: posedge build {tmp_path} --variant fp32" in said
    assert not any(cuda.live().values())


BUILT = BuiltEngine(1, 1.0, "tensorrt", "10.3.0", "here")
HERE = Target("tensorrt", "10.3.0", (86,), machine=platform.machine())
QUICK = Measurement(flip_test=False, batch_sizes=(1,), seconds=0.01)


def classifier(path: Path) -> ModelSpec:
    """A network whose logits are the means of the colours, and its spec."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    size: dict[str, Any] = {"input_wh": (32, 32), "resize_short": 36, "num_classes": 3}
    return ModelSpec("colours", task="classification", output_name="logits", **size)


def test_a_classifier_is_measured_on_its_engine(tmp_path: Path, cuda) -> None:
    import fake_trt

    graph, engine = tmp_path / "colours.onnx", tmp_path / "colours.engine"
    spec = classifier(graph)
    engine.write_bytes(fake_trt.engine_bytes(graph.read_bytes()))
    for label in range(3):  # red, green, blue
        folder = tmp_path / "images" / f"n{label:08d}"
        folder.mkdir(parents=True)
        write_png(folder / "a.png", np.full((40, 40, 3), 200 * np.eye(3, dtype=np.uint8)[2 - label]))
    data = ClassificationData(ImageNet.load(tmp_path / "images", 3))
    running = engine_here(engine, HERE)
    report = measure_variant("fp32", graph, spec, data, BUILT, running, QUICK)
    assert places(report) == {PLACE}
    assert isinstance(report.accuracy, MeasuredAccuracy)
    assert report.accuracy.headline == 1
    assert isinstance(report.pipeline_speed, MeasuredSpeed)
    assert not any(cuda.live().values())


def test_without_a_compiler_for_the_kernels_the_engine_is_measured_all_the_same(
    small_pose: Path,
    small_spec: ModelSpec,
    coco: Path,
    tmp_path: Path,
    engine: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
    cuda,
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    monkeypatch.setenv("POSEDGE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "fp32.engine"
    path.write_bytes(engine())
    data = PoseData(CocoPersons.load(coco / "val.json", coco / "images", limit=2))
    report = measure_variant("fp32", small_pose, small_spec, data, BUILT, engine_here(path, HERE), QUICK)
    assert places(report) == {PLACE}
    assert isinstance(report.engine_speed, MeasuredSpeed)
    assert isinstance(report.pipeline_speed, NotMeasured)
    assert "pip install 'posedge[cuda]'" in report.pipeline_speed.reason


def test_an_engine_for_another_device_is_not_opened(tmp_path: Path, cuda) -> None:
    for built, reason in (
        (replace(HERE, sms=(87,)), "it was built for other GPUs"),
        (
            replace(HERE, version="10.4.0"),
            "an engine runs only with the version of the library that built it",
        ),
    ):
        running = engine_here(tmp_path / "never read", built)
        assert isinstance(running, NotMeasured)
        assert f"built and not run: it does not run here: {reason}" in running.reason
