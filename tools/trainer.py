"""One training: a model, its optimiser, and the averaged weights that are saved."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cpu_convolution import use_products
from heatmap_targets import megvii_targets, msra_targets
from torch import Tensor, nn
from training_data import Batch, Source

from posedge import files
from posedge.errors import CheckpointError
from posedge.export.zoo import build_model, find_entry
from posedge.runtime import heatmaps as decoding
from posedge.runtime.spec import ModelSpec

# Heatmaps are learned with this peak and scaled to the deployed one when they are saved: a last norm that
# starts at the deployed 255 spends its first hour shrinking noise.
_PEAK = 8.0
_DEPLOYED_PEAK = 255.0
_LAST_NORM = 0.3  # start of the last norms' weights, about the standard deviation of a map with that peak
_KERNELS = (5, 7, 9, 11)  # Megvii's, from the last unit of a stage back to its first
_FOREGROUND = 3.0  # additional weight of a pixel at a peak
_WARM_UP = 150  # steps
_AVERAGE = 0.99  # of the averaged weights, kept at each step
_LARGEST_HALF = 65504.0
_SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000  # COCO's


@dataclass(frozen=True)
class Options:
    """What to fit, to what, and for how long: ``steps`` where given, else ``minutes`` of wall clock."""

    model: str
    source: Source
    output: Path
    device: str = "cpu"
    minutes: float = 80.0
    steps: int | None = None
    batch: int = 16
    learning_rate: float = 1e-3
    threads: int | None = None
    resume: bool = False
    save_minutes: float = 5.0
    check_minutes: float = 10.0
    check_batches: int = 8
    norm_batches: int = 30


@dataclass
class State:
    """How far training has come."""

    step: int = 0
    seconds: float = 0.0
    samples: int = 0


@dataclass(frozen=True)
class Accuracy:
    """Error in heatmap pixels, and object keypoint similarity.

    recall: mean over the thresholds 0.5 to 0.95 of the figures above each: AP if scores ranked perfectly.
    """

    error: float
    within_2_pixels: float
    similarity: float
    recall: float


class Trainer:
    """One model, its optimiser, and an average of its weights that is what gets saved."""

    def __init__(self, options: Options) -> None:
        torch.manual_seed(options.source.seed)
        if options.threads:
            torch.set_num_threads(options.threads)
        self.options = options
        self.spec: ModelSpec = find_entry(options.model).spec
        self.device = torch.device(options.device)
        self.model = build_model(options.model)
        self._last_norms = _last_norms(self.model) if self.spec.codec == "megvii" else []
        for norm in self._last_norms:
            nn.init.constant_(norm.weight, _LAST_NORM)
        self.model = self.model.to(self.device, memory_format=torch.channels_last)
        if self.device.type == "cpu":
            use_products(self.model)
        self.average = build_model(options.model)
        self.average.load_state_dict(self.model.state_dict())
        self.average = self.average.to(self.device, memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), options.learning_rate, weight_decay=1e-3)
        self.state = State()
        # the place of the model's own maps on the spec's scale
        self._scale = _PEAK if self.spec.codec == "megvii" else 1.0

    def progress(self) -> float:
        """The part of the schedule that is done, 0 to 1."""
        if self.options.steps is not None:
            return min(self.state.step / max(self.options.steps, 1), 1.0)
        return min(self.state.seconds / (self.options.minutes * 60), 1.0)

    def step(self, batch: Batch) -> float:
        """One step of the optimiser; returns the loss."""
        rate = self.options.learning_rate * 0.5 * (1 + math.cos(math.pi * self.progress()))
        for group in self.optimiser.param_groups:
            group["lr"] = max(rate, self.options.learning_rate * 0.005) * min(
                (self.state.step + 1) / _WARM_UP, 1.0
            )
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16):
            outputs = self._all_maps(self._input(batch))
        loss = self._loss(outputs, batch)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimiser.step()
        self.state.step += 1
        self.state.samples += len(batch.crops)
        self._update_average()
        return float(loss.detach())

    def _input(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) float32 in memory order NHWC, as the deployed preprocessing makes it."""
        crops = torch.from_numpy(batch.crops).to(self.device).float()
        if self.spec.colour_order == "rgb":
            crops = crops.flip(-1)
        mean = torch.tensor(self.spec.mean, device=self.device)
        std = torch.tensor(self.spec.std, device=self.device)
        return ((crops - mean) / std).permute(0, 3, 1, 2)

    def _all_maps(self, x: Tensor) -> list[Tensor]:
        forward_all = getattr(self.model, "forward_all", None)
        return list(forward_all(x)) if forward_all is not None else [self.model(x)]

    def _loss(self, outputs: list[Tensor], batch: Batch) -> Tensor:
        points, labelled = batch.keypoints[..., :2], batch.keypoints[..., 2] > 0
        size = (self.spec.input_wh, self.spec.heatmap_wh)
        total = torch.zeros((), device=self.device)
        for index, output in enumerate(reversed(outputs)):
            if self.spec.codec == "megvii":
                kernel = _KERNELS[index % len(_KERNELS)]
                targets, weights = megvii_targets(points, labelled, *size, kernel, self._scale)
            else:
                sigma = self.spec.heatmap_wh[0] / 24
                targets, weights = msra_targets(points, labelled, *size, sigma, self._scale)
            goal = torch.from_numpy(targets).to(self.device)
            shares = torch.from_numpy(weights).to(self.device)[..., None, None]
            attention = shares * (1 + _FOREGROUND / self._scale * goal)
            error = (output.float() - goal).square() * attention
            total = total + error.sum() / (shares.sum().clamp(min=1) * self._scale**2)
        return total / len(outputs)

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(_AVERAGE, (1 + self.state.step) / (10 + self.state.step))
        averaged, current = list(self.average.parameters()), list(self.model.parameters())
        torch._foreach_lerp_(averaged, current, 1 - decay)

    @torch.no_grad()
    def settle_norms(self, batches: list[Batch]) -> None:
        """Measure the norms' statistics anew for the averaged weights: each batch counts the same."""
        norms = [module for module in self.average.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean
        self.average.train()
        forward = getattr(
            self.average, "forward_all", self.average
        )  # all norms, not only the deployed path's
        for batch in batches:
            with torch.autocast(self.device.type, torch.bfloat16):
                forward(self._input(batch))
        self.average.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    @torch.no_grad()
    def accuracy(self, batches: list[Batch]) -> Accuracy:
        """Accuracy of the averaged weights on ``batches``; ``settle_norms`` comes first."""
        self.average.eval()
        errors, similarities = [], []
        stride = self.spec.input_wh[0] / self.spec.heatmap_wh[0]
        for batch in batches:
            with torch.autocast(self.device.type, torch.bfloat16):
                maps = self.average(self._input(batch)).float() * self._saved_scale()
            found, _ = decoding.decode(maps.cpu().numpy(), self.spec)
            labelled = batch.keypoints[..., 2] > 0
            distance = np.linalg.norm(found * stride - batch.keypoints[..., :2], axis=-1)
            errors.append(distance[labelled] / stride)
            spread = 2 * batch.areas[:, None] * (2 * _SIGMAS[: distance.shape[1]]) ** 2
            similar = np.exp(-(distance**2) / np.maximum(spread, 1e-6)) * labelled
            similarities.append(similar.sum(1) / np.maximum(labelled.sum(1), 1))
        error, similarity = np.concatenate(errors), np.concatenate(similarities)
        thresholds = np.arange(0.5, 0.96, 0.05)
        return Accuracy(
            error=float(error.mean()),
            within_2_pixels=float((error < 2).mean()),
            similarity=float(similarity.mean()),
            recall=float((similarity[:, None] > thresholds).mean()),
        )

    def _saved_scale(self) -> float:
        return _DEPLOYED_PEAK / _PEAK if self._last_norms else 1.0

    def checkpoint(self, accuracy: Accuracy | None) -> dict[str, Any]:
        """The averaged weights in the official layout, on the deployed scale, as float16."""
        last = {id(norm) for norm in _last_norms(self.average)} if self._last_norms else set()
        scaled = {
            f"{name}.{kind}"
            for name, module in self.average.named_modules()
            if id(module) in last
            for kind in ("weight", "bias")
        }
        state = {}
        for key, value in self.average.state_dict().items():
            value = value.detach().cpu() * (self._saved_scale() if key in scaled else 1)
            small = value.is_floating_point() and bool(value.abs().max() < _LARGEST_HALF)
            state[key] = value.half().contiguous() if small else value
        source = self.options.source
        meta = {
            "model": self.options.model,
            "fitted_to": str(source.annotations.name) if source.annotations else "drawn figures",
            "seed": source.seed,
            "steps": self.state.step,
            "samples": self.state.samples,
            "accuracy": asdict(accuracy) if accuracy else {},
        }
        return {"meta": meta, "state_dict": state}

    def save(self, accuracy: Accuracy | None) -> None:
        """Write the checkpoint, after ``settle_norms``, and beside it what --resume needs."""
        _save(self.checkpoint(accuracy), self.options.output)
        self.save_state()

    def save_state(self) -> None:
        """Write what --resume needs."""
        document = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "state": asdict(self.state),
        }
        _save(document, resume_path(self.options.output))

    def restore(self) -> None:
        """Go on from the state beside the output file.

        Raises CheckpointError when there is none, or it is of another model.
        """
        path = resume_path(self.options.output)
        try:
            document = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(document["model"])
            self.average.load_state_dict(document["average"])
            self.optimiser.load_state_dict(document["optimiser"])
            self.state = State(**document["state"])
        except FileNotFoundError as error:
            raise CheckpointError(f"{path}: there is nothing to resume; leave --resume out") from error
        except Exception as error:  # torch raises many kinds for a damaged or a different file
            raise CheckpointError(
                f"{path}: this is not the state of a training of {self.options.model} ({error}). "
                "Leave --resume out to start anew."
            ) from error


def resume_path(output: Path) -> Path:
    """Where the state of an unfinished training is."""
    return output.with_name(output.name + ".training")


def _save(document: dict[str, Any], path: Path) -> None:
    with files.replacing(path) as temporary:
        torch.save(document, temporary)


def _last_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """The last norm of every predict layer."""
    layers = model.get_submodule("head.predict_layers")
    return [
        [module for module in layer.modules() if isinstance(module, nn.BatchNorm2d)][-1]
        for layer in layers.children()
    ]
