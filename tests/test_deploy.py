"""The main job on real images with a small network: what it leaves, how it goes on, how it fails."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from posedge import ModelSpec, PoseEstimator
from posedge.benchmarks.report.receipt import read_receipt
from posedge.benchmarks.report.results import Interval
from posedge.benchmarks.speed import NotMeasured
from posedge.calibration.macs import convolution_macs
from posedge.calibration.recipe import Recipe
from posedge.deploy import deploy
from posedge.errors import BuildError, BundleError, CheckpointError, DataError, GraphError, OutputError
from posedge.export.graph_options import GraphOptions
from posedge.export.graphs import load_graph
from posedge.files import directory_lock
from posedge.options import DeployOptions
from posedge.progress import Progress, SilentProgress, Task
from posedge.runtime.bundle import open_bundle
from posedge.runtime.images import read_image


class Listener(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def kept(self) -> list[str]:
        return [note.split(":")[0] for note in self.notes if "kept" in note]


class Interrupter(SilentProgress):
    """Presses Ctrl-C as soon as a task of this name says something."""

    def __init__(self, description: str) -> None:
        self._description = description

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Task]:
        with super().task(description, total) as task:
            if self._description in description:
                raise KeyboardInterrupt
            yield task


STAGES = [
    "export",
    "fp16",
    "int8",
    "int8 layers",
    "engine fp32",
    "measure fp32",
    "engine fp16",
    "measure fp16",
    "engine int8",
    "measure int8",
    "compare fp16",
    "compare int8",
    "report",
]


def test_a_bundle_runs_and_its_receipt_says_what_was_measured(options: DeployOptions, coco: Path) -> None:
    outcome = deploy(options)
    bundle = open_bundle(outcome.directory)
    assert set(bundle.variants) == {"fp32", "fp16", "int8"}

    receipt = json.loads((outcome.directory / "receipt.json").read_text())
    assert json.loads((options.output / "receipt.json").read_text()) == receipt
    assert read_receipt(outcome.directory / "receipt.json") == outcome.report
    for name, variant in receipt["variants"].items():
        assert 0 <= variant["ap"] <= 1
        assert variant["ap_drop"] == receipt["variants"]["fp32"]["ap"] - variant["ap"]
        if name != "fp32":
            low, high = variant["ap_drop_interval"]
            assert low <= variant["ap_drop"] <= high
        assert variant["engine_bytes"] == (outcome.directory / f"{name}.engine").stat().st_size
        assert variant["speed"]["engine"] is None
        assert "speed.engine" in variant["not_measured"]
    assert receipt["variants"]["fp32"]["persons_per_second"] > 0
    assert receipt["variants"]["fp16"]["persons_per_second"] is None
    assert "simulated" in receipt["variants"]["fp16"]["not_measured"]["persons_per_second"]

    record = outcome.report.data
    assert (record.persons, record.boxes, record.flip_test) == (12, "ground truth", False)
    image = read_image(coco / "images" / "000000000785.jpg")
    with PoseEstimator(outcome.directory) as pose:
        keypoints, scores = pose(image, [[280.79, 44.73, 499.49, 391.41]])
    assert keypoints.shape == (1, 17, 2)
    assert np.isfinite(keypoints).all()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_model_of_the_zoo_brings_its_own_weights(options: DeployOptions, small_zoo_model: str) -> None:
    outcome = deploy(replace(options, model=small_zoo_model, spec=None, precisions=("fp32",)))
    assert set(open_bundle(outcome.directory).variants) == {"fp32"}
    assert outcome.directory.name == small_zoo_model


def test_a_second_run_does_nothing_and_a_change_only_what_depends_on_it(options: DeployOptions) -> None:
    first = deploy(options)
    sealed = (first.directory / "bundle.json").read_bytes()
    listener = Listener()
    second = deploy(options, listener)
    assert sorted(listener.kept) == sorted(STAGES)
    assert second.report == first.report
    assert listener.notes[-1] == "nothing has changed since the last run: nothing was built or measured"
    assert (second.directory / "bundle.json").read_bytes() == sealed

    listener = Listener()
    deploy(replace(options, recipe=Recipe("minmax")), listener)
    assert {"export", "fp16", "engine fp32", "engine fp16"} <= set(listener.kept)
    assert not {"int8", "engine int8", "measure int8"} & set(listener.kept)


def test_other_build_options_make_other_engines(options: DeployOptions) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    options = replace(options, precisions=("fp32",))
    deploy(options)
    listener = Listener()
    deploy(replace(options, build=replace(options.build, target_sms=(86,))), listener)
    assert "export" in listener.kept
    assert "engine fp32" not in listener.kept


def test_a_memory_limit_that_is_too_small_ends_the_job(options: DeployOptions) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    with pytest.raises(BuildError, match="memory limit is 20 MiB"):
        deploy(replace(options, precisions=("fp32",), build_memory_bytes=20 << 20))
    assert not list(options.output.glob("*/bundle.json"))


def test_only_without_any_tensorrt_the_job_goes_on(
    options: DeployOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    outcome = deploy(replace(options, precisions=("fp32",)))
    engine = outcome.report.variants[0].engine
    assert isinstance(engine, NotMeasured)
    assert "which is not installed" in engine.reason
    assert open_bundle(outcome.directory).variant("fp32").engine is None


def test_a_variant_that_comes_later_is_compared_with_what_the_reference_found(options: DeployOptions) -> None:
    deploy(replace(options, precisions=("fp32",)))
    listener = Listener()
    outcome = deploy(replace(options, precisions=("fp32", "fp16")), listener)
    assert listener.kept == ["export", "engine fp32", "measure fp32"]
    assert not [note for note in listener.notes if note.startswith("nothing has changed")]
    first = outcome.report.variants[1].drop_interval
    assert isinstance(first, Interval)

    found = outcome.directory / "measurements" / "fp32.npz"
    found.write_bytes(found.read_bytes()[:-100])
    listener = Listener()
    outcome = deploy(replace(options, precisions=("fp32", "fp16")), listener)
    assert "measure fp32" not in listener.kept
    assert outcome.report.variants[1].drop_interval == first


def test_one_image_has_no_interval(options: DeployOptions) -> None:
    outcome = deploy(replace(options, limit=1, precisions=("fp32", "fp16")))
    interval = outcome.report.variants[1].drop_interval
    assert isinstance(interval, NotMeasured)
    assert "two images" in interval.reason
    assert read_receipt(outcome.directory / "receipt.json") == outcome.report


def test_another_rewrite_of_the_graph_makes_everything_again(options: DeployOptions) -> None:
    only = replace(options, precisions=("fp32",))
    padded = replace(only, graph=GraphOptions(pad_channels=True))
    before = deploy(only)
    listener = Listener()
    after = deploy(padded, listener)
    assert listener.kept == []
    graph = load_graph(after.directory / "fp32.onnx")
    assert {tensor.dims[0] for tensor in graph.graph.initializer} == {32, 17}
    (note,) = set(after.report.notes) - set(before.report.notes)
    assert note == "Graph: channels are padded with zeros to multiples of 32."
    listener = Listener()
    deploy(padded, listener)
    assert listener.kept == ["export", "engine fp32", "measure fp32", "report"]


def test_a_damaged_result_is_made_again(options: DeployOptions) -> None:
    outcome = deploy(options)
    graph = outcome.directory / "int8.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1])
    with pytest.raises(BundleError, match=r"int8\.onnx"):
        open_bundle(outcome.directory)
    listener = Listener()
    deploy(options, listener)
    assert "int8" not in listener.kept
    assert graph.read_bytes() == content
    open_bundle(outcome.directory)


@pytest.mark.parametrize(
    "task",
    [
        "prepare",
        "observing",
        "building fp32",
        "building int8",
        "fp32: evaluating",
        "int8: timing the pipeline",
    ],
)
def test_ctrl_c_in_every_stage_loses_nothing(options: DeployOptions, task: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        deploy(options, Interrupter(task))
    directory = options.output / "small_pose"
    assert not list(directory.rglob("*.tmp"))
    with pytest.raises(BundleError, match="interrupted"):
        open_bundle(directory)
    finished = len(json.loads((directory / ".stages.json").read_text())) if task != "prepare" else 0
    listener = Listener()
    deploy(options, listener)
    assert len(listener.kept) == finished
    open_bundle(directory)


def test_layers_that_float16_cannot_hold_are_named_in_the_report(options: DeployOptions) -> None:
    graph = load_graph(Path(options.model))
    for tensor in graph.graph.initializer:
        gain = {"branch1": 2e4, "branch2": 5e-5}.get(tensor.name.split(".")[0], 1)
        if gain != 1 and tensor.name != "branch2.bias":
            value = numpy_helper.to_array(tensor) * np.float32(gain)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    model = options.output.with_name("large.onnx")
    onnx.save(graph, model)
    without_int8 = replace(options, model=str(model), precisions=("fp32", "fp16"), batch_sizes=(1,))
    report = deploy(without_int8).report
    assert report.calibration == "none"
    (note,) = (note for note in report.notes if note.startswith("fp16"))
    assert note.startswith("fp16 keeps 3 layers in float32: branch1.out ('branch1.out' reaches ")
    assert "on the crops; float16 ends at 65504); branch1.out.relu (" in note
    blind = replace(without_int8, data=replace(options.data, calibration_annotations=None))
    unseen = "fp16: ranges were not looked at, for there are no images to calibrate on"
    assert unseen not in report.notes
    assert unseen in deploy(blind).report.notes


def test_layers_that_int8_leaves_in_float_are_named_in_the_report(options: DeployOptions) -> None:
    graph = load_graph(Path(options.model))
    for tensor in graph.graph.initializer:
        if tensor.name.startswith("branch1."):  # what branch2 reads is zero then
            tensor.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(tensor), tensor.name))
    model = options.output.with_name("blank.onnx")
    onnx.save(graph, model)
    chosen = replace(options, model=str(model), precisions=("fp32", "int8"))
    outcome = deploy(chosen)
    macs = convolution_macs(graph)
    share = 1 - macs["branch2.out"] / sum(macs.values())
    receipt = json.loads((outcome.directory / "receipt.json").read_text())
    assert receipt["variants"]["int8"]["int8_share"] == pytest.approx(share)
    assert receipt["variants"]["fp32"]["int8_share"] == 0
    first = receipt["notes"].index(f"INT8: {100 * share:.1f} % of the convolutions' multiply-accumulates")
    assert receipt["notes"][first + 1] == (
        "In float: 1 Conv (branch2.out): its input: it was zero on every crop"
    )
    assert deploy(chosen).report == outcome.report, "a run that keeps everything says it too"


def test_two_runs_in_one_directory_are_refused(options: DeployOptions) -> None:
    with (
        directory_lock(options.output / "small_pose"),
        pytest.raises(OutputError, match="another posedge run"),
    ):
        deploy(options)


def test_a_file_where_the_output_should_be(options: DeployOptions) -> None:
    options.output.write_text("not a directory")
    with pytest.raises(OutputError, match="another output directory"):
        deploy(options)


def test_int8_without_calibration_data_is_refused_before_any_work(options: DeployOptions) -> None:
    data = replace(options.data, calibration_annotations=None)
    with pytest.raises(DataError, match="--calibration-annotations"):
        deploy(replace(options, data=data))
    outcome = deploy(replace(options, data=data, precisions=("fp32",)))
    assert [variant.name for variant in outcome.report.variants] == ["fp32"]
    assert outcome.report.calibration == "none"


def test_calibrating_on_the_measured_images_is_said(options: DeployOptions) -> None:
    data = replace(options.data, calibration_annotations=options.data.annotations)
    outcome = deploy(replace(options, data=data))
    assert "flatter" in outcome.report.calibration


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "rsn_18"}, GraphError, "did you mean rsn_18_256x192"),
        ({"model": "rsn_18_256x192", "spec": None}, CheckpointError, "cannot be reached.*--checkpoint"),
        ({"model": "rsn_18_256x192"}, GraphError, "--spec goes with an ONNX file"),
        ({"model": "missing.onnx"}, GraphError, r"missing\.onnx"),
        ({"spec": None}, GraphError, "spec"),
        ({"checkpoint": Path("a.pth")}, GraphError, "--checkpoint goes with a zoo model"),
        ({"boxes": "missing.json"}, DataError, r"missing\.json"),
        ({"limit": 0}, DataError, "positive"),
        ({"max_drop": float("nan")}, DataError, "max_drop: nan"),
        ({"threads": 0}, DataError, "threads: 0"),
        ({"build_timeout_s": 0.0}, DataError, "build_timeout_s: 0"),
        ({"precisions": ("fp32", "fp8")}, DataError, "fp8.*Choose from fp32, fp16, int8"),
        ({"batch_sizes": (0,)}, DataError, "positive"),
    ],
)
def test_wrong_options_are_named(
    options: DeployOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict,
    error: type,
    message: str,
) -> None:
    monkeypatch.setenv("POSEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there: no network
    with pytest.raises(error, match=message):
        deploy(replace(options, **change))


def test_a_spec_that_contradicts_the_graph(options: DeployOptions, small_spec: ModelSpec) -> None:
    options.spec.write_text(replace(small_spec, input_wh=(96, 128)).to_json())
    with pytest.raises(GraphError, match="128"):
        deploy(options)


def test_a_spec_whose_name_leads_elsewhere(options: DeployOptions, small_spec: ModelSpec) -> None:
    options.spec.write_text(replace(small_spec, name="../elsewhere").to_json())
    with pytest.raises(GraphError, match="becomes a directory"):
        deploy(options)


FULL_DISK = """
mount -t tmpfs -o size={size}k none "{directory}" || exit 99
{python} -m posedge.cli deploy "{model}" --spec "{spec}" --images "{images}" --annotations "{annotations}" \
    --calibration-annotations "{calibration}" --no-flip --limit 6 --calibration-crops 4 --batch-sizes 1 \
    -o "{directory}"
