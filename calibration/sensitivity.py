"""What the INT8 of each layer alone does to the network's outputs, and what it saves.

All activations of a few crops are kept from one float run. For each layer its own inputs and weights are
rounded, and only what comes after it runs again: minutes where whole runs would take hours.
"""

from collections import ChainMap
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import CalibrationError
from ..progress import SILENT, Progress
from ..runtime.joints import find_joints
from ..runtime.spec import ModelSpec
from .calibrate import Calibration
from .macs import layer_macs
from .observers import Batch, single_crops
from .simulation import Int8Simulation
from .topology import tensor_shapes
from .torch_graph import TorchGraph

CROPS = 8

# activations of so many bytes are kept at once; one crop at least
_KEPT_BYTES = 2**30


@dataclass(frozen=True)
class LayerSensitivity:
    """One quantised layer, the others in float.

    node: the layer's first output; operator: its type.
    tensor: the activation that it reads in INT8, of several the one with the largest outlier ratio.
    macs: multiply-accumulates for one input; 0 of an Add.
    outlier_ratio: the largest channel magnitude of ``tensor`` over the median channel's, as it is quantised.
    error: the energy of the outputs' change over that of the outputs.
    shift_p50, shift_p95: how far joints move, in pixels of the network's input, at these percentiles of all
        joints of all crops; NaN for a classifier.
    """

    node: str
    operator: str
    tensor: str
    macs: int
    outlier_ratio: float
    error: float
    shift_p50: float
    shift_p95: float


def measure_sensitivity(
    calibration: Calibration,
    batches: Iterable[Batch],
    spec: ModelSpec,
    progress: Progress = SILENT,
    crops: int = CROPS,
) -> tuple[LayerSensitivity, ...]:
    """The sensitivity of every layer that ``calibration`` puts into INT8, in the order of the graph.

    batches: crops as calibration takes them, of which the first ``crops`` are used.

    Raises CalibrationError when there is no crop, and when the graph has an operator that torch does not run
    here.
    """
    probe = _Probe(calibration, spec)
    chunks = list(_chunks(batches, crops, _kept_crops(calibration.model)))
    if not chunks:
        raise CalibrationError("there are no crops to measure the sensitivity with; give more images")
    with progress.task("sensitivity of layers", len(chunks) * len(probe.layers)) as task, torch.no_grad():
        for number, pixels in enumerate(chunks):
            probe.start(pixels)
            for index, layer in enumerate(probe.layers, 1):
                probe.measure(layer)
                task.update(number * len(probe.layers) + index)
    return probe.results()


@dataclass(eq=False)
class _Seen:
    """What was measured of a layer so far, chunk by chunk."""

    changed: float = 0.0
    shifts: list[NDArray[np.float32]] = field(default_factory=list)


