"""What a pass is, and how passes are run: each proven to keep the graph valid and its outputs the same."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from ...errors import GraphError
from ...progress import Task
from ..graphs import check_graph, dims, graph_input, run_graph
from .computation import computation

# Largest difference between two float32 forms of one network, as a part of the largest output. Folding and
# reordering sums moved RSN-18's outputs by 1.4e-6 and PP-TinyPose's not at all; deeper networks have more
# sums. The mildest real mistake that was tried, a batch norm epsilon of 1e-3 for 1e-5, moved them by 3.8e-3.
TOLERANCE = 1e-4

Report = Callable[[str], None]  # hears, line by line, what a pass did and what it left alone and why


def unheard(line: str) -> None:
    """The report of a pass that nobody listens to."""


class GraphPass(ABC):
    """One rewrite of a graph. ``edit`` may change its argument and must return the result."""

    @property
    def name(self) -> str:
        return type(self).__name__

    @abstractmethod
    def edit(self, model: ModelProto) -> ModelProto:
        """The rewritten model. Raises GraphError where the rewrite is impossible."""


def apply_passes(
    model: ModelProto,
    passes: Sequence[GraphPass],
    batch: NDArray[np.float32],
    task: Task | None = None,
    *,
    in_place: bool = False,
) -> ModelProto:
    """Run ``passes`` in order on a copy of ``model``, each checked before the next.

    After each one onnx.checker must accept the graph, and its outputs for ``batch`` (N, 3, H, W) must equal
    those of ``model`` as it came within TOLERANCE; a pass that changed names and notes alone needs no such
    proof. An output that a pass removed is not compared. ``task`` hears of each finished pass. ``in_place``
    does without the copy, for a model that nobody needs any more and that is too large to have twice. Raises
    GraphError that names the pass at fault and those that had run.
    """
    expected = _outputs(model, batch)
    for name, value in expected.items():
        if not np.isfinite(value).all():
            raise GraphError(
                f"the output {name!r} holds NaN or infinity for random input: are the weights sound?"
            )
    current = model
    if not in_place:
        current = ModelProto()
        current.CopyFrom(model)
    del model  # so that nothing keeps the form that a pass replaces
    proven = computation(current)
    done: list[str] = []
    for index, step in enumerate(passes):
        try:
            current = step.edit(current)
            made = computation(current)
            if made != proven:
                check_graph(current, f"after {step.name}")
                _check_same(expected, _outputs(current, batch))
                proven = made
        except GraphError as error:
            before = f" (after {', '.join(done)})" if done else ""
            raise GraphError(f"the graph pass {step.name}{before} failed: {error}") from error
        done.append(step.name)
        if task is not None:
            task.update(index + 1, len(passes))
    check_graph(current, "after all graph passes")  # the last may have changed names alone
    return current


def relative_difference(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    """Largest absolute difference over the largest expected value; infinity for NaN or another shape."""
    if expected.shape != actual.shape:
        return float("inf")
    if expected.size == 0:
        return 0.0
    scale = float(np.abs(expected).max()) or 1.0
    difference = float(np.abs(expected.astype(np.float64) - actual).max()) / scale
    return difference if np.isfinite(difference) else float("inf")


def _outputs(model: ModelProto, batch: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Outputs for ``batch``, in pieces where the graph states a fixed batch size."""
    shape = dims(graph_input(model, "the graph"))
    size = shape[0] if shape else ""
    if not isinstance(size, int) or size == len(batch):
        return run_graph(model, batch)
    if size < 1 or len(batch) % size:
        raise GraphError(f"the graph's batch size is fixed at {size}. Export it with a dynamic batch axis")
    pieces = [run_graph(model, piece) for piece in np.split(batch, len(batch) // size)]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _check_same(expected: dict[str, NDArray[Any]], actual: dict[str, NDArray[Any]]) -> None:
    for name in actual:
        difference = relative_difference(expected[name], actual[name]) if name in expected else float("inf")
        if difference > TOLERANCE:
            raise GraphError(
                f"it changed the output {name!r} by {difference:.1e} of its largest value; "
                f"{TOLERANCE:.0e} is allowed"
            )
