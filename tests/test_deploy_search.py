"""The main job with a budget: INT8 is searched on half of the images and confirmed on the other half."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from posedge.calibration.calibrate import calibrate, write_quantized
from posedge.calibration.datasets import CocoPersons, batches
from posedge.calibration.recipe import Recipe
from posedge.calibration.table import load_table
from posedge.deploy import deploy
from posedge.errors import CalibrationError, DataError
from posedge.export.graphs import load_graph, serialize
from posedge.options import DeployOptions
from posedge.progress import SilentProgress
from posedge.runtime.bundle import open_bundle
from posedge.runtime.preprocess import Preprocessor
from posedge.runtime.spec import ModelSpec


class Notes(SilentProgress):
    """Collects lines, and interrupts when the line ``until`` begins."""

    def __init__(self, until: str = "never") -> None:
        self.lines: list[str] = []
        self.until = until

    def note(self, text: str) -> None:
        self.lines.append(text)
        if text.startswith(self.until):
            raise KeyboardInterrupt


@pytest.fixture
def searching(options: DeployOptions) -> DeployOptions:
    return replace(options, precisions=("fp32", "int8"), search=True, max_drop=0.5)


def test_the_bundle_tells_what_was_searched_and_where(searching: DeployOptions) -> None:
    outcome = deploy(searching)
    found = json.loads((outcome.directory / "search.json").read_text())
    assert found["outcome"] == "holds"
    assert found["chosen"]["int8_share"] == 1
    assert found["searched"]["sha256"] != found["confirming"]["sha256"]
    assert outcome.report.variants[1].int8_share == 1
    notes = " ".join(outcome.report.notes)
    assert "INT8: 100.0 % of the convolutions' multiply-accumulates" in outcome.report.notes
    assert "the budget of 0.5 holds on 6 images that the search did not see" in notes
    for name in ("searched", "confirming"):
        assert f"{name} 6 persons from coco/val.json" in notes or f"{name} 6 persons from val.json" in notes
        assert found[name]["sha256"][:12] in notes
    assert "search.json" in (outcome.directory / "bundle.json").read_text()
    assert set(open_bundle(outcome.directory).variants) == {"fp32", "int8"}


def test_the_curve_is_told_and_each_trial_says_its_share(searching: DeployOptions) -> None:
    progress = Notes()
    outcome = deploy(searching, progress)
    (trial,) = json.loads((outcome.directory / "search.json").read_text())["trials"]
    drop = "{drop:+.4f} ({low:+.4f} to {high:+.4f})".format(**trial["measured"])
    share = "100.0 % of the convolutions' MACs in INT8"
    said = f"drop {drop}, within the budget"
    tried = progress.lines.index(f"search: 0 layers in float on the searched images: {share}, {said}")
    assert tried < progress.lines.index(f"  {share}: {said}")
    assert f"INT8 search, on the searched images: {share}: {said}." in outcome.report.notes


def test_an_interrupted_search_goes_on_and_a_finished_one_is_kept(searching: DeployOptions) -> None:
    with pytest.raises(KeyboardInterrupt):
        deploy(searching, Notes(until="search: 0 layers in float on the confirming images"))
    directory = searching.output / "small_pose" / "search"
    kept = {path.name: path.stat().st_mtime_ns for path in directory.iterdir() if path.suffix != ".onnx"}
    assert {"sensitivity.json", "fp32.searched.npz", "fp32.confirming.npz"} <= set(kept)
    deploy(searching, Notes())
    assert kept == {name: (directory / name).stat().st_mtime_ns for name in kept}
    again = Notes()
    deploy(searching, again)
    assert "int8: nothing has changed, kept" in again.lines


def test_too_few_images_to_divide_are_refused_before_any_work(searching: DeployOptions) -> None:
    with pytest.raises(DataError, match="3 images are too few to search on one half"):
        deploy(replace(searching, limit=3))
    assert not list(searching.output.rglob("*.onnx"))


def test_layers_in_float_are_in_the_table(
    small_pose: Path, small_spec: ModelSpec, coco: Path, tmp_path: Path
) -> None:
    persons = CocoPersons.load(coco / "train.json", coco / "images", limit=8)
    crops = batches(persons, Preprocessor(small_spec), 4)
    found = calibrate(small_pose, crops, Recipe(rounded=False))
    layers = [site.node for site in found.placement().inputs]
    kept = found.keeping_float(layers[1:2])
    kept.table.save(tmp_path / "table.json")
    placement = write_quantized(small_pose, load_table(tmp_path / "table.json"), tmp_path / "int8.onnx")
    assert layers[1] not in {site.node for site in placement.inputs}
    assert {site.node for site in placement.inputs} == set(layers) - {layers[1]}
    assert serialize(load_graph(tmp_path / "int8.onnx")) == serialize(kept.quantized())
    assert serialize(kept.quantized()) == serialize(found.quantized(layers[1:2]))
    with pytest.raises(CalibrationError, match="no_such_layer"):
        found.placement(["no_such_layer"])