class _Probe:
    """Holds the float activations of one chunk of crops, and runs what follows one layer."""

    def __init__(self, calibration: Calibration, spec: ModelSpec) -> None:
        self._simulation = Int8Simulation(calibration)
        self._graph = self._simulation.graph
        self._spec = spec
        self._macs = layer_macs(calibration.model)
        placement = calibration.placement()
        self._operators = {site.node: site.operator for site in placement.inputs}
        self._inputs: dict[str, list[str]] = {node: [] for node in self._operators}
        for site in placement.inputs:
            self._inputs[site.node].append(site.tensor)
        self.layers = tuple(self._operators)
        self._following = _following(self._graph, self.layers)
        self._seen = {layer: _Seen() for layer in self.layers}
        self._largest: dict[str, NDArray[np.float32]] = {}
        self._energy = 0.0
        self._values: dict[str, Tensor] = {}
        self._joints: NDArray[np.float32] | None = None

    def start(self, pixels: Tensor) -> None:
        """Run float32 (N, 3, H, W) in float and keep every activation."""
        self._values = {self._graph.input: pixels}
        for index in range(len(self._graph.nodes)):
            self._graph.step(index, self._values)
        outputs = self._outputs(self._values)
        self._energy += sum(float(output.square().sum()) for output in outputs)
        self._joints = self._decoded(outputs)
        for tensor in {tensor for tensors in self._inputs.values() for tensor in tensors}:
            largest = _channel_largest(self._values[tensor])
            self._largest[tensor] = np.maximum(self._largest.get(tensor, largest), largest)

    def measure(self, layer: str) -> None:
        """Run the chunk with ``layer`` alone in INT8."""
        values: ChainMap[str, Tensor] = ChainMap({}, self._values)
        read = self._simulation.reader({layer})
        for index in self._following[layer]:
            self._graph.step(index, values, read)
        outputs, seen = self._outputs(values), self._seen[layer]
        for changed, exact in zip(outputs, self._outputs(self._values), strict=True):
            seen.changed += float((changed - exact).square().sum())
        joints = self._decoded(outputs)
        if joints is not None and self._joints is not None:
            seen.shifts.append(np.linalg.norm(joints - self._joints, axis=-1).reshape(-1))

    def results(self) -> tuple[LayerSensitivity, ...]:
        return tuple(self._result(layer) for layer in self.layers)

    def _result(self, layer: str) -> LayerSensitivity:
        ratios = {tensor: _outlier_ratio(self._largest[tensor]) for tensor in self._inputs[layer]}
        tensor = max(ratios, key=lambda name: ratios[name])
        shifts = np.concatenate(self._seen[layer].shifts or [np.full(1, np.nan, np.float32)])
        p50, p95 = (float(found) for found in np.percentile(shifts, (50, 95)))
        error = self._seen[layer].changed / max(self._energy, float(np.finfo(np.float32).tiny))
        return LayerSensitivity(
            layer, self._operators[layer], tensor, self._macs.get(layer, 0), ratios[tensor], error, p50, p95
        )

    def _outputs(self, values: MutableMapping[str, Tensor]) -> tuple[Tensor, ...]:
        return tuple(values[name] for name in self._graph.outputs)

    def _decoded(self, outputs: tuple[Tensor, ...]) -> NDArray[np.float32] | None:
        """Joints (N, K, 2) in pixels of the network's input, as the deployed decoder finds them."""
        if self._spec.task != "pose":
            return None
        named = dict(zip(self._graph.outputs, (output.numpy() for output in outputs), strict=True))
        size = np.full((len(outputs[0]), 2), self._spec.input_wh, np.float32)
        maps = tuple(named[name] for name in self._spec.output_names)
        joints, _ = find_joints(maps, None, self._spec, size / np.float32(2), size)
        return joints


def _following(graph: TorchGraph, layers: Sequence[str]) -> dict[str, list[int]]:
    """For each layer, the indices of the nodes whose results change with its own, itself first."""
    following: dict[str, list[int]] = {}
    places = {name: index for index, (name, _) in enumerate(graph.nodes)}
    for layer in layers:
        changed: set[str] = set()
        following[layer] = []
        for index in range(places[layer], len(graph.nodes)):
            name, node = graph.nodes[index]
            if name == layer or not changed.isdisjoint(node.input):
                changed.update(node.output)
                following[layer].append(index)
    return following


def _kept_crops(model: onnx.ModelProto) -> int:
    """How many crops' activations fit into _KEPT_BYTES; one at least."""
    shapes = tensor_shapes(model)
    outputs = (name for node in model.graph.node for name in node.output)
    sizes = (np.prod([side or 1 for side in shapes.get(name, ())]) * 4 for name in outputs)
    return max(1, int(_KEPT_BYTES // max(sum(sizes), 1)))


def _chunks(batches: Iterable[Batch], crops: int, size: int) -> Iterator[Tensor]:
    """The first ``crops`` of the batches, at most ``size`` at a time."""
    pixels = islice((crop for crop, _ in single_crops(batches)), crops)
    while chunk := list(islice(pixels, size)):
        yield torch.from_numpy(np.concatenate(chunk))


def _channel_largest(values: Tensor) -> NDArray[np.float32]:
    if values.ndim < 2:
        values = values.reshape(1, -1)
    others = [axis for axis in range(values.ndim) if axis != 1]
    largest: NDArray[np.float32] = values.abs().amax(others).numpy()
    return largest


def _outlier_ratio(largest: NDArray[np.float32]) -> float:
    """The largest channel over the median of those that are not silent; 1 of a silent tensor."""
    alive = largest[largest > 0]
    return float(alive.max() / np.median(alive)) if len(alive) else 1.0
