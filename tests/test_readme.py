"""The README's commands do what it says, from `posedge demo` on."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from posedge.runtime.images import read_image
from posedge.runtime.spec import ModelSpec

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def after_the_tour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in which every command of the tour has run, in order."""
    directory = tmp_path_factory.mktemp("tour")
    commands = directory / "bin"
    commands.mkdir()
    posedge = commands / "posedge"
    posedge.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m posedge.cli "$@"\n')
    posedge.chmod(0o755)
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"}
    printed = []
    for language, text in BLOCKS:
        command = [sys.executable, "-c", text] if language == "python" else ["sh", "-e", "-c", text]
        result = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, timeout=500, check=False
        )
        assert result.returncode == 0, f"{text}\n{result.stderr}"
        printed.append(result.stdout)
    (directory / "printed.txt").write_text("".join(printed))
    yield directory
    shutil.rmtree(directory)


@pytest.mark.slow
def test_the_demo_reaches_its_accuracy_on_figures_it_never_saw(after_the_tour: Path) -> None:
    receipt = json.loads((after_the_tour / "out" / "demo" / "receipt.json").read_text())
    assert receipt["data"]["persons"] == 200
    assert receipt["variants"]["fp32"]["ap"] >= 0.80
    assert abs(receipt["variants"]["fp16"]["ap_drop"]) <= 0.002
    for variant in receipt["variants"].values():
        assert variant["engine_bytes"] > 0
        assert variant["latency_ms"] is not None or "latency_ms" in variant["not_measured"]


@pytest.mark.slow
def test_the_demo_says_that_its_pictures_are_drawn_and_what_comes_next(after_the_tour: Path) -> None:
    printed = (after_the_tour / "printed.txt").read_text()
    assert "drawn, not photographed" in printed
    assert "posedge deploy rsn_18_256x192 --checkpoint" in printed
    assert "receipt.json" in printed


@pytest.mark.slow
def test_the_tour_leaves_a_drawn_pose_and_prints_shapes(after_the_tour: Path) -> None:
    drawn = read_image(after_the_tour / "out" / "pose.png")
    assert drawn.shape[2] == 3
    assert "(1, 17, 2) (1, 17)" in (after_the_tour / "printed.txt").read_text()


def test_make_knows_the_commands_of_the_first_lines() -> None:
    for target in re.findall(r"make (\w+) +#", README):
        result = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_the_spec_page_names_every_key_and_its_default() -> None:
    page = (ROOT / "docs" / "spec.md").read_text()
    for key, value in ModelSpec("x").to_dict().items():
        row = next((line for line in page.splitlines() if line.startswith("|") and f"`{key}`" in line), None)
        assert row, key
        if key not in ("name", "mean", "std", "flip_pairs"):
            assert f"`{json.dumps(value)}`" in row, key
