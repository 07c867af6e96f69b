"""The kernels under compute-sanitizer, where it is: no access outside of memory, nothing read unset."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from posedge.runtime.cuda.gpu import what_is_missing

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("tool", ["memcheck", "initcheck"])
def test_the_kernels_are_clean(tool: str, request: pytest.FixtureRequest) -> None:
    missing = what_is_missing()
    if missing is not None:
        pytest.skip(f"no GPU can be used: {missing.message}")
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed; it comes with the CUDA toolkit")
    tests = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        str(Path(__file__).with_name("test_kernels.py")),
    ]
    cut = [f"--confcutdir={Path(__file__).parent.parent}", f"--rootdir={request.config.rootpath}"]
    done = subprocess.run(
        [sanitizer, "--tool", tool, "--target-processes", "all", "--error-exitcode", "9", *tests, *cut],
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-5000:]
