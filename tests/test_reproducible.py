"""The same inputs give the same bytes: two deploys, in two processes and two places."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from posedge.deploy import deploy
from posedge.options import DeployOptions
from posedge.runtime.bundle import SealedFile, open_bundle

ELSEWHERE = "import pickle, sys; from posedge.deploy import deploy; deploy(pickle.load(sys.stdin.buffer))"
REPEATABLE = ("graph", "engine", "calibration table")


def sealed(directory: Path) -> dict[str, SealedFile]:
    return {name: file for name, file in open_bundle(directory).files.items() if file.role in REPEATABLE}


def test_graphs_tables_and_engines_are_the_same_bytes(options: DeployOptions, tmp_path: Path) -> None:
    options = replace(options, precisions=("int8",), limit=2, calibration_crops=4, batch_sizes=(1,))
    here = deploy(options).directory
    there = tmp_path / "another" / "place"
    subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=pickle.dumps(replace(options, output=there)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"},
        check=True,
        timeout=300,
    )
    files = sealed(here)
    assert {file.role for file in files.values()} == set(REPEATABLE)
    assert sealed(there / here.name) == files
