"""`posedge zoo` as text: what it shows is what was published."""

import json
from pathlib import Path
from typing import Any

import pytest

from posedge.export.download import cached_path
from posedge.export.zoo import ZOO
from posedge.export.zoo_table import listing, markdown


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POSEDGE_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def published(reference: Path) -> dict[str, dict[str, Any]]:
    models = json.loads((reference / "zoo.json").read_text())
    return {model["name"]: model for model in models if model["name"] in ZOO}


def test_the_listing_has_everything_of_each_model(published: dict[str, dict[str, Any]], cache: Path) -> None:
    header, *lines = listing(ZOO.values()).splitlines()
    assert header.split()[:5] == ["model", "task", "input", "parameters", "MACs"]
    assert [line.split()[0] for line in lines[: len(ZOO)]] == list(ZOO)
    for line in lines[: len(ZOO)]:
        model = published[line.split()[0]]
        figures = model["published"]
        accuracy = f"{figures['AP']:.3f}" if model["task"] == "pose" else f"{figures['top1'] / 100:.4f}"
        for text in (
            model["task"],
            f"{model['input_wh'][1]}x{model['input_wh'][0]}",
            f"{model['params'] / 1e6:.2f} M",
            f"{model['macs'] / 1e9:.2f} G",
            accuracy,
            model["checkpoint"].rsplit("/", 1)[1],
        ):
            assert f" {text} " in line
        assert line.endswith("no")
    assert str(cache) in lines[-1]
    assert "POSEDGE_CACHE" in lines[-1]


def test_the_listing_says_which_weights_are_here() -> None:
    entry = ZOO["rsn_18_256x192"]
    cached_path(entry.checkpoint).write_bytes(b"weights")
    lines = {line.split()[0]: line for line in listing(ZOO.values()).splitlines() if line}
    assert lines[entry.name].endswith("yes")
    assert sum(line.endswith("yes") for line in lines.values()) == 1


def test_markdown_has_the_published_figures(published: dict[str, dict[str, Any]]) -> None:
    text = markdown(ZOO.values())
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| [")]
    assert len(rows) == len(ZOO)
    for link, size, *numbers in rows:
        name, address = link.strip("[)").split("](")
        model = published[name]
        figures = model["published"]
        assert address == model["checkpoint"]
        assert size == f"{model['input_wh'][1]}x{model['input_wh'][0]}"
        if model["task"] == "pose":
            expected = [f"{figures[key]:.3f}" for key in ("AP", "AP50", "AP75", "AR", "AR50")]
        else:
            expected = [f"{figures[key]:.2f}%" for key in ("top1", "top5")]
        assert numbers[:-2] == expected
        assert numbers[-2:] == [f"{model['params'] / 1e6:.2f} M", f"{model['macs'] / 1e9:.2f} G"]
    for model in published.values():
        if "checkpoint_v1" in model:
            assert f"[{model['name']}]({model['checkpoint_v1']}) (AP {model['published_v1_AP']:.3f})" in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:  # every line of a table has as many cells
        assert len({line.count("|") for line in table.splitlines()}) == 1
