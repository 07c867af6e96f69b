"""Calibration's memory does not grow with the crops, and what measures it ends what takes too much."""

import gc
import operator
import os
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from posedge.benchmarks.calibration_memory import main
from posedge.benchmarks.watched import Ended, Finished, Limits, watched
from posedge.calibration.calibrate import calibrate
from posedge.calibration.statistics import Observer
from posedge.errors import GraphError
from posedge.runtime.spec import ModelSpec, read_spec

MIB = 1 << 20
AMPLE = Limits(1 << 40, 600)


def stream(count: int, growing: bool = False) -> Iterator[NDArray[np.float32]]:
    """Batches of two crops for ``small_pose``; ``growing``: each larger than all before."""
    rng = np.random.default_rng(0)
    for index in range(count):
        scale = np.float32(1.5**index if growing else 1)
        yield rng.normal(size=(2, 3, 64, 48)).astype(np.float32) * scale


def test_an_observer_holds_the_same_after_2_and_50_batches() -> None:
    def held(batches: int) -> int:
        observer = Observer()
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for batch in stream(batches, growing=True):
            observer.update(batch)
        del batch
        gc.collect()
        size = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert observer.result().count == batches * 2 * 64 * 48
        return size

    held(50)  # caches
    few, many = held(2), held(50)
    assert few > 1000, "nothing was counted"
    assert many - few < 5000  # a batch has 73,728 bytes


def test_calibration_peaks_alike_with_2_and_50_batches(small_pose: Path) -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        calibrate(small_pose, stream(count))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(1)  # imports and caches
    assert peak(50) < 1.05 * peak(2)  # all that one crop makes in the network is about 180 kB


def test_torch_is_not_loaded(small_pose: Path, tmp_path: Path) -> None:
    program = (
        "import sys; import numpy as np; from pathlib import Path; from posedge.calibration import quantize;"
        "crops = [np.random.default_rng(0).normal(size=(8, 3, 64, 48)).astype(np.float32)];"
        "quantize(Path(sys.argv[1]), crops, Path(sys.argv[2])); assert 'torch' not in sys.modules"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(small_pose), str(tmp_path / "int8.onnx")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_the_command_measures_each_count_in_a_process(
    coco: Path,
    small_pose: Path,
    small_spec: ModelSpec,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "spec.json").write_text(small_spec.to_json())
    files = ["--model", str(small_pose), "--spec", str(tmp_path / "spec.json")]
    data = ["--images", str(coco / "images"), "--annotations", str(coco / "train.json")]
    assert main([*files, *data, "--crops", "9", "310"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^ +\d+ +\d+\.\d  9 crops of 9 images$", said, re.M)
    assert re.search(r"^ +\d+ +\d+\.\d  310 crops of 101 images, repeated$", said, re.M)
    few, many = (float(peak) for peak in re.findall(r"^ +(\d+) +\d+\.\d  ", said, re.M))
    assert 30 < few < 1000
    assert many < 1.05 * few
    assert main([*files, *data, "--crops", "9", "--memory-limit", "0.02"]) == 1
    assert "9 crops: killed at 0.0 GiB after" in capsys.readouterr().out
    assert main(["--model", "none.onnx", *files[2:], *data, "--crops", "9"]) == 1
    assert "none.onnx" in capsys.readouterr().err


def test_what_a_process_returns_comes_with_its_peak() -> None:
    small, large = (watched(AMPLE, operator.mul, b"x", size * MIB) for size in (1, 100))
    assert isinstance(small, Finished)
    assert isinstance(large, Finished)
    assert large.value == b"x" * (100 * MIB)
    assert 90 * MIB < large.peak_bytes - small.peak_bytes < 130 * MIB


# limits, work, its arguments, what the row says
ENDED = [
    (Limits(300 * MIB, 600), operator.mul, (b"x", 3000 * MIB), r"killed at 0\.3 GiB after \d+ s"),
    (Limits(1 << 40, 0.5), time.sleep, (60,), r"stopped after \d+ s"),
    (AMPLE, os._exit, (3,), r"died with status 3 after \d+ s"),
    (AMPLE, int, ("x",), r"failed: ValueError: invalid literal .*"),
]


@pytest.mark.parametrize(("limits", "work", "arguments", "reason"), ENDED)
def test_what_goes_wrong_in_a_process_is_said(limits: Limits, work, arguments, reason: str) -> None:
    result = watched(limits, work, *arguments)
    assert isinstance(result, Ended)
    assert re.fullmatch(reason, result.reason)


def test_an_error_of_posedge_arrives_as_itself() -> None:
    with pytest.raises(GraphError, match=r"nothing\.json"):
        watched(AMPLE, read_spec, Path("nothing.json"))
