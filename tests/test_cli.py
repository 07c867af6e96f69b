"""The command line: exit codes, messages, and what each command leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import save_file

from posedge import cli
from posedge.cli import main
from posedge.errors import GraphError
from posedge.export.download import cached_path
from posedge.export.graphs import load_graph, spec_of
from posedge.export.zoo import ZOO, build_model
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
        (["deploy", "m", "--coco", "a", "--target", "tpu"], "'tensorrt', 'tensorrt-rtx', 'onnxruntime'"),
        (["deploy", "m", "--coco", "a", "--batch-sizes", "0"], "from 1 on"),
        (["deploy", "m", "--coco", "a", "--merge-groups", "0"], "'0': a whole number from 1 on"),
        (["deploy", "m", "--coco", "a", "--merge-groups", "two"], "'two' is not a number"),
        (["deploy", "m", "--coco", "a", "--batch-sizes", "-1,2"], "from 1 on"),
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
    for text in ("pose", "256x192", "9.14 M", "2.25 G", "0.704", "rsn18_coco_256x192-72f4b4a7_20201127.pth"):
        assert text in line


def test_zoo_in_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "--markdown"]) == 0
    assert "| [rsn_18_256x192](https://" in capsys.readouterr().out


def test_listing_the_zoo_needs_no_torch() -> None:
    program = "import sys; from posedge.cli import main; main(['zoo']); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"


def test_export_fetches_the_official_weights_once(
    small_zoo_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    official = cached_path(ZOO[small_zoo_model].checkpoint)
    assert main(["export", small_zoo_model]) == 0
    said = capsys.readouterr()
    assert f"fetch {official.name}: done" in said.err
    assert f"{small_zoo_model}.onnx" in said.out
    assert "verified" in said.out
    graph = load_graph(tmp_path / f"{small_zoo_model}.onnx")
    assert spec_of(graph, "graph") == ZOO[small_zoo_model].spec
    assert main(["zoo"]) == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith(small_zoo_model)]
    assert listed[0].endswith("yes")

    assert main(["export", small_zoo_model, "-o", "deeper/again.onnx"]) == 0
    assert "fetch" not in capsys.readouterr().err
    assert (tmp_path / "deeper" / "again.onnx").read_bytes() == (
        tmp_path / f"{small_zoo_model}.onnx"
    ).read_bytes()


def test_export_takes_a_file(
    small_zoo_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSEDGE_CACHE", str(tmp_path / "untouched"))
    state = build_model(small_zoo_model).state_dict()
    save_file(state, tmp_path / "own.safetensors")
    assert main(["export", small_zoo_model, "--checkpoint", "own.safetensors"]) == 0
    assert (tmp_path / f"{small_zoo_model}.onnx").is_file()
    assert not (tmp_path / "untouched").exists()
    state["0.weigth"] = state.pop("0.weight")
    save_file(state, tmp_path / "misspelt.safetensors")
    capsys.readouterr()
    assert main(["export", small_zoo_model, "--checkpoint", "misspelt.safetensors", "-o", "no.onnx"]) == 1
    said = capsys.readouterr().err
    assert (
        f"misspelt.safetensors does not fit {small_zoo_model} (4 keys): keys missing: 1, surplus: 1" in said
    )
    assert "missing: 0.weight (nearest in the file: 0.weigth)" in said
    assert "Traceback" not in said
    assert not (tmp_path / "no.onnx").exists()


def test_export_refuses_an_output_that_would_destroy_something(
    small_pose: Path,
    small_spec: ModelSpec,
    small_zoo_model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, spec = tmp_path / "small_pose.onnx", tmp_path / "spec.json"
    model.write_bytes(small_pose.read_bytes())
    spec.write_text(small_spec.to_json())
    command = ["export", str(model), "--spec", str(spec), "-o"]
    assert main([*command, str(model)]) == 1
    assert "would replace" in capsys.readouterr().err
    assert model.read_bytes() == small_pose.read_bytes()
    assert main([*command, str(tmp_path)]) == 1
    assert "is a directory" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "out.onnx")]) == 0
    assert spec_of(load_graph(tmp_path / "out.onnx"), "out") == small_spec
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    assert main(["export", small_zoo_model, "--checkpoint", str(weights), "-o", str(weights)]) == 1
    assert "would replace" in capsys.readouterr().err
    assert weights.read_bytes() == b"weights"


def test_without_a_network_export_says_where_to_put_which_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there: no network
    assert main(["export", "rsn_18_256x192"]) == 1
    file = "rsn18_coco_256x192-72f4b4a7_20201127.pth"
    said = capsys.readouterr().err
    assert ZOO["rsn_18_256x192"].checkpoint in said
    assert f"put it at {tmp_path / 'cache' / file}" in said
    assert os.listdir(tmp_path / "cache") == []


def test_an_unknown_name_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["export", "pose_resnext50_256x192"], ["export", "resnext50"]):
        assert main(command) == 1
        assert "did you mean" in capsys.readouterr().err


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
