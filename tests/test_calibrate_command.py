"""`posedge calibrate`: what it leaves, what it says, how it goes on, how it fails."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from posedge.calibrate_job import CalibratedModel, CalibrateOptions, calibrate_model
from posedge.calibration.placement import FloatLayer
from posedge.calibration.recipe import Recipe
from posedge.calibration.table import load_table
from posedge.cli import main
from posedge.deploy import deploy
from posedge.errors import DataError, OutputError
from posedge.export.graphs import load_graph
from posedge.options import DeployOptions
from posedge.progress import SilentProgress, Task
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.spec import ModelSpec

FILES = {"fp32.onnx", "int8.onnx", "calibration.json"}
MEASURED = {"sensitivity.csv", "sensitivity.png"}


class Listener(SilentProgress):
    """Keeps what is said, and presses Ctrl-C when the task ``stop`` begins."""

    def __init__(self, stop: str = "nothing") -> None:
        self.kept: list[str] = []
        self._stop = stop

    def note(self, text: str) -> None:
        if text.endswith("kept"):
            self.kept.append(text.split(":")[0])

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Task]:
        with super().task(description, total) as task:
            if description.startswith(self._stop):
                raise KeyboardInterrupt
            yield task


@pytest.fixture
def job(options: DeployOptions, coco: Path) -> CalibrateOptions:
    """``small_pose`` on eight persons."""
    return CalibrateOptions(
        model=options.model,
        output=options.output,
        images=coco / "images",
        annotations=coco / "train.json",
        spec=options.spec,
        crops=8,
    )


def visible(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if not path.name.startswith(".")}


def test_the_command_leaves_graphs_and_ranges_and_says_what_is_in_int8(
    job: CalibrateOptions, small_spec: ModelSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["calibrate", job.model, "--spec", str(job.spec), "--images", str(job.images), "--crops", "8"]
    command += ["--annotations", str(job.annotations), "--calibration-method", "minmax", "--no-equalize"]
    command += ["--nearest-weights", "--target", "onnxruntime", "-o", str(job.output)]
    assert main(command) == 0
    directory = job.output / "small_pose"
    assert visible(directory) == FILES
    table = load_table(directory / "calibration.json")
    table.require_graph(directory / "fp32.onnx")
    assert (table.crops, table.method, table.target) == (8, "minmax", "onnxruntime")
    assert not table.channel_factors
    operators = {node.op_type for node in load_graph(directory / "int8.onnx").graph.node}
    assert "QuantizeLinear" in operators
    OnnxRuntimeSession(directory / "int8.onnx", small_spec).close()
    said = " ".join(capsys.readouterr().out.split())
    assert "INT8: 100.0 % of the convolutions' multiply-accumulates" in said
    assert "In float: 1 Add (sum): onnxruntime does not compute it with the convolution" in said
    assert "minmax ranges of 8 persons from coco/train.json, placed for onnxruntime" in said
    assert f"Files: {directory}: fp32.onnx, int8.onnx, calibration.json" in said
    assert "Accuracy was not measured" in said


def test_sensitivity_is_a_table_a_csv_and_a_picture(
    job: CalibrateOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    result = calibrate_model(replace(job, sensitivity=True))
    assert visible(result.directory) == FILES | MEASURED
    with (result.directory / "sensitivity.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    layers = ["stem1.out", "stem2.out", "branch1.out", "branch2.out", "sum", "heatmaps"]
    assert [row["layer"] for row in rows] == [layer.node for layer in result.layers] == layers
    assert all(float(row["error"]) > 0 and float(row["shift_p95_px"]) >= 0 for row in rows)
    assert (result.directory / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    result.show()
    said = " ".join(capsys.readouterr().out.split())
    assert "Sensitivity: the 6 worst of 6 layers" in said
    assert "sensitivity.csv, sensitivity.png" in said


def test_a_second_run_keeps_everything_and_says_the_same(job: CalibrateOptions) -> None:
    wanted = replace(job, sensitivity=True)
    first, listener = calibrate_model(wanted), Listener()
    assert calibrate_model(wanted, listener) == first
    assert listener.kept == ["export", "int8", "sensitivity"]
    listener = Listener()
    calibrate_model(replace(wanted, recipe=Recipe("minmax")), listener)
    assert listener.kept == ["export"]


@pytest.mark.parametrize(("task", "kept"), [("observing", ["export"]), ("sensitivity", ["export", "int8"])])
def test_ctrl_c_loses_nothing_that_was_finished(job: CalibrateOptions, task: str, kept: list[str]) -> None:
    wanted = replace(job, sensitivity=True)
    with pytest.raises(KeyboardInterrupt):
        calibrate_model(wanted, Listener(task))
    directory = job.output / "small_pose"
    assert not list(directory.rglob("*.tmp"))
    assert not MEASURED & visible(directory)
    listener = Listener()
    calibrate_model(wanted, listener)
    assert listener.kept == kept


def test_deploy_takes_up_what_was_calibrated(job: CalibrateOptions, options: DeployOptions) -> None:
    calibrate_model(job)
    listener = Listener()
    deploy(options, listener)
    assert {"export", "int8"} <= set(listener.kept)


def test_a_bundle_is_not_spoilt(job: CalibrateOptions, options: DeployOptions) -> None:
    bundle = deploy(replace(options, precisions=("fp32",))).directory
    before = {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()}
    with pytest.raises(OutputError, match=r"holds a bundle.*another directory with -o"):
        calibrate_model(job)
    assert {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()} == before


def test_the_model_itself_is_not_overwritten(job: CalibrateOptions) -> None:
    directory = calibrate_model(job).directory
    content = (directory / "fp32.onnx").read_bytes()
    with pytest.raises(OutputError, match="would replace the model"):
        calibrate_model(replace(job, model=str(directory / "fp32.onnx"), spec=None))
    assert (directory / "fp32.onnx").read_bytes() == content


def test_a_model_of_the_zoo_goes_by_name(job: CalibrateOptions, small_zoo_model: str) -> None:
    result = calibrate_model(replace(job, model=small_zoo_model, spec=None))
    assert result.directory == job.output / small_zoo_model
    assert result.int8_share == 1


def test_any_number_of_joints_can_be_calibrated(job: CalibrateOptions, tmp_path: Path) -> None:
    """No keypoint is read: annotations of COCO's 17 joints do for a model of 5."""
    spec = ModelSpec("five", input_wh=(48, 64), heatmap_wh=(12, 16), num_joints=5, flip_pairs=())
    model = load_graph(Path(job.model))
    for tensor in model.graph.initializer:
        if tensor.name.startswith("head"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:5], tensor.name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    onnx.save(model, tmp_path / "five.onnx")
    (tmp_path / "five.json").write_text(spec.to_json())
    result = calibrate_model(replace(job, model=str(tmp_path / "five.onnx"), spec=tmp_path / "five.json"))
    assert visible(result.directory) == FILES


