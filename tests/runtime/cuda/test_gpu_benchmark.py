"""The benchmark program from end to end on the stand-in for libcuda: what it writes, not how fast it is."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

import posedge
from posedge.runtime.bundle import EngineBuild, VariantFiles, seal_bundle
from posedge.runtime.spec import ModelSpec
from posedge.runtime.target import Target

FAKE_ENGINE = b'fake{"smallest": 1, "largest": 8, "workspace": 4096}\n'  # as fake_trt.engine_bytes makes it
pytestmark = pytest.mark.usefixtures("kernel_cache")

KERNELS = [
    *(f"warp_normalize float{size}{also}" for size in (32, 16) for also in ("", ", with mirrored")),
    *(f"decode {c} float{size}" for c in ("msra", "unbiased", "megvii", "simcc") for size in (32, 16)),
]
PIPELINE = [
    *("pipeline throughput", "pipeline latency, p99", "against the usual way"),
    *("allocations after warm-up", "device memory lost"),
]


@pytest.fixture
def bundle(small_pose: Path, small_spec: ModelSpec, tmp_path: Path) -> Path:
    """A bundle with an engine for the stand-in, and one that is refused."""
    directory = tmp_path / "bundle"
    directory.mkdir()
    network = small_pose.read_bytes()
    for name, content in {
        "fp32.onnx": network,
        "good.engine": FAKE_ENGINE + network,
        "bad.engine": b"x",
    }.items():
        (directory / name).write_bytes(content)
    built = EngineBuild(Target("tensorrt", "10.3.0", (86,), machine=platform.machine()))
    variants = {name: VariantFiles("fp32.onnx", f"{name}.engine", built) for name in ("good", "bad")}
    seal_bundle(directory, small_spec, variants, "good")
    return directory


def benchmark(
    environment: dict[str, str], *arguments: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "posedge.benchmarks.gpu", "--quick", *arguments],
        env={**environment, "POSEDGE_CACHE": os.environ["POSEDGE_CACHE"], **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_everything_is_compared_and_measured(
    stand_in_process: dict[str, str], bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results" / "figures.json"
    arguments = ("--bundle", str(bundle), "--out", str(out), "--frames", "30")
    done = benchmark(stand_in_process, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(out.read_text())
    assert record["device"]["name"] == "stand-in device"
    assert record["device"]["stand_in"]
    assert "stand-in" in record["figures_do_not_count"]
    assert record["command"].startswith(f"python -m posedge.benchmarks.gpu --quick --bundle {bundle}")
    assert record["network"] == ["small_pose, good, tensorrt 10.3.0"]
    assert {"python", "binding", "numpy"} <= set(record["versions"])
    assert record["versions"]["posedge"] == posedge.__version__
    assert record["not_reached"] == []
    for check in record["largest_differences"]:
        assert 0 <= check["largest_difference"] <= check["allowed"]
    assert len(record["largest_differences"]) == 4 + 4 * 2 * 2 * 2
    assert [figure["name"] for figure in record["figures"]] == KERNELS + PIPELINE
    for figure in record["figures"]:
        assert (figure["met"], figure["counts"], figure["not_measured"]) == (None, False, None)
    found = {figure["name"]: figure for figure in record["figures"]}
    for name in KERNELS:
        assert found[name]["value"] > 0
        assert found[name]["target"] == (1.5 if name.startswith("warp") else 2)
        assert found[name]["details"]["bytes read"] > 0
        assert found[name]["details"]["one launch us"] > 0
    assert [found[name]["target"] for name in PIPELINE] == [0.9, 1.2, 5, 0, 0]
    # these two hold on the stand-in as on a device
    assert [found[name]["value"] for name in PIPELINE[3:]] == [0, 0]
    assert found["allocations after warm-up"]["details"]["frames"] == 30
    # both ways do the same work
    assert found["against the usual way"]["details"]["joints within 0.05 px of each other"] == 1
    assert "they measure nothing" in done.stdout


def test_without_a_network_only_the_kernels_are_measured(
    stand_in_process: dict[str, str], bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('there is no torch')")
    out = tmp_path / "figures.json"
    settings = {"PYTHONPATH": f"{tmp_path}:{stand_in_process['PYTHONPATH']}"}
    arguments = ("--bundle", str(bundle), "--variant", "bad", "--out", str(out))
    done = benchmark(stand_in_process, *arguments, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(out.read_text())
    said = "; ".join(record["network"])
    assert "the engine of bundle cannot run here: " in said
    assert "there is no torch" in said
    assert said.endswith("only the kernels were measured")
    unmeasured = {f["name"]: f["not_measured"] for f in record["figures"] if f["value"] is None}
    assert unmeasured == dict.fromkeys(PIPELINE, "there is no network here")


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


def test_a_run_that_is_cut_off_leaves_what_it_measured(
    stand_in_process: dict[str, str], bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "posedge.benchmarks.gpu", "--quick", "--bundle", str(bundle)]
    with subprocess.Popen(
        [*command, "--out", str(out), "--frames", "1000000000"],
        env={**stand_in_process, "POSEDGE_CACHE": os.environ["POSEDGE_CACHE"]},
        stdout=subprocess.DEVNULL,
    ) as running:
        try:
            while running.poll() is None:
                if out.exists() and json.loads(out.read_text())["not_reached"] == ["pipeline"]:
                    break
                time.sleep(0.05)
        finally:
            running.kill()
    record = json.loads(out.read_text())
    assert [figure["name"] for figure in record["figures"]] == KERNELS
    assert record["not_reached"] == ["pipeline"]


def test_a_path_that_cannot_be_written_is_refused_before_any_work(
    stand_in_process: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for out, said in (
        (tmp_path, "this is a directory"),
        (tmp_path / "file" / "out.json", "cannot be written"),
    ):
        done = benchmark(stand_in_process, "--out", str(out))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"error: --out {out}: {said}")


def test_a_wrong_kernel_ends_the_run_before_anything_is_timed(
    stand_in_process: dict[str, str], wrong_kernels: Path, tmp_path: Path
) -> None:
    out = tmp_path / "figures.json"
    settings = {"FAKE_CUDA_KERNELS": str(wrong_kernels)}
    done = benchmark(stand_in_process, "--out", str(out), **settings)
    assert done.returncode == 1
    assert "error: warp_normalize float32, whole levels: " in done.stderr
    assert "nothing was timed" in done.stderr
    assert not out.exists()
