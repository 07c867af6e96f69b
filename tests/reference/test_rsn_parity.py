"""Every unit of RSN, which training reads, against the original implementation on deterministic weights."""

import importlib.util
from pathlib import Path

import numpy as np
import torch

from posedge.export.zoo import build_model


def test_every_units_heatmaps_equal_the_parity_fixture(reference: Path) -> None:
    specification = importlib.util.spec_from_file_location("fill", reference / "fixtures" / "fill.py")
    fill = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(fill)
    fixture = np.load(reference / "fixtures" / "parity_td-hm_rsn18_8xb32-210e_coco-256x192.npz")

    model = build_model("rsn_18_256x192")
    fill.fill_state_dict(model.state_dict())
    image = torch.from_numpy(fill.make_input(2, 256, 192))
    with torch.no_grad():
        every_unit = model.forward_all(image)

    # float32 spread of the original is at most 5.4e-5, a structural mistake moves it by 0.1 or more
    assert len(every_unit) == 4
    for ours, theirs in zip(every_unit, fixture["outs_all_sample0"], strict=True):
        np.testing.assert_allclose(ours[0].numpy(), theirs, atol=1e-3)
