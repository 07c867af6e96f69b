"""The stand-ins offer no more than the libraries that they stand in for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAKES = Path(__file__).parent / "fakes"

# public attributes of each class and enumeration of a module
LISTING = """
import importlib, json, sys
module = importlib.import_module("tensorrt_rtx")
classes = json.loads(sys.argv[1])
print(json.dumps({c: [n for n in dir(getattr(module, c, None)) if n[0] != "_"] for c in classes}))
"""
CLASSES = (
    *("Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig", "IRuntimeCache", "ILogger"),
    *("TensorIOMode", "DataType", "ExecutionContextAllocationStrategy", "CudaGraphStrategy"),
    "DynamicShapesKernelSpecializationStrategy",
)


def listing(**environment: str) -> dict[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", LISTING, json.dumps(CLASSES)],
        env=environment or None,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_the_stand_in_for_tensorrt_rtx_has_nothing_that_the_library_has_not(
    stand_in_process: dict[str, str],
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    real, fake = listing(), listing(**stand_in_process)
    for name in CLASSES:
        assert fake[name], f"{name} is not in the stand-in"
        assert set(fake[name]) <= set(real[name]), name
