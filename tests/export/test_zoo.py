"""The zoo by name."""

import pytest
import torch

from posedge.errors import GraphError
from posedge.export.zoo import ZOO, build_model, find_entry


def test_entries_are_found_by_their_spec_name() -> None:
    for name, entry in ZOO.items():
        assert find_entry(name) is entry
        assert entry.spec.name == name


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(GraphError, match="did you mean rsn_18_256x192"):
        find_entry("rsn18_256x192")


@pytest.mark.parametrize("name", ZOO)
def test_models_give_what_their_spec_says(name: str) -> None:
    spec = ZOO[name].spec
    with torch.device("meta"):  # shapes without arithmetic
        model = build_model(name)
        output = model(torch.zeros(2, 3, spec.input_wh[1], spec.input_wh[0]))
    assert not model.training
    expected = (spec.num_joints, spec.heatmap_wh[1], spec.heatmap_wh[0])
    assert tuple(output.shape[1:]) == ((1000,) if spec.task == "classification" else expected)
    assert len(output) == 2
