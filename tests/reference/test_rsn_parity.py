"""RSN against the original implementation: state dicts key by key, outputs on deterministic weights."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from posedge.export.models.rsn import RSN
from posedge.export.zoo import build_model

LAYERS = {
    "rsn_18_256x192": ((2, 2, 2, 2), 1),
    "rsn_50_256x192": ((3, 4, 6, 3), 1),
    "2xrsn_50_256x192": ((3, 4, 6, 3), 2),
    "3xrsn_50_256x192": ((3, 4, 6, 3), 3),
}


@pytest.mark.parametrize("name", LAYERS)
def test_state_dict_equals_the_manifest(reference: Path, name: str) -> None:
    manifest = json.loads((reference / "manifests" / f"{name}.json").read_text())["state_dict"]
    state = RSN(*LAYERS[name]).state_dict()
    ours = [[key, list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in state.items()]
    assert ours == manifest


def test_outputs_equal_the_parity_fixture(reference: Path) -> None:
    specification = importlib.util.spec_from_file_location("fill", reference / "fixtures" / "fill.py")
    fill = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(fill)
    fixture = np.load(reference / "fixtures" / "parity_td-hm_rsn18_8xb32-210e_coco-256x192.npz")

    model = build_model("rsn_18_256x192")
    fill.fill_state_dict(model.state_dict())
    image = torch.from_numpy(fill.make_input(2, 256, 192))
    with torch.no_grad():
        deployed = model(image).numpy()
        every_unit = model.forward_all(image)

    # float32 spread of the original is at most 5.4e-5, a structural mistake moves it by 0.1 or more
    np.testing.assert_allclose(deployed, fixture["out"], atol=1e-3)
    assert len(every_unit) == 4
    for ours, theirs in zip(every_unit, fixture["outs_all_sample0"], strict=True):
        np.testing.assert_allclose(ours[0].numpy(), theirs, atol=1e-3)
