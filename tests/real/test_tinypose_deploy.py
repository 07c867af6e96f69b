"""A real model on real images through the whole job: what it costs is measured, and a collapse is said."""

import json
from pathlib import Path

import pytest

from posedge.calibration.recipe import Recipe
from posedge.deploy import Outcome, deploy
from posedge.options import DataPaths, DeployOptions
from posedge.runtime.spec import ModelSpec


@pytest.fixture(scope="module")
def outcome(
    tinypose: Path, tinypose_spec: ModelSpec, coco: Path, tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    directory = tmp_path_factory.mktemp("tinypose")
    spec = directory / "spec.json"
    spec.write_text(tinypose_spec.to_json())
    options = DeployOptions(
        model=str(tinypose),
        output=directory,
        data=DataPaths(coco / "val.json", coco / "images", coco / "train.json"),
        spec=spec,
        flip_test=False,
        recipe=Recipe("minmax", equalized=False, rounded=False),
        batch_sizes=(8,),
        seconds=0.5,
    )
    return deploy(options)


@pytest.mark.slow
def test_float_variants_keep_the_accuracy(outcome: Outcome) -> None:
    variants = json.loads((outcome.directory / "receipt.json").read_text())["variants"]
    assert variants["fp32"]["ap"] == pytest.approx(0.673, abs=0.002)
    assert abs(variants["fp16"]["ap_drop"]) <= 0.002
    assert outcome.report.data.persons == 420


@pytest.mark.slow
def test_the_collapse_of_int8_is_in_every_form_of_the_report(outcome: Outcome) -> None:
    receipt = json.loads((outcome.directory / "receipt.json").read_text())
    assert receipt["variants"]["int8"]["ap_drop"] > 0.3
    assert any("INT8 COLLAPSED" in warning for warning in receipt["warnings"])
    assert "INT8 COLLAPSED" in (outcome.directory / "report.txt").read_text()
    assert (outcome.directory / "report.csv").stat().st_size > 0
    assert (outcome.directory / "report.png").read_bytes().startswith(b"\x89PNG")
    assert outcome.report.recommended == "fp32"


@pytest.mark.slow
def test_every_variant_has_an_engine_that_was_not_timed(outcome: Outcome) -> None:
    receipt = json.loads((outcome.directory / "receipt.json").read_text())
    for name, variant in receipt["variants"].items():
        engine = outcome.directory / f"{name}.engine"
        assert variant["engine_bytes"] == engine.stat().st_size > 1_000_000
        assert variant["speed"]["engine"] is None
        assert "built and not run" in variant["not_measured"]["speed.engine"]
