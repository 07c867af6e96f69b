"""What is packed for a borrowed machine runs there: here the stand-in for libcuda is that machine."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from posedge.runtime.bundle import VariantFiles, seal_bundle
from posedge.runtime.spec import ModelSpec

ROOT = Path(__file__).parents[3]
TOOL = ROOT / "tools" / "gpu_kit.sh"


def packed(*arguments: object) -> subprocess.CompletedProcess[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the files to pack are known from git, and this is no checkout")
    command = [str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_it_is_packed_unpacked_and_run(
    small_pose: Path, small_spec: ModelSpec, stand_in_process: dict[str, str], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    shutil.copy(small_pose, bundle / "fp32.onnx")
    seal_bundle(bundle, small_spec, {"fp32": VariantFiles("fp32.onnx")}, "fp32")
    done = packed(tmp_path / "kit.tar.gz", bundle)
    assert (done.returncode, done.stderr) == (0, "")
    with tarfile.open(tmp_path / "kit.tar.gz") as kit:
        kit.extractall(tmp_path, filter="data")
    here = tmp_path / "gpu_kit"
    assert (here / "bundle" / "bundle.json").is_file()
    assert not list(here.rglob("*.md"))  # no more than is needed
    # of the tests one, and of the benchmark that it is started with the arguments
    environment = {
        **stand_in_process,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parent / "fakes"),
        "PYTEST_ADDOPTS": "-k test_a_graph_does_what_was_captured",
    }
    command = [str(here / "run.sh"), "--device", "7"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert "1 passed" in (here / "gpu_tests.txt").read_text()
    assert "there is no CUDA device 7" in ran.stderr
    assert ran.returncode == 1


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    done = packed(tmp_path / "kit.tar.gz", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path} is no bundle")
    assert list(tmp_path.iterdir()) == []
    assert packed(tmp_path / "kit.tar.gz").returncode == 2
