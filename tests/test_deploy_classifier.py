"""The main job with a classifier: drawn images in synset folders, a network that sees their colours."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from posedge import Classifier, ModelSpec
from posedge.benchmarks.imagenet import evaluate_classifier
from posedge.benchmarks.report.receipt import read_receipt
from posedge.benchmarks.report.results import EvaluatedImages
from posedge.calibration.imagenet import ImageNet
from posedge.cli import main
from posedge.deploy import Outcome, deploy
from posedge.engines import BatchProfile, BuildOptions
from posedge.errors import BundleError, DataError
from posedge.options import DataPaths, DeployOptions, ImageNetPaths
from posedge.preflight import open_data
from posedge.runtime.images import read_image, write_png
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession

CLASSES = 6
SPEC = ModelSpec(
    "colours",
    task="classification",
    input_wh=(56, 56),
    mean=(0, 0, 0),
    std=(255, 255, 255),
    input_name="image",
    output_name="logits",
    num_classes=CLASSES,
    resize_short=64,
)
HUES = np.array([(0, 0, 255), (0, 255, 0), (255, 0, 0), (0, 255, 255), (255, 0, 255), (0, 0, 200)])


def write_images(root: Path, per_class: int, seed: int) -> Path:
    """Noisy pictures in the colour of their class, those of the last class in the colour of the first."""
    rng = np.random.default_rng(seed)
    for label in range(CLASSES):
        hue = HUES[label % (CLASSES - 1)]
        for number in range(per_class):
            height, width = rng.integers(60, 120, 2)
            picture = 0.6 * hue + 0.4 * rng.integers(0, 256, (height, width, 3))
            path = root / f"n{label:08d}" / f"{label}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, picture.astype(np.uint8))
    return root


def write_network(path: Path) -> None:
    """A convolution with random weights beside one that passes the colours on, pooling, a linear layer."""
    rng = np.random.default_rng(0)
    weight = (0.05 * rng.standard_normal((16, 3, 3, 3))).astype(np.float32)
    weight[:3] = 0
    weight[[0, 1, 2], [0, 1, 2], 1, 1] = 1
    linear = np.zeros((16, CLASSES), np.float32)
    rgb = HUES[:, ::-1] / 255
    linear[:3] = (rgb - 0.5).T * 8
    linear[3:] = 0.02 * rng.standard_normal((13, CLASSES))
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], "conv", strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc", "bias"], ["logits"], "fc"),
    ]
    bias = (-(rgb - 0.5).sum(axis=1) * 4).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 56, 56])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(linear, "fc"),
            numpy_helper.from_array(bias, "bias"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def make_options(root: Path) -> DeployOptions:
    """The network, its spec and its images below ``root``."""
    write_images(root / "imagenet" / "train", 3, seed=1)
    write_images(root / "imagenet" / "val", 4, seed=2)
    write_network(root / "colours.onnx")
    (root / "spec.json").write_text(SPEC.to_json())
    return DeployOptions(
        model=str(root / "colours.onnx"),
        output=root / "out",
        data=ImageNetPaths.imagenet(root / "imagenet"),
        spec=root / "spec.json",
        build=BuildOptions(BatchProfile(1, 2, 4)),
        calibration_crops=12,
        batch_sizes=(1, 2),
        seconds=0.05,
    )


@pytest.fixture
def options(tmp_path: Path) -> DeployOptions:
    return make_options(tmp_path)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """A finished bundle, and the directory of its images. Not to be changed."""
    root = tmp_path_factory.mktemp("deployed")
    return deploy(make_options(root)), root / "imagenet"


def test_the_main_job_from_an_onnx_file_to_classes(deployed: tuple[Outcome, Path]) -> None:
    outcome, imagenet = deployed
    receipt = json.loads((outcome.directory / "receipt.json").read_text())
    assert read_receipt(outcome.directory / "receipt.json") == outcome.report
    assert receipt["data"] == {"labels": "imagenet/val", "images": 24}
    assert receipt["calibration"] == (
        "mse ranges of 12 images from imagenet/train, placed for tensorrt-rtx, channels equalised, "
        "weights rounded by the output, "
        "biases corrected"
    )
    assert set(receipt["variants"]) == {"fp32", "fp16", "int8"}
    for variant in receipt["variants"].values():
        # the last class looks like the first: five of six are told apart, and all are among the first five
        assert variant["top1"] == variant["figures"]["top1"] == pytest.approx(5 / 6)
        assert variant["figures"]["top5"] == 1
        assert variant["top1_drop"] == 0
        # every variant finds the same classes, so no choice of images makes a difference
        assert variant["top1_drop_interval"] in ([0, 0], None)
        assert "ap" not in variant
    fp32 = receipt["variants"]["fp32"]
    assert "drops are counted from" in fp32["not_measured"]["top1_drop_interval"]
    assert receipt["variants"]["int8"]["top1_drop_interval"] is not None
    assert fp32["images_per_second"] > 0
    assert [entry["batch"] for entry in fp32["speed"]["pipeline"]] == [1, 2]
    assert all(entry["images_per_second"] > 0 for entry in fp32["speed"]["pipeline"])

    text = (outcome.directory / "report.txt").read_text()
    assert "top-1" in text
    assert "top-5" in text
    assert "images/s" in text
    assert "persons" not in text
    with (outcome.directory / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {float(row["top1_drop"]) for row in rows} == {0.0}
    assert "session_images_per_second" in rows[0]
    assert read_image(outcome.directory / "report.png").std() > 0

    image = read_image(imagenet / "val" / "n00000003" / "3_0.png")
    for name in receipt["variants"]:
        with Classifier(outcome.directory, name) as classifier:
            classes, probabilities = classifier(image)
        assert classes[0] == 3
        assert probabilities[0] > 0.5


def test_every_key_of_the_receipt_is_documented(deployed: tuple[Outcome, Path]) -> None:
    described = (Path(__file__).parent.parent / "docs" / "receipt.md").read_text()
    receipt = json.loads((deployed[0].directory / "receipt.json").read_text())
    variant = receipt["variants"]["int8"]
    keys = [*receipt, *variant, *variant["measured_on"], *variant["speed"]["session"][0]]
    assert [key for key in keys if f"`{key}`" not in described] == []
    for name in ("data", "figures"):
        parts = receipt["data"] if name == "data" else variant["figures"]
        assert [key for key in parts if f"`{name}.{key}`" not in described] == []


def test_a_flat_folder_with_its_list_gives_the_same_figures(options: DeployOptions) -> None:
    assert isinstance(options.data, ImageNetPaths)
    root = options.output.parent / "imagenet"
    before = ImageNet.load(options.data.images, CLASSES)
    lines = []
    for path in sorted((root / "val").glob("*/*.png")):
        lines.append(f"{path.name} {path.name[0]}")
        path.rename(root / "val" / path.name)
    for folder in [path for path in (root / "val").iterdir() if path.is_dir()]:
        folder.rmdir()
    (root / "val.txt").write_text("\n".join(lines))
    data = ImageNetPaths.imagenet(root)
    assert data == ImageNetPaths(root / "val", root / "val.txt", root / "train")
    after = ImageNet.load(data.images, CLASSES, data.labels)
    assert [image.label for image in after.images] == [image.label for image in before.images]
    outcome = deploy(replace(options, data=data, precisions=("fp32",)))
    assert outcome.report.data == EvaluatedImages("imagenet/val.txt", 24)
    assert outcome.report.variants[0].accuracy.headline == pytest.approx(5 / 6)


def test_logits_that_are_no_numbers_are_wrong(options: DeployOptions) -> None:
    class Broken(OnnxRuntimeSession):
        def run(self, batch: np.ndarray) -> tuple[np.ndarray, ...]:
            (logits,) = super().run(batch)
            return (np.full_like(logits, np.nan),)

    dataset = ImageNet.load(options.data.images, CLASSES)
    with Broken(Path(options.model), SPEC, threads=1) as session:
        found = evaluate_classifier(session, dataset, batch=5)
    assert (found.figures.top1, found.figures.top5) == (0, 0)


def test_data_that_do_not_go_with_the_model(
    options: DeployOptions, small_pose: Path, small_spec: ModelSpec, tmp_path: Path
) -> None:
    pose = tmp_path / "pose.json"
    pose.write_text(small_spec.to_json())
    with pytest.raises(DataError, match=r"--imagenet is for classifiers.*--coco"):
        deploy(replace(options, model=str(small_pose), spec=pose))
    with pytest.raises(DataError, match="--imagenet DIR"):
        deploy(replace(options, data=DataPaths(tmp_path / "a.json", tmp_path)))
    assert isinstance(options.data, ImageNetPaths)
    with pytest.raises(DataError, match="--calibration-images DIR"):
        deploy(replace(options, data=replace(options.data, calibration_images=None)))


def test_images_to_calibrate_on_are_read_for_float16_too(options: DeployOptions) -> None:
    half = replace(options, precisions=("fp16",))
    _, calibration = open_data(half, SPEC)
    assert calibration is not None
    assert calibration.count == 12
    blind = replace(half, data=replace(options.data, calibration_images=None))
    assert open_data(blind, SPEC)[1] is None
    assert open_data(replace(options, precisions=("fp32",)), SPEC)[1] is None


def test_too_few_images_to_search_on_are_refused_before_any_work(options: DeployOptions) -> None:
    with pytest.raises(DataError, match="2 images are too few to search on one half"):
        deploy(replace(options, search=True, max_drop=0.5, limit=2))
    assert not list(options.output.rglob("*.onnx"))


def test_one_picture_on_the_command_line(
    deployed: tuple[Outcome, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome, imagenet = deployed
    run = ["run", str(outcome.directory), str(imagenet / "val" / "n00000002" / "2_0.png")]
    assert main(run) == 0
    assert capsys.readouterr().out.startswith("class    2  ")
    assert main([*run, "--variant", "int8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"][0] == 2
    assert main([*run, "--boxes", "1,1,5,5"]) == 1
    assert "whole picture" in capsys.readouterr().err


def test_the_command_line_finds_the_images(
    options: DeployOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    root = options.output.parent
    shutil.rmtree(root / "imagenet" / "train")
    command = ["deploy", options.model, "--spec", str(options.spec), "--imagenet", str(root / "imagenet")]
    assert main(command) == 1
    assert "give --calibration-images DIR" in capsys.readouterr().err
    assert main([*command, "--imagenet-labels", str(root / "absent.txt")]) == 1
    assert "absent.txt: the label file cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["--imagenet", "x", "--coco", "x"], "not both"),
        (["--imagenet", "x", "--annotations", "x"], "not both"),
        (["--coco", "x", "--imagenet-labels", "x"], "goes with --imagenet"),
        (["--images", "x"], "for a classifier --imagenet DIR"),
    ],
)
def test_misuse_of_the_command_line(
    data: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["deploy", "resnext50-32x4d", *data])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_receipt_that_was_changed_is_refused(deployed: tuple[Outcome, Path], tmp_path: Path) -> None:
    document = json.loads((deployed[0].directory / "receipt.json").read_text())
    document["variants"]["fp32"]["top1"] = 1.0
    (tmp_path / "receipt.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match="top1"):
        read_receipt(tmp_path / "receipt.json")
