"""What the INT8 of each layer alone does to the network's outputs, and what it saves.

All activations of a few crops are kept from one float run. For each layer its own inputs and weights are
rounded, and only what comes after it runs again: minutes where whole runs would take hours. Each crop counts
alike: a layer's error is that of the median crop, for the sum over few crops is often the error of one of
them, and other crops give another.
"""

from collections import ChainMap
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
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
from .torch_graph import TorchGraph

CROPS = 8


@dataclass(frozen=True)
class LayerSensitivity:
    """One quantised layer, the others in float.

    node: the layer's first output; operator: its type.
    tensor: the activation that it reads in INT8, of several the one with the largest outlier ratio.
    macs: multiply-accumulates for one input; 0 of an Add.
    outlier_ratio: the largest channel magnitude of ``tensor`` over the median channel's, as it is quantised.
    error: the energy of the outputs' change over that of the outputs, of the median crop.
    error_p90: nine crops of ten have no larger error.
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
    error_p90: float


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
    # a crop at a time: its activations are most of the memory that this takes
    chosen = [torch.from_numpy(pixels) for pixels, _ in islice(single_crops(batches), crops)]
    if not chosen:
        raise CalibrationError("there are no crops to measure the sensitivity with; give more images")
    total = len(chosen) * len(probe.layers)
    with progress.task("sensitivity of layers", total) as task, _threads() as pool:
        for number, pixels in enumerate(chosen):
            probe.start(pixels)
            for index, found in enumerate(pool.map(probe.measure, probe.layers), 1):
                probe.add(found)
                task.update(number * len(probe.layers) + index)
    return probe.results()


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch would use, each with a layer of its own.

    Operators of one crop are too small to be divided: threads that wait for each other at every operator take
    a multiple of the time where other programs run.
    """
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the layers that are left
        torch.set_num_threads(count)


@dataclass(frozen=True)
class _Moved:
    """What ``layer`` in INT8 does to one crop. shifts: (K,) of the joints; None for a classifier."""

    layer: str
    error: float
    shifts: NDArray[np.float32] | None


@dataclass(eq=False)
class _Seen:
    """What was measured of a layer so far, crop by crop."""

    errors: list[float] = field(default_factory=list)
    shifts: list[NDArray[np.float32]] = field(default_factory=list)


class _Probe:
    """Holds the float activations of one crop, and runs what follows one layer."""

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
        """Run float32 (1, 3, H, W) in float and keep every activation, those of the crop before no longer."""
        self._values = {self._graph.input: pixels}
        with torch.no_grad():
            for index in range(len(self._graph.nodes)):
                self._graph.step(index, self._values)
        outputs = self._outputs(self._values)
        self._energy = max(_energy(outputs), float(np.finfo(np.float32).tiny))
        self._joints = self._decoded(outputs)
        for tensor in {tensor for tensors in self._inputs.values() for tensor in tensors}:
            largest = _channel_largest(self._values[tensor])
            self._largest[tensor] = np.maximum(self._largest.get(tensor, largest), largest)

    def measure(self, layer: str) -> _Moved:
        """Run the crop with ``layer`` alone in INT8. Several layers may be measured at once."""
        changed: dict[str, Tensor] = {}
        values: ChainMap[str, Tensor] = ChainMap(changed, self._values)
        read = self._simulation.reader({layer})
        with torch.no_grad():
            for index in self._following[layer]:
                self._graph.step(index, values, read)
                for tensor in self._graph.read_last_by(index):
                    changed.pop(tensor, None)
        outputs, exact = self._outputs(values), self._outputs(self._values)
        moved = tuple(output - other for output, other in zip(outputs, exact, strict=True))
        joints, shifts = self._decoded(outputs), None
        if joints is not None and self._joints is not None:
            shifts = np.linalg.norm(joints - self._joints, axis=-1).reshape(-1)
        return _Moved(layer, _energy(moved) / self._energy, shifts)

    def add(self, found: _Moved) -> None:
        seen = self._seen[found.layer]
        seen.errors.append(found.error)
        if found.shifts is not None:
            seen.shifts.append(found.shifts)

    def results(self) -> tuple[LayerSensitivity, ...]:
        return tuple(self._result(layer) for layer in self.layers)

    def _result(self, layer: str) -> LayerSensitivity:
        ratios = {tensor: _outlier_ratio(self._largest[tensor]) for tensor in self._inputs[layer]}
        tensor = max(ratios, key=lambda name: ratios[name])
        shifts = np.concatenate(self._seen[layer].shifts or [np.full(1, np.nan, np.float32)])
        p50, p95 = (float(found) for found in np.percentile(shifts, (50, 95)))
        median, high = (float(found) for found in np.percentile(self._seen[layer].errors, (50, 90)))
        operator, macs = self._operators[layer], self._macs.get(layer, 0)
        return LayerSensitivity(layer, operator, tensor, macs, ratios[tensor], median, p50, p95, high)

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


def _energy(outputs: Sequence[Tensor]) -> float:
    """The sum of the squares of all outputs."""
    return sum(float(output.double().square().sum()) for output in outputs)


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
