"""`posedge doctor`: facts of a machine from what it says, and trials that are really made."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import posedge
from posedge import doctor_facts
from posedge.cli import main
from posedge.engines.lint import lint
from posedge.engines.probe import PRECISIONS, probe_graph
from posedge.export.graphs import run_graph

DRIVER = """
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) { return STATUS; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Orin", length); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 8000000000u; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (attribute != 75 && attribute != 76) return 1;
    *value = attribute == 75 ? 8 : 7;
    return 0;
}
"""


def stand_in_driver(directory: Path, status: int = 0, count: int = 1) -> str:
    """A library with the entry points of the CUDA driver that the doctor asks, and known answers."""
    compiler = shutil.which("cc") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, library = directory / "cuda.c", directory / "libcuda.so"
    source.write_text(DRIVER.replace("STATUS", str(status)).replace("COUNT", str(count)))
    command = [compiler, "-x", "c", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return str(library)


def test_a_gpu_is_described_as_its_driver_does(tmp_path: Path) -> None:
    found = doctor_facts.gpus(stand_in_driver(tmp_path, count=2))
    assert (found.cuda, found.problem) == ("12.6", "")
    assert found.gpus == (doctor_facts.Gpu("Orin", "8.7", 8_000_000_000),) * 2


def test_a_driver_that_does_not_start(tmp_path: Path) -> None:
    found = doctor_facts.gpus(stand_in_driver(tmp_path, status=999))
    assert (found.gpus, found.problem) == ((), "the driver cannot be started (CUDA error 999)")


def test_a_driver_without_a_gpu(tmp_path: Path) -> None:
    assert doctor_facts.gpus(stand_in_driver(tmp_path, count=0)).problem == "the driver finds no GPU"


def test_no_driver() -> None:
    found = doctor_facts.gpus("libnot-there.so.1")
    assert found.problem == "no driver (libnot-there.so.1 cannot be loaded)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "36.4.3, JetPack 6.2"),
        ("# R36 (release), REVISION: 3.0, GCID: 36923193", "36.3.0, JetPack 6.0"),
        ("# R36 (release), REVISION: 4, GCID: 1", "36.4, JetPack 6.1"),
        ("# R35 (release), REVISION: 2.1, GCID: 1", "35.2.1, JetPack 5.1"),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "99.1.0, JetPack not known for this release"),
    ],
)
def test_jetpack_follows_from_the_release(text: str, expected: str) -> None:
    assert doctor_facts.jetpack(text + "\nmore") == f"Jetson Linux {expected}"


@pytest.mark.parametrize("text", ["", "DISTRIB_ID=Ubuntu"])
def test_other_machines_are_no_jetson(text: str) -> None:
    assert doctor_facts.jetpack(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Sat Feb 17 22:55:48 UTC 2024",
            "535.161.08",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build",
            "580.65.06",
        ),
        ("", None),
    ],
)
def test_the_version_of_the_driver(text: str, expected: str | None) -> None:
    assert doctor_facts.driver_version(text) == expected


def test_missing_extras_go_by_group() -> None:
    found: dict[str, str | None] = dict.fromkeys(doctor_facts.LIBRARIES, "1.0")
    assert doctor_facts.missing_extras(found) == {}
    found.update(torch=None, cv2=None, tensorrt_rtx=None)
    assert doctor_facts.missing_extras(found) == {
        "cpu": ("cv2",),
        "export": ("torch",),
        "tensorrt-rtx": ("tensorrt_rtx",),
    }


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_graph_to_try_with(precision: str) -> None:
    """Ten nodes without Q and DQ, fit to be built, and the same function in every precision."""
    model = probe_graph(precision)
    assert sum(not node.op_type.endswith("Linear") for node in model.graph.node) == 10
    assert lint(model) == []
    batch = np.random.default_rng(1).standard_normal((3, 3, 16, 16)).astype(np.float32)
    (expected,) = run_graph(probe_graph("fp32"), batch).values()
    kind = np.float16 if precision == "fp16" else np.float32
    (actual,) = run_graph(model, batch.astype(kind)).values()
    assert np.abs(actual - expected).max() < 0.1 * np.abs(expected).max()


def test_what_is_installed_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json", "--job", "run"])
    document = json.loads(capsys.readouterr().out)
    verdicts = {(trial["library"], trial["precision"]): trial["verdict"] for trial in document["trials"]}
    for precision in PRECISIONS:
        assert verdicts["onnxruntime", precision] == "works"
        if document["libraries"]["tensorrt_rtx"]:
            assert verdicts["tensorrt_rtx", precision] == "works"
        if document["libraries"]["tensorrt"] is None:
            assert verdicts["tensorrt", precision] == "not tried"
    jobs = {job["name"]: job["problem"] for job in document["jobs"]}
    assert (code, jobs["run"]) == (0, "")
    assert all(space["free_bytes"] > 0 for space in document["spaces"])


def bare(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command with the standard library, numpy and posedge alone."""
    packages = Path(np.__file__).parent.parent
    for name in ("numpy", "numpy.libs"):
        if (packages / name).exists() and not (site / name).exists():
            (site / name).symlink_to(packages / name)
    if not (site / "posedge").exists():
        (site / "posedge").symlink_to(Path(posedge.__file__).parent)
    program = f"import sys\nsys.path.append({str(site)!r})\nfrom posedge.cli import main\nsys.exit(main())"
    command = [sys.executable, "-I", "-S", "-W", "error", "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_base_install_is_told_what_it_lacks(tmp_path: Path) -> None:
    done = bare(tmp_path, "doctor")
    assert (done.returncode, done.stderr) == (1, "")
    for words in (
        "pip install 'posedge[cpu]'",
        "pip install 'posedge[tensorrt-rtx]'",
        "deploy       no: deploy an ONNX file, measured",
        "onnxruntime   fp32    not tried  it is not installed",
    ):
        assert words in done.stdout


def test_a_broken_library_does_not_end_the_examination(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libonnxruntime.so: no such file')\n")
    (tmp_path / "onnx.py").write_text("raise RuntimeError('a broken install')\n")
    done = bare(tmp_path, "doctor", "--json", "--job", "build")
    assert (done.returncode, done.stderr) == (1, "")
    trials = json.loads(done.stdout)["trials"]
    assert {trial["verdict"] for trial in trials} == {"not tried"}
    assert "onnx is installed and fails: a broken install" in {trial["detail"] for trial in trials}
