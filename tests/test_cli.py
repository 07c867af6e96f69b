"""The command line: exit codes, messages, and what each command leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posedge import cli
from posedge.cli import main
from posedge.errors import GraphError
from posedge.runtime.bundle import VariantFiles, seal_bundle
from posedge.runtime.images import read_image
from posedge.runtime.spec import ModelSpec


@pytest.fixture
def bundle(small_pose: Path, small_spec: ModelSpec, tmp_path: Path) -> Path:
    directory = tmp_path / "bundle"
    directory.mkdir()
    (directory / "fp32.onnx").write_bytes(small_pose.read_bytes())
    seal_bundle(directory, small_spec, {"fp32": VariantFiles("fp32.onnx")}, "fp32")
    return directory


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("posedge 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["deploy", "rsn_18_256x192"], "--coco DIR, or --images"),
        (["deploy", "m", "--coco", "a", "--images", "b"], "not both"),
        (["deploy", "m", "--coco", "a", "--precision", "fp8"], "fp8"),
        (["deploy", "m", "--coco", "a", "--batch-profile", "8,1,2"], "ascending"),
        (["deploy", "m", "--coco", "a", "--batch-sizes", "0"], "positive"),
        (["deploy", "m", "--coco", "a", "--batch-sizes", "-1,2"], "positive"),
        (["deploy", "m", "--coco", "a", "--max-drop", "nan"], "from 0 to 1"),
        (["deploy", "m", "--coco", "a", "--max-drop", "x"], "not a number"),
        (["deploy", "m", "--coco", "a", "--threads", "0"], "from 1 on"),
        (["deploy", "m", "--coco", "a", "--limit", "0"], "from 1 on"),
        (["deploy", "m", "--coco", "a", "--calibration-crops", "1.5"], "not a number"),
        (["deploy", "m", "--coco", "a", "--build-timeout", "0"], "above 0"),
        (["deploy", "m", "--coco", "a", "--build-timeout", "inf"], "above 0"),
        (["run", "b", "i.jpg", "--threads", "0"], "from 1 on"),
        (["run", "b", "i.jpg", "-o", "p.jpg"], "name it p.png"),
    ],
)
def test_misuse_exits_with_2_and_says_why(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_an_error_is_one_message_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("posedge: ")
    assert "no bundle" in error
    assert "Traceback" not in error


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "posedge.cli", "--debug", "verify", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_zoo_lists_models_with_their_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("rsn_18_256x192 "))
    assert "0.704" in line
    assert "rsn18_coco_256x192-72f4b4a7_20201127.pth" in line


def test_verify_accepts_a_sealed_bundle_and_refuses_a_changed_one(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(bundle)]) == 0
    graph = bundle / "fp32.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    assert main(["verify", str(bundle)]) == 1
    assert "fp32.onnx" in capsys.readouterr().err


def test_run_draws_skeletons_into_a_copy(
    bundle: Path, coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, picture = coco / "images" / "000000000785.jpg", tmp_path / "drawn.png"
    code = main(
        [
            "run",
            str(bundle),
            str(image),
            "--boxes",
            "280,44,499,391",
            "10,10,90,200",
            "--json",
            "-o",
            str(picture),
        ]
    )
    assert code == 0
    persons = json.loads(capsys.readouterr().out)
    assert [person["box_xyxy"] for person in persons] == [[280, 44, 499, 391], [10, 10, 90, 200]]
    assert len(persons[0]["keypoints"]) == len(persons[0]["scores"]) == 17
    drawn, original = read_image(picture), read_image(image)
    assert drawn.shape == original.shape
    assert (drawn != original).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jpg"], "missing.jpg"),
        (["{image}", "--boxes", "1,2,3"], "LEFT,TOP,RIGHT,BOTTOM"),
        (["{image}", "--boxes", "9,9,3,3"], "box 0"),
        (["{image}", "--boxes", "nan,0,5,5"], "box 0"),
        (["{image}", "--boxes", "-9,9,x"], "--boxes -9,9,x: a box"),
        (["{image}", "--variant", "int4"], "int4"),
        (["{image}", "-o", "/proc/p.png"], "/proc/p.png: cannot be written"),
    ],
)
def test_run_names_what_is_wrong(
    bundle: Path, coco: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(coco / "images" / "000000000785.jpg")
    assert main(["run", str(bundle), *(argument.format(image=image) for argument in arguments)]) == 1
    assert message in capsys.readouterr().err


def test_a_box_may_begin_outside_the_picture(
    bundle: Path, coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = coco / "images" / "000000000785.jpg"
    boxes = ["10,10,90,200", "-20,-20.5,100,100", "-.5,-1,30,40"]
    command = ["run", str(bundle), str(image), "--json", "-o", str(tmp_path / "drawn.png"), "--boxes", *boxes]
    assert main(command) == 0
    persons = json.loads(capsys.readouterr().out)
    expected = [[10, 10, 90, 200], [-20, -20.5, 100, 100], [-0.5, -1, 30, 40]]
    assert [person["box_xyxy"] for person in persons] == expected


def test_ctrl_c_ends_with_a_sentence(
    small_pose: Path, small_spec: ModelSpec, coco: Path, tmp_path: Path
) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(small_spec.to_json())
    command = [sys.executable, "-m", "posedge.cli", "deploy", str(small_pose), "--spec", str(spec)]
    command += ["--images", str(coco / "images"), "--annotations", str(coco / "val.json"), "--no-flip"]
    command += ["--calibration-annotations", str(coco / "train.json"), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("fp32: timing"):
            os.killpg(process.pid, signal.SIGINT)
            break
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 130
    assert "the same command goes on from there" in rest
    assert "Traceback" not in rest


@pytest.mark.parametrize("failure", [GraphError, ImportError, RuntimeError])
def test_ctrl_c_that_a_library_takes_for_a_failure_is_still_one(
    failure: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose_the_interrupt(options: object) -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise failure("initialization failed") from None
        return 0

    monkeypatch.setattr(cli, "run_zoo", lose_the_interrupt)
    before = signal.getsignal(signal.SIGINT)
    assert main(["zoo"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
