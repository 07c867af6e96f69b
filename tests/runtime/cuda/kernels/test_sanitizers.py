"""The kernels under AddressSanitizer and UBSan: nothing reads or writes outside, whatever the input is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import posedge

SANITIZERS = "-fsanitize=address,undefined,float-cast-overflow"


@pytest.fixture(scope="module")
def run(shim_compiler, tmp_path_factory):
    """Run sanitized.py with arguments on the kernels compiled with sanitizers."""
    library = tmp_path_factory.mktemp("sanitized") / "kernels.so"
    shim_compiler(library, "-O1", "-g", SANITIZERS, "-fno-sanitize-recover=all")
    # Python itself is not compiled with them, so the sanitizer's library must come first
    runtime = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps memory until it ends
        "PYTHONPATH": str(Path(posedge.__file__).parent.parent),
        "PYTHONMALLOC": "malloc",
    }

    def run_child(*arguments):
        return subprocess.run(
            [sys.executable, str(Path(__file__).with_name("sanitized.py")), str(library), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run_child


def test_nothing_reads_or_writes_outside(run):
    done = run()
    assert (done.returncode, done.stdout) == (0, "finished\n"), done.stderr


def test_the_sanitizer_would_notice(run):
    done = run("overrun")
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
