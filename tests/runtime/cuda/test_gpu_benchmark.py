"""The benchmark program from end to end on the stand-in for libcuda: what it writes, not how fast it is."""

import json
import subprocess
import sys
from pathlib import Path

KERNELS = [
    *(f"warp_normalize float{size}{also}" for size in (32, 16) for also in ("", ", with mirrored")),
    *(f"decode {c} float{size}" for c in ("msra", "unbiased", "megvii", "simcc") for size in (32, 16)),
]


def benchmark(
    environment: dict[str, str], *arguments: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "posedge.benchmarks.gpu", "--quick", *arguments],
        env={**environment, **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_kernels_are_compared_and_timed(stand_in_process: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "results" / "figures.json"
    done = benchmark(stand_in_process, "--out", str(out), POSEDGE_CACHE=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(out.read_text())
    assert record["device"]["name"] == "stand-in device"
    assert record["device"]["stand_in"]
    assert "stand-in" in record["figures_do_not_count"]
    assert record["command"] == f"python -m posedge.benchmarks.gpu --quick --out {out}"
    assert {"python", "binding", "numpy"} <= set(record["versions"])
    found = {figure["name"]: figure for figure in record["figures"]}
    assert set(KERNELS) <= set(found)
    for name in KERNELS:
        figure = found[name]
        assert figure["value"] > 0
        assert figure["target"] == (1.5 if name.startswith("warp") else 2)
        assert (figure["met"], figure["counts"]) == (None, False)  # on a stand-in nothing is measured
        assert figure["details"]["bytes read"] > 0
        assert figure["details"]["one launch us"] > 0
    for check in record["largest_differences"]:
        assert 0 <= check["largest_difference"] <= check["allowed"]
    assert "they measure nothing" in done.stdout
    assert "met" not in done.stdout.replace("not measured", "")


def test_without_a_device_it_says_so_and_ends_with_1(
    stand_in_process: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "figures.json"
    done = benchmark(stand_in_process, "--out", str(out), FAKE_CUDA_DEVICES="0")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no GPU can be used: ")
    assert "CUDA_ERROR_NO_DEVICE" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_a_wrong_kernel_ends_the_run_before_anything_is_timed(
    stand_in_process: dict[str, str], wrong_kernels: Path, tmp_path: Path
) -> None:
    out = tmp_path / "figures.json"
    settings = {"FAKE_CUDA_KERNELS": str(wrong_kernels), "POSEDGE_CACHE": str(tmp_path)}
    done = benchmark(stand_in_process, "--out", str(out), **settings)
    assert done.returncode == 1
    assert "error: warp_normalize float32, whole levels: " in done.stderr
    assert "nothing was timed" in done.stderr
    assert not out.exists()
