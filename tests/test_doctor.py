"""`posedge doctor`: facts of a machine from what it says, and trials that are really made."""

import json
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
