"""A spec as JSON: what comes back, and what is refused with words that a person understands."""

import json
from pathlib import Path

import pytest

from posedge.errors import GraphError
from posedge.runtime.spec import ModelSpec, read_spec, spec_from_dict


def test_a_spec_survives_json() -> None:
    spec = ModelSpec("a", input_wh=(288, 384), heatmap_wh=(72, 96), codec="unbiased", blur_kernel=17)
    assert spec_from_dict(json.loads(json.dumps(spec.to_dict())), "here") == spec


def test_whole_numbers_may_be_written_as_floats() -> None:
    spec = spec_from_dict({"name": "a", "input_wh": [192.0, 256], "box_padding": 1}, "here")
    assert spec.input_wh == (192, 256)
    assert spec.box_padding == 1.0


REFUSED = {
    "input_wh": ([192.7, 256], "a list of 2 whole numbers"),
    "heatmap_wh": ([48], "a list of 2 whole numbers"),
    "num_joints": (float("inf"), "a whole number"),
    "blur_kernel": (11.5, "a whole number"),
    "box_padding": (float("nan"), "a number"),
    "mean": ([1, 2, "3"], "a list of 3 numbers"),
    "std": ([1, 2, True], "a list of 3 numbers"),
    "flip_pairs": ([[1, 2.5]], "a list of pairs of whole numbers"),
    "flip_shift": (1, "true or false"),
    "codec": (3, "a text"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_value_of_another_type_is_named_with_what_it_should_be(key: str, tmp_path: Path) -> None:
    value, words = REFUSED[key]
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"name": "a", key: value}))
    with pytest.raises(GraphError, match=f"{path}: {key} should be {words}, not "):
        read_spec(path)
