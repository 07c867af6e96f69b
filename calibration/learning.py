"""Biases, scales and weight levels learned together, without labels: INT8's outputs against float32's.

Calibration looks at each layer by itself; here errors of one layer may be taken back by the next. The float32
network is the teacher (Hinton et al., "Distilling the knowledge in a neural network", 2015), its outputs on
the calibration crops are all that is learned from. What it keeps: every eighth crop is held out, and the
state that is best on those is the result, the start included. So it is never worse than its start on crops
that it did not learn from. Learning begins at the calibration and moves by fractions of a step: what rounds
well already is not thrown away.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import CalibrationError
from ..progress import SILENT, Progress, Task
from .calibrate import Calibration
from .datasets import PersonCrops
from .imagenet import ImageBatch
from .learnable import LearnableInt8
from .observers import Batch, single_crops
from .topology import Topology
from .torch_graph import Read, TorchGraph

STEPS = 60

KINDS = ("scales", "biases", "levels")

FEWEST_CROPS = 8
MOST_CROPS = 128
"""More crops than this are not learned from: they are held in memory, and mirrored once more, 150 MB for
256 x 192 pixels."""

# every so many crops one is held out, and every so many steps they are asked
_HELD_OUT = 8
_ASKED = 10

_BATCH = 8

# how many crops run at once: what the gradients need of all layers is in memory
_CHUNK = 4

_TINY = float(np.finfo(np.float32).tiny)

# the units are those of LearnableInt8; Adam moves each parameter by about so much in a step. At twice the
# rate of levels many weights change at once, and PP-TinyPose's error triples.
_RATES = {"scales": 1e-3, "biases": 0.02, "levels": 0.02}

_WARM_UP = 10


def learn(
    calibration: Calibration,
    batches: Iterable[Batch],
    progress: Progress = SILENT,
    steps: int = STEPS,
    seed: int = 0,
    kinds: Collection[str] = ("biases",),
) -> Calibration:
    """Learn biases, and on demand ranges and levels, of what ``calibration`` quantises; the scales of weights
    stay.

    batches: crops as ``calibrate`` takes them, of which the first 128 are used. Numbers 7, 15, 23, ... are
    held out; the others are learned from, each as it is and mirrored. seed: of their order.
    kinds: what is learned, of ``KINDS``. Biases alone came nearest to float32: most of the error is of
    rounded activations, whose gradients by scales are mostly noise.

    Equal inputs give equal results with equally many threads. Raises CalibrationError when there are fewer
    than 8 crops and when the graph has an operator that torch does not run here.
    """
    teacher = TorchGraph(calibration.model)
    crops = _stacked(batches)
    held = torch.arange(len(crops)) % _HELD_OUT == _HELD_OUT - 1
    strengths = _Strengths(calibration.placement().activations)
    with progress.task("learning", steps) as task:
        exam = _lesson(teacher, crops[held])
        shown = crops[~held]
        lesson = _lesson(teacher, torch.cat([shown, shown.flip(3)]), strengths)
        student = LearnableInt8(calibration, strengths.result())
        before, after = _descend(student, lesson, exam, steps, seed, kinds, task)
    held_out = "1 crop" if len(exam.crops) == 1 else f"{len(exam.crops)} crops"
    progress.note(f"learning: error on {held_out} held out was {before:.4f}, is {after:.4f}")
    return student.calibration()


def require_torch_graph(model: onnx.ModelProto) -> None:
    """Raise CalibrationError when the graph has an operator that torch does not run here."""
    if len(Topology(model).inputs) == 1:  # others are refused when the crops are to be fed
        TorchGraph(model)


def kept_crops(batches: Iterable[Batch], kept: list[NDArray[np.float32]]) -> Iterator[Batch]:
    """``batches`` as they are; the first 128 crops, (1, 3, H, W) each, are added to ``kept`` on the way."""
    for batch in batches:
        pixels = batch.batch if isinstance(batch, PersonCrops | ImageBatch) else batch
        room = MOST_CROPS - len(kept)
        kept.extend(pixels[index : index + 1] for index in range(min(room, len(pixels))))
        yield batch


@dataclass(frozen=True, eq=False)
class _Lesson:
    """crops: float32 (N, 3, H, W). answers: the teacher's outputs for them. sizes: the mean square of all
    that each output holds for one crop."""

    crops: Tensor
    answers: tuple[Tensor, ...]
    sizes: tuple[float, ...]

    def errors(self, student: LearnableInt8, crops: Tensor) -> Tensor:
        """By how much (N,) the student is off at the crops of these numbers (N,): the distance from the
        answers over their root mean square size."""
        found = student.run(self.crops[crops])
        squares = [
            (output - answer[crops]).flatten(1).square().sum(1) / size
            for output, answer, size in zip(found, self.answers, self.sizes, strict=True)
        ]
        return torch.stack(squares).mean(0).add(_TINY).sqrt()

    def error(self, student: LearnableInt8) -> float:
        """The mean over all crops, without gradients."""
        with torch.no_grad():
            parts = [self.errors(student, part) for part in _chunks(range(len(self.crops)))]
        return float(torch.cat(parts).mean())


def _lesson(teacher: TorchGraph, crops: Tensor, read: Read | None = None) -> _Lesson:
    """What the teacher says to ``crops``; ``read`` listens."""
    listening = () if read is None else (read,)
    with torch.no_grad():
        runs = [teacher.run(crops[part], *listening) for part in _chunks(range(len(crops)))]
    answers = tuple(torch.cat(parts) for parts in zip(*runs, strict=True))
    sizes = (float(answer.flatten(1).square().sum(1).mean()) for answer in answers)
    return _Lesson(crops, answers, tuple(max(size, _TINY) for size in sizes))


class _Strengths:
    """The root mean square of activations, gathered while the teacher reads them."""

    def __init__(self, tensors: Iterable[str]) -> None:
        self._squares = dict.fromkeys(tensors, 0.0)
        self._counts = dict.fromkeys(self._squares, 0)

    def __call__(self, _node: str, _index: int, tensor: str, value: Tensor) -> Tensor:
        if tensor in self._squares:
            self._squares[tensor] += float(value.square().sum())
            self._counts[tensor] += value.numel()
        return value

    def result(self) -> dict[str, float]:
        return {tensor: (total / self._counts[tensor]) ** 0.5 for tensor, total in self._squares.items()}


def _descend(
    student: LearnableInt8,
    lesson: _Lesson,
    exam: _Lesson,
    steps: int,
    seed: int,
    kinds: Collection[str],
    task: Task,
) -> tuple[float, float]:
    """Leave the student in its best state; returns its errors on ``exam`` at first and in the end."""
    parameters = student.parameters()
    groups = [{"params": parameters[kind], "lr": _RATES[kind]} for kind in KINDS if kind in kinds]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=_TINY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, steps))
    order = _order(len(lesson.crops), seed)
    start = best = exam.error(student)
    state = student.state()
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        for part in _chunks(list(islice(order, _BATCH))):
            torch.autograd.backward(lesson.errors(student, part).sum() / _BATCH)
        optimizer.step()
        schedule.step()
        task.update(step)
        if step % _ASKED == 0 or step == steps:
            found = exam.error(student)
            if found < best:
                best, state = found, student.state()
    student.restore(state)
    return start, best


def _pace(step: int, steps: int) -> float:
    """The share of the rate at this step: up to 1 while Adam gets to know the gradients, then down to 0."""
    return min(1, (step + 1) / _WARM_UP) * (1 + math.cos(math.pi * step / max(steps, 1))) / 2


def _chunks(numbers: Sequence[int]) -> Iterator[Tensor]:
    """``numbers`` as tensors, at most so many in each as run at once."""
    for first in range(0, len(numbers), _CHUNK):
        yield torch.tensor(numbers[first : first + _CHUNK])


def _order(count: int, seed: int) -> Iterator[int]:
    """All numbers below ``count`` in random order, and again in another, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def _stacked(batches: Iterable[Batch]) -> Tensor:
    """The first crops of the batches, float32 (N, 3, H, W)."""
    crops = [pixels for pixels, _ in islice(single_crops(batches), MOST_CROPS)]
    if len(crops) < FEWEST_CROPS:
        found = "1 crop is" if len(crops) == 1 else f"{len(crops)} crops are"
        raise CalibrationError(
            f"{found} too few to learn from: {FEWEST_CROPS} are needed at least, better {MOST_CROPS}. "
            "Give more images, or calibrate without learning."
        )
    return torch.from_numpy(np.concatenate(crops))