def test_a_pose_model_needs_persons(job: CalibrateOptions) -> None:
    with pytest.raises(DataError, match="calibrated on persons; give --annotations FILE"):
        calibrate_model(replace(job, annotations=None))
    with pytest.raises(DataError, match="crops: 0 cannot be used"):
        replace(job, crops=0)


def test_coco_gives_its_training_set(
    job: CalibrateOptions, coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").symlink_to(coco / "images")
    (root / "annotations" / "person_keypoints_train2017.json").symlink_to(coco / "train.json")
    command = ["calibrate", job.model, "--spec", str(job.spec), "--coco", str(root), "--crops", "3"]
    assert main([*command, "-o", str(job.output)]) == 0
    assert "3 persons from annotations/person_keypoints_train2017.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "the data are missing: give --images DIR with --annotations FILE"),
        (["--annotations", "a"], "the data are missing"),
        (["--coco", "a", "--images", "b"], "not several"),
        (["--coco", "a", "--imagenet", "b"], "not several"),
        (["--coco", "a", "--crops", "0"], "from 1 on"),
        (["--coco", "a", "--target", "tpu"], "'tensorrt', 'tensorrt-rtx', 'onnxruntime'"),
        (["--coco", "a", "--calibration-method", "guess"], "guess"),
    ],
)
def test_misuse_exits_with_2_and_says_why(
    data: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", "model.onnx", *data])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "val.json").write_text("{"), "val.json"),
        (lambda f: (f / "val.json").unlink(), "cannot be read"),
        (lambda f: (f / "images").rmdir(), "does not exist"),
        (lambda f: None, "missing: a.jpg"),
        (lambda f: (f / "images" / "a.jpg").write_text("text"), "not an image"),
        (lambda f: (f / "model.onnx").write_text("text"), "is not ONNX"),
        (lambda f: (f / "spec.json").write_text("[]"), "spec.json"),
        (lambda f: (f / "out").write_text("a file"), "another output directory"),
    ],
)
def test_bad_input_is_named(
    job: CalibrateOptions, tmp_path: Path, spoil, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bad"
    (folder / "images").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(Path(job.model).read_bytes())
    assert job.spec is not None
    (folder / "spec.json").write_text(job.spec.read_text())
    person = {"id": 1, "image_id": 1, "bbox": [1, 1, 20, 20], "keypoints": [5, 5, 2] * 17}
    image = {"id": 1, "file_name": "a.jpg", "width": 40, "height": 40}
    (folder / "val.json").write_text(json.dumps({"images": [image], "annotations": [person]}))
    spoil(folder)
    command = ["calibrate", str(folder / "model.onnx"), "--spec", str(folder / "spec.json")]
    command += ["--images", str(folder / "images"), "--annotations", str(folder / "val.json")]
    assert main([*command, "-o", str(folder / "out")]) == 1
    assert said in capsys.readouterr().err
    assert not list(folder.rglob("*.onnx"))[1:]


def test_layers_in_float_are_grouped_by_reason(capsys: pytest.CaptureFixture[str]) -> None:
    silent = [FloatLayer(f"c{i}", "Conv", f"its input 'r{i}': it was zero on every crop") for i in range(5)]
    single = [FloatLayer(f"m{i}", "MatMul", f"the constant k{i} is a vector") for i in range(9)]
    CalibratedModel(Path("out"), "data", 0.5, (*silent[:2], *single, *silent[2:]), (), (), ()).show()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("In float")]
    assert lines[0] == "In float: 5 Conv (c0, c1, c2, ...): its input: it was zero on every crop"
    assert lines[1] == "In float: 1 MatMul (m0): the constant k0 is a vector"
    assert lines[-1] == "In float: 2 MatMul for other reasons"
    assert len(lines) == 9
