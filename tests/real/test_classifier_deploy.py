"""A classifier of the zoo by its name alone through all five stages, on photographs.

There are no ImageNet images and no trained weights here. The weights are random, the images COCO's, and the
label of an image is what the torch network itself answers on it, prepared with Pillow: the float32 bundle has
to be right always, and what the others lose is what their number types cost this network, not an accuracy.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from posedge import Classifier
from posedge.benchmarks.report.receipt import read_receipt
from posedge.calibration.recipe import Recipe
from posedge.deploy import Outcome, deploy
from posedge.export.zoo import build_model, find_entry
from posedge.options import DeployOptions, ImageNetPaths
from posedge.runtime.images import read_image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from random_weights import set_random_weights

NAME = "resnext50-32x4d"
IMAGES, CALIBRATION_IMAGES = 10, 4


def prepared(path: Path) -> torch.Tensor:
    """(3, 224, 224) as published: the short edge to 256 with Pillow, the middle, mean and deviation."""
    pillow = pytest.importorskip("PIL.Image")
    picture = pillow.fromarray(read_image(path)[..., ::-1])
    width, height = picture.size
    short = min(width, height)
    picture = picture.resize((256 * width // short, 256 * height // short), pillow.Resampling.BILINEAR)
    left, top = (round((side - 224) / 2) for side in picture.size)
    pixels = np.asarray(picture.crop((left, top, left + 224, top + 224)), np.float32)
    spec = find_entry(NAME).spec
    scaled = (pixels - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    return torch.from_numpy(scaled.transpose(2, 0, 1))


def own_labels(paths: list[Path], checkpoint: Path) -> list[int]:
    """Write a checkpoint whose answers differ from image to image, and return them."""
    model = build_model(NAME)
    set_random_weights(model)
    with torch.no_grad():
        logits = model(torch.stack([prepared(path) for path in paths]))
        # random features are much alike in all images: what they have in common would decide every answer
        model.head.fc.bias -= logits.mean(0)
        logits -= logits.mean(0)
    torch.save({"meta": {}, "state_dict": model.state_dict()}, checkpoint)
    return [int(label) for label in logits.argmax(1)]


@pytest.fixture(scope="module")
def imagenet(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """val/ flat with its list, train/ with a synset folder, and the checkpoint."""
    root = tmp_path_factory.mktemp("imagenet")
    paths = sorted((coco / "images").glob("*.jpg"))[: IMAGES + CALIBRATION_IMAGES]
    synset = root / "train" / "n01440764"
    for directory, some in ((root / "val", paths[:IMAGES]), (synset, paths[IMAGES:])):
        directory.mkdir(parents=True)
        for path in some:
            (directory / path.name).symlink_to(path)
    labels = own_labels(paths[:IMAGES], root / "weights.pth")
    assert len(set(labels)) > IMAGES // 3
    lines = [f"{path.name} {label}" for path, label in zip(paths, labels, strict=False)]
    (root / "val.txt").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def outcome(imagenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return deploy(
        DeployOptions(
            model=NAME,
            output=tmp_path_factory.mktemp("out"),
            data=ImageNetPaths.imagenet(imagenet),
            checkpoint=imagenet / "weights.pth",
            batch_sizes=(1,),
            seconds=0.1,
            recipe=Recipe(rounded=False),  # the levels of 25 million weights take a minute
        )
    )


@pytest.mark.slow
def test_what_the_number_types_cost_is_measured(outcome: Outcome) -> None:
    receipt = json.loads((outcome.directory / "receipt.json").read_text())
    variants = receipt["variants"]
    assert variants["fp32"]["top1"] == 1
    assert variants["fp16"]["top1_drop"] <= 1 / IMAGES
    assert variants["int8"]["figures"]["top5"] >= 0.5
    assert variants["int8"]["top1_drop"] == 1 - variants["int8"]["top1"]
    assert bool(receipt["warnings"]) == any(v["top1_drop"] > 0.01 for v in variants.values())
    assert receipt["data"]["images"] == IMAGES
    assert receipt["calibration"].startswith(f"mse ranges of {CALIBRATION_IMAGES} images")
    assert read_receipt(outcome.directory / "receipt.json") == outcome.report


@pytest.mark.slow
def test_the_bundle_answers_as_the_network_does(outcome: Outcome, imagenet: Path) -> None:
    lines = (imagenet / "val.txt").read_text().splitlines()
    images = [read_image(imagenet / "val" / line.split()[0]) for line in lines[:4]]
    with Classifier(outcome.directory, "fp32") as classifier:
        answers = [int(classifier(image)[0][0]) for image in images]
    assert answers == [int(line.split()[1]) for line in lines[:4]]
