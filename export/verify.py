"""Proof that an exported graph computes what the torch model computes, and where not, from which node on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import GraphError
from ..memory import large_blocks_returned
from ..progress import SILENT, Progress
from ..runtime.spec import ModelSpec
from .graphs import GraphRunner, check_spec, load_graph, random_batch, run_graph
from .passes.base import TOLERANCE, relative_difference
from .passes.name_nodes import module_of


@dataclass(frozen=True)
class Comparison:
    """How far the two outputs are apart for one batch.

    inputs: "random" or "real".
    batch: persons in the batch.
    difference: largest absolute difference.
    relative: the same over torch's largest absolute output, what the tolerance is applied to.
    """

    inputs: str
    batch: int
    difference: float
    relative: float


@dataclass(frozen=True)
class VerifyReport:
    """What was compared; every comparison is within ``tolerance``."""

    comparisons: tuple[Comparison, ...]
    tolerance: float

    @property
    def largest(self) -> float:
        """Largest relative difference of all comparisons."""
        return max(comparison.relative for comparison in self.comparisons)


@large_blocks_returned()
def verify_export(
    model: nn.Module,
    path: Path,
    spec: ModelSpec,
    crops: NDArray[np.float32] | None = None,
    batches: Sequence[int] = (1, 5),
    tolerance: float = TOLERANCE,
    progress: Progress = SILENT,
) -> VerifyReport:
    """Compare ``model`` in torch with the graph at ``path`` in onnxruntime, as deployment runs it.

    model: in eval mode, float32, on the CPU. crops: real preprocessed inputs (N, 3, H, W) float32, used
    besides random ones and repeated where a batch needs more than N. batches: batch sizes. tolerance:
    largest difference as a part of torch's largest output; for RSN-18, 1e-4 is 70 times what another
    order of float32 sums makes, and a thirtieth of what a wrong batch norm epsilon does.

    Raises GraphError when the graph cannot be used, contradicts the spec, or computes something else; then
    it names the first node after which the two part.
    """
    if model.training:
        raise GraphError(
            f"{spec.name}: the model is in training mode, where outputs depend on the batch; call eval()"
        )
    graph = load_graph(path)
    check_spec(graph, spec, str(path))
    cases = list(_cases(spec, crops, batches))
    comparisons = []
    run = GraphRunner(graph, [spec.output_name], optimise=True)
    with progress.task(f"verify {spec.name}", len(cases)) as task:
        for index, (inputs, batch) in enumerate(cases):
            expected = _torch_output(model, batch)
            actual = run(batch)[spec.output_name]
            relative = relative_difference(expected, actual)
            if relative > tolerance:
                what = _how_apart(expected, actual, tolerance)
                worst = _worst_sample(expected, actual)
                where = _first_difference(model, graph, spec.output_name, batch[worst : worst + 1], tolerance)
                raise GraphError(
                    f"{path}: for {inputs} input at batch {len(batch)} the graph gives {what}. {where}. "
                    "The export cannot be used; please report this model"
                )
            comparisons.append(
                Comparison(inputs, len(batch), float(np.abs(expected - actual).max()), relative)
            )
            task.update(index + 1)
    return VerifyReport(tuple(comparisons), tolerance)


def _cases(
    spec: ModelSpec, crops: NDArray[np.float32] | None, batches: Sequence[int]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    if not batches or min(batches) < 1:
        raise GraphError(f"{spec.name}: verification needs batch sizes of at least 1, not {list(batches)}")
    for size in batches:
        yield "random", random_batch(spec, size, seed=size)
    if crops is None:
        return
    width, height = spec.input_wh
    if crops.ndim != 4 or crops.shape[1:] != (3, height, width) or not len(crops):
        raise GraphError(
            f"{spec.name}: crops are {crops.shape}; verification needs (N, 3, {height}, {width})"
        )
    for size in batches:
        yield "real", np.resize(crops, (size, *crops.shape[1:])).astype(np.float32, copy=False)


def _torch_output(model: nn.Module, batch: NDArray[np.float32]) -> NDArray[Any]:
    with torch.inference_mode():
        output = model(torch.from_numpy(np.ascontiguousarray(batch)))
    if not isinstance(output, Tensor):
        raise GraphError(
            f"the model's forward gives {type(output).__name__}; it must give the deployed output only"
        )
    values: NDArray[Any] = output.numpy()
    return values


def _how_apart(expected: NDArray[Any], actual: NDArray[Any], tolerance: float) -> str:
    if expected.shape != actual.shape:
        return f"{actual.shape} where torch gives {expected.shape}"
    relative = relative_difference(expected, actual)
    return f"other values than torch: {relative:.1e} of the largest output apart, {tolerance:.0e} is allowed"


def _worst_sample(expected: NDArray[Any], actual: NDArray[Any]) -> int:
    if expected.shape != actual.shape:
        return 0
    apart = np.abs(expected - actual).reshape(len(expected), -1).max(1)
    return int(np.argmax(np.nan_to_num(apart, nan=np.inf)))


def _first_difference(
    model: nn.Module, graph: ModelProto, output: str, sample: NDArray[np.float32], tolerance: float
) -> str:
    """Say which node is the first whose output is not that of the torch module it is named after.

    Only modules without children that ran once are compared: their nodes are named after them, and what
    lies between two of them (additions, concatenations) shows at the next.
    """
    outputs, expected_last = _module_outputs(model, sample)
    nodes = list(_comparable(graph, outputs))
    if not nodes:
        return "Where they part cannot be told: no node of the graph is named after a module"
    values = run_graph(_with_outputs(graph, [node for node, _ in nodes]), sample)
    if relative_difference(expected_last, values[output]) <= tolerance:
        return "One by one the inputs give the same: a node of the graph mixes or counts the batch"
    last = "the input"
    for node, expected in nodes:
        actual = values[node.output[0]]
        if actual.shape[2:] == expected.shape[2:] and actual.shape[1] > expected.shape[1]:
            continue  # channels padded with zeros are in no torch module
        difference = relative_difference(expected, actual)
        if difference > tolerance:
            return (
                f"The first node where they part is {node.name!r} ({node.op_type}), {difference:.1e} of its "
                f"largest value apart; the nodes that were compared before it, up to {last}, agree"
            )
        last = repr(node.name)
    return (
        f"They part after {last}, the last node that could be compared; all {len(nodes)} compared nodes agree"
    )


def _module_outputs(
    model: nn.Module, sample: NDArray[np.float32]
) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """Outputs of the modules without children that ran once, and the model's.

    A convolution's is that of the batch norm behind it, which the export folds into it.
    """
    outputs: dict[str, NDArray[Any]] = {}
    calls: dict[str, int] = {}
    makers: dict[int, str] = {}  # which weighted module made the tensor object with this id
    alive: list[Tensor] = []  # keeps ids from being used again

    def recorder(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def record(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            if not isinstance(output, Tensor) or not arguments:
                return
            calls[name] = calls.get(name, 0) + 1
            # a copy, because the next module may work in place
            outputs[name] = output.detach().clone().numpy()
            maker = makers.get(id(arguments[0]))
            if maker is not None and isinstance(module, _BatchNorm):
                outputs[maker] = outputs[name]
            makers[id(output)] = name
            alive.append(output)

        return record

    with _hooks(model, recorder):
        final = _torch_output(model, sample)
    return {name: value for name, value in outputs.items() if calls[name] == 1}, final


@contextmanager
def _hooks(
    model: nn.Module, recorder: Callable[[str], Callable[[nn.Module, tuple[Any, ...], Any], None]]
) -> Iterator[None]:
    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    handles = [module.register_forward_hook(recorder(name)) for name, module in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _comparable(
    graph: ModelProto, outputs: dict[str, NDArray[Any]]
) -> Iterator[tuple[NodeProto, NDArray[Any]]]:
    """Nodes in graph order with the value that torch has there: those that are alone in their module."""
    named: dict[str, list[NodeProto]] = {}
    for node in graph.graph.node:
        module = module_of(node.name)
        if module is not None:
            named.setdefault(module, []).append(node)
    for module, nodes in named.items():
        if len(nodes) == 1 and module in outputs:
            yield nodes[0], outputs[module]


def _with_outputs(graph: ModelProto, nodes: Sequence[NodeProto]) -> ModelProto:
    """A copy of the graph that also gives what ``nodes`` compute."""
    copy = ModelProto()
    copy.CopyFrom(graph)
    present = {value.name for value in copy.graph.output}
    for node in nodes:
        if node.output[0] not in present:
            copy.graph.output.add(name=node.output[0])
    return copy
