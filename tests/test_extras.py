"""Optional packages that are not installed: named with their pip command, before any work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import posedge
from posedge.extras import EXTRAS

# One process, which hides modules as if they were not installed and runs the command line once a case.
HIDING = """
import contextlib, importlib.abc, io, json, sys

class Hider(importlib.abc.MetaPathFinder):
    hidden = ()
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

hider = Hider()
sys.meta_path.insert(0, hider)
from posedge.cli import main

answers = []
for hidden, command in json.loads(sys.argv[1]):
    hider.hidden = hidden
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(command)
    answers.append([code, said.getvalue()])
print(json.dumps(answers))
"""

OF_AN_ONNX_FILE = ("onnx", "onnxruntime", "onnxslim", "faster_coco_eval", "matplotlib")
OF_A_NETWORK = (*OF_AN_ONNX_FILE, "torch", "onnxscript")
OF_THE_DEMO = (*OF_A_NETWORK, "cv2")


def in_new_process(program: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(posedge.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_command_names_what_is_missing_before_it_works(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not read")
    (tmp_path / "weights.pth").write_bytes(b"not read")
    rest = ["--coco", str(tmp_path), "-o", str(tmp_path / "out")]
    onnx_file = ["deploy", str(tmp_path / "model.onnx"), *rest]
    network = ["deploy", "rsn_18_256x192", "--checkpoint", str(tmp_path / "weights.pth"), *rest]
    demo = ["demo", "-o", str(tmp_path / "out")]
    cases = [
        ([module], command)
        for modules, command in ((OF_AN_ONNX_FILE, onnx_file), (OF_A_NETWORK, network), (OF_THE_DEMO, demo))
        for module in modules
    ]
    cases += [(list(EXTRAS), onnx_file), (list(EXTRAS), network), (list(EXTRAS), demo)]
    answers = json.loads(in_new_process(HIDING, json.dumps(cases)))
    for (hidden, command), (code, said) in zip(cases, answers, strict=True):
        assert code == 1, (hidden, command)
        assert said.startswith("posedge: "), said
        assert "pip install 'posedge[" in said
        if len(hidden) == 1:
            assert f"posedge: {hidden[0]} is needed" in said, (command, said)
            assert f"posedge[{EXTRAS[hidden[0]]}]" in said
    assert "torch" not in answers[-3][1]  # an ONNX file needs none
    assert all(module in answers[-1][1] for module in EXTRAS)
    assert "posedge[bench,export]" in answers[-1][1]
    assert not (tmp_path / "out").exists()


def test_learning_and_search_ask_for_torch_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not read")
    rest = [str(tmp_path / "model.onnx"), "--coco", str(tmp_path), "-o", str(tmp_path / "out")]
    asking = [["deploy", *rest, "--learn"], ["deploy", *rest, "--max-drop", "0.01"]]
    asking.append(["calibrate", *rest, "--learn"])
    without_int8 = ["deploy", *rest, "--learn", "--max-drop", "0.01", "--precision", "fp32,fp16"]
    cases = [(["torch"], command) for command in (*asking, without_int8)]
    *answers, last = json.loads(in_new_process(HIDING, json.dumps(cases)))
    for code, said in answers:
        assert code == 1
        assert "posedge: torch is needed here and not installed" in said
        assert "posedge[export]" in said
    assert last[0] == 1
    assert "is not ONNX" in last[1], "no INT8, no torch"
    assert not (tmp_path / "out").exists()


def test_calibration_takes_what_it_uses(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not read")
    command = ["calibrate", str(tmp_path / "model.onnx"), "--coco", str(tmp_path)]
    measuring = [*command, "--sensitivity"]
    cases = [([module], command) for module in ("onnx", "onnxruntime", "onnxslim")]
    cases += [([module], measuring) for module in ("torch", "matplotlib")]
    answers = json.loads(in_new_process(HIDING, json.dumps(cases)))
    for ((module,), _), (code, said) in zip(cases, answers, strict=True):
        assert code == 1
        assert f"posedge: {module} is needed here and not installed" in said
    not_used = ["torch", "onnxscript", "faster_coco_eval", "matplotlib"]
    ((code, said),) = json.loads(in_new_process(HIDING, json.dumps([(not_used, command)])))
    assert (code, "is not ONNX" in said) == (1, True), said


def test_an_onnx_file_is_prepared_without_torch(small_pose: Path, tmp_path: Path) -> None:
    program = """
import sys
sys.modules["torch"] = sys.modules["onnxscript"] = None  # as if they were not installed
from pathlib import Path
import numpy as np
from posedge.export.source import open_source
from posedge.progress import SILENT
graph, spec, output = map(Path, sys.argv[1:])
source = open_source(str(graph), spec=spec)
source.export(output, np.zeros((1, 3, 64, 48), np.float32), SILENT)
"""
    spec, output = tmp_path / "spec.json", tmp_path / "prepared.onnx"
    spec.write_text(posedge.ModelSpec(name="small_pose", input_wh=(48, 64), heatmap_wh=(12, 16)).to_json())
    in_new_process(program, str(small_pose), str(spec), str(output))
    assert output.stat().st_size > 0


@pytest.mark.parametrize("module", sorted(EXTRAS))
def test_every_group_of_pyproject_that_is_named_installs_the_package(module: str) -> None:
    text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text()
    package = {"cv2": "opencv-python-headless", "faster_coco_eval": "faster-coco-eval"}.get(module, module)
    line = next(line for line in text.splitlines() if line.startswith(f"{EXTRAS[module]} = "))
    assert f'"{package}>=' in line


def test_a_package_that_is_there_and_broken_is_named(tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: no such file', name='cv2')\n")
    program = "import sys\nsys.path.insert(0, sys.argv[1])\nfrom posedge.cli import main\n"
    program += "sys.stderr = sys.stdout\nassert main(['demo', '-o', sys.argv[2]]) == 1"
    said = in_new_process(program, str(tmp_path), str(tmp_path / "out"))
    assert "cv2 is needed here and could not be imported (libGL.so.1" in said
    assert "pip install 'posedge[cpu]'" in said