code=$?
find "{directory}" -name "*.tmp"
exit $code
"""


@pytest.mark.parametrize(
    ("kilobytes", "file"),
    [(16, "fp32.onnx"), (44, "fp16.onnx"), (94, "fp32.engine"), (1632, "report.csv|report.png|receipt.json")],
)
def test_a_full_disk_is_an_error_and_leaves_no_part_of_a_file(
    options: DeployOptions, tmp_path: Path, kilobytes: int, file: str
) -> None:
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("this machine allows no mount namespaces")
    directory = tmp_path / "disk"
    directory.mkdir()
    script = FULL_DISK.format(
        size=kilobytes,
        directory=directory,
        python=sys.executable,
        model=options.model,
        spec=options.spec,
        images=options.data.images,
        annotations=options.data.annotations,
        calibration=options.data.calibration_annotations,
    )
    result = subprocess.run([*namespace, script], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert re.search(f"({file}): the disk is full", result.stderr)
    assert result.stdout == ""


def test_progress_is_one_display(options: DeployOptions) -> None:
    shown: list[str] = []

    class Recorder(SilentProgress):
        @contextmanager
        def task(self, description: str, total: float | None = None) -> Iterator[Task]:
            shown.append(description)
            with super().task(description, total) as task:
                yield task

    display: Progress = Recorder()
    deploy(options, display)
    for stage in ("prepare", "observing", "building", "evaluating", "timing"):
        assert any(stage in description for description in shown), shown
