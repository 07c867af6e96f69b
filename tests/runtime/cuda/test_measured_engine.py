"""The main job and the self test where engines run, on the stand-ins: figures come from the engine."""

import json
from dataclasses import replace

import pytest

from posedge.benchmarks.place import device_description
from posedge.benchmarks.report.receipt import read_receipt
from posedge.benchmarks.report.results import MeasuredAccuracy, MeasuredSpeed, VariantReport
from posedge.benchmarks.self_test import SelfTest
from posedge.benchmarks.speed import NotMeasured
from posedge.cli import main
from posedge.deploy import deploy
from posedge.files import sha256_file
from posedge.options import DeployOptions
from posedge.runtime.bundle import open_bundle
from posedge.runtime.cuda import gpu

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
