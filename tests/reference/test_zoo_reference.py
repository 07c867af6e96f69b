"""The zoo against the original implementations: published facts, state dicts key by key, parameters, MACs."""

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from posedge.export.macs import Cost, count_cost
from posedge.export.zoo import ZOO, ClassificationFigures, PoseFigures, build_model

NAMES = tuple(ZOO)


@cache
def facts(reference: Path) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in json.loads((reference / "zoo.json").read_text())}


@cache
def without_weights(name: str) -> nn.Module:
    """A network as it is built, on a device that stores no numbers."""
    with torch.device("meta"):
        return build_model(name)


@cache
def cost(name: str) -> Cost:
    return count_cost(without_weights(name), ZOO[name].spec.input_wh)


def test_the_zoo_is_complete_and_in_order(reference: Path) -> None:
    assert list(ZOO) == list(facts(reference))


@pytest.mark.parametrize("name", NAMES)
def test_entries_say_what_was_published(reference: Path, name: str) -> None:
    entry, fact = ZOO[name], facts(reference)[name]
    published = fact["published"]
    if isinstance(entry.published, PoseFigures):
        expected = [published[key] for key in ("AP", "AP50", "AP75", "AR", "AR50")]
    else:
        assert isinstance(entry.published, ClassificationFigures)
        expected = [published[key] / 100 for key in ("top1", "top5")]
    assert dataclasses.astuple(entry.published) == pytest.approx(expected)
    assert entry.checkpoint == fact["checkpoint"]
    assert entry.checkpoint_v1 == fact.get("checkpoint_v1")
    assert entry.published_ap_v1 == fact.get("published_v1_AP")


@pytest.mark.parametrize("name", NAMES)
def test_specs_are_those_of_the_original_configurations(reference: Path, name: str) -> None:
    spec, fact = ZOO[name].spec, facts(reference)[name]
    assert (spec.task, list(spec.input_wh)) == (fact["task"], fact["input_wh"])
    assert (list(spec.mean), list(spec.std)) == (fact["mean"], fact["std"])
    if spec.task == "pose":
        assert list(spec.heatmap_wh) == fact["heatmap_wh"]
        assert {"msra": "MSRAHeatmap", "megvii": "MegviiHeatmap"}[spec.codec] == fact["codec"]["type"]
        assert spec.flip_shift == fact["test_cfg"]["shift_heatmap"]
        assert spec.nms == fact["val_evaluator"].get("nms_mode", "oks")


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_equal_the_manifests(reference: Path, name: str) -> None:
    manifest = json.loads((reference / "manifests" / f"{name}.json").read_text())["state_dict"]
    state = without_weights(name).state_dict()
    ours = [[key, list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in state.items()]
    assert ours == manifest


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_macs_equal_the_originals(reference: Path, name: str) -> None:
    fact = facts(reference)[name]
    assert (cost(name).parameters, cost(name).macs) == (fact["params"], fact["macs"])


@pytest.mark.parametrize("name", NAMES)
def test_entries_state_what_is_counted(name: str) -> None:
    assert (ZOO[name].parameters, ZOO[name].macs) == (cost(name).parameters, cost(name).macs)
    if "rsn" in name:  # heads and skips that only training reads
        assert cost(name).deployed_macs < cost(name).macs
    else:
        assert cost(name).deployed_macs == cost(name).macs
