"""The training tool fits models to drawn figures and to COCO files, and writes official checkpoints."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from posedge.errors import CheckpointError, DataError
from posedge.export.checkpoints import load_checkpoint
from posedge.export.zoo import build_model

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from cpu_convolution import convolve_by_product
from train_demo import main, train
from trainer import Options, Trainer, resume_path
from training_data import NONE, Augmentation, Source, check_batches, crop_batches, drawn_pictures

MODEL = "rsn_18_256x192"


def short(output, source=None, **more):
    values = {"steps": 3, "batch": 2, "threads": 1, "check_batches": 1, "norm_batches": 1}
    return Options(MODEL, source or Source(0), output, **{**values, **more})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The checkpoint of a training of three steps on drawn figures."""
    output = tmp_path_factory.mktemp("training") / "fitted.pth"
    train(short(output))
    return output


def test_checkpoint_has_the_official_layout(fitted, reference):
    manifest = json.loads((reference / "manifests" / f"{MODEL}.json").read_text())
    document = torch.load(fitted, weights_only=True)
    assert document["meta"]["model"] == MODEL
    assert document["meta"]["steps"] == 3
    state = document["state_dict"]
    expected = [(key, shape) for key, shape, _ in manifest["state_dict"]]
    assert [(key, list(value.shape)) for key, value in state.items()] == expected
    for key, value in state.items():
        assert value.dtype == (torch.int64 if key.endswith("num_batches_tracked") else torch.float16)


def test_checkpoint_loads_and_is_on_the_deployed_scale(fitted):
    model = build_model(MODEL)
    load_checkpoint(model, fitted)
    last = model.get_submodule("head.predict_layers.3.conv_layers.1.bn")
    # starts near 0.3 for a peak of 8, so near 10 for a peak of 255
    assert 5 < float(last.weight.detach().abs().mean()) < 20
    with torch.inference_mode():
        assert torch.isfinite(model(torch.zeros(1, 3, 256, 192))).all()


def test_training_goes_on_where_it_stopped(fitted):
    train(short(fitted, steps=5, resume=True))
    assert torch.load(resume_path(fitted), weights_only=True)["state"]["step"] == 5


def test_fits_a_coco_set(coco, tmp_path):
    output = tmp_path / "coco.pth"
    accuracy = train(short(output, Source(0, coco / "train.json", coco / "images"), steps=2))
    assert 0 <= accuracy.recall <= 1
    assert torch.load(output, weights_only=True)["meta"]["fitted_to"] == "train.json"


def test_loss_falls_on_one_batch(tmp_path):
    trainer = Trainer(short(tmp_path / "never.pth", steps=100, learning_rate=3e-3, check_batches=0))
    batch = check_batches(Source(0), trainer.spec, 2, 1)[0]
    trainer.state.step = 150  # past the warm-up
    trainer.options = dataclasses.replace(trainer.options, steps=1000)
    losses = [trainer.step(batch) for _ in range(6)]
    assert losses[-1] < 0.9 * losses[0]


def test_batches_hold_what_is_deployed_and_joints_stay_on_the_figure():
    spec = Trainer(short(Path("never.pth"))).spec
    plain = next(crop_batches(drawn_pictures(1, 2), spec, 4, NONE, np.random.default_rng(0)))
    assert plain.crops.shape == (4, 256, 192, 3)
    inside = plain.keypoints[plain.keypoints[..., 2] > 0][:, :2]
    # the box is padded by a quarter: no labelled joint is outside the crop
    assert (inside >= 0).all()
    assert (inside < (192, 256)).all()


def test_mirrored_crops_swap_sides():
    spec = Trainer(short(Path("never.pth"))).spec
    mirror = Augmentation(zoom=0, shift=0, angle=0, rotated=0, colour=0, mirrored=1)
    image, boxes, keypoints, areas = next(drawn_pictures(1, 2))
    pictures = [(image, boxes[:1], keypoints[:1], areas[:1])] * 4  # as many as are shuffled
    plain, mirrored = (
        next(crop_batches(iter(pictures), spec, 1, augmentation, np.random.default_rng(0)))
        for augmentation in (NONE, mirror)
    )
    difference = np.abs(mirrored.crops[0].astype(int) - plain.crops[0][:, ::-1])
    assert difference.mean() < 0.5
    left, right = plain.keypoints[0, 5], mirrored.keypoints[0, 6]
    assert right[0] == pytest.approx(191 - left[0], abs=1e-3)
    assert right[1:] == pytest.approx(left[1:], abs=1e-3)


def test_products_equal_convolutions():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 208, 8, 6, generator=generator)
    weight = torch.randn(17, 208, 3, 3, generator=generator)
    expected = torch.nn.functional.conv2d(x, weight, padding=1)
    torch.testing.assert_close(convolve_by_product(x, weight), expected, atol=1e-3, rtol=1e-4)


def test_nothing_to_resume_is_said(tmp_path, capsys):
    assert main(["--resume", "--steps", "1", "-o", str(tmp_path / "none.pth")]) == 1
    assert "nothing to resume" in capsys.readouterr().err


def test_a_damaged_state_is_said(tmp_path):
    output = tmp_path / "damaged.pth"
    resume_path(output).write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match="not the state of a training"):
        train(short(output, resume=True))


def test_a_missing_annotation_file_is_said(tmp_path):
    with pytest.raises(DataError, match="missing"):
        train(short(tmp_path / "never.pth", Source(0, tmp_path / "missing.json", tmp_path)))
