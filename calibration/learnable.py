"""INT8 whose scales, biases and weight levels have gradients, as torch parameters around what was calibrated.

Rounding has no gradient; the straight-through estimator takes that of the identity where nothing is clipped
(Bengio et al., "Estimating or propagating gradients through stochastic neurons", 2013). For the step of an
activation it gives a gradient too (Esser et al., "Learned step size quantization", ICLR 2020). Every
parameter begins at 0, which is the calibration itself, and has a unit that suits one learning rate: the
logarithm for steps; one level for weights; and for a bias, what its output moves when every weight of its
filter moves by a level at random.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .bias import correct_biases
from .calibrate import Calibration
from .placement import Placement, QuantisedWeight
from .qdq import QuantisedArray, quantize_weights, require_finite
from .ranges import LARGEST_INT8
from .rounding import RoundedLayers
from .simulation import Int8Simulation, Site
from .topology import Topology
from .torch_graph import TorchGraph

State = dict[str, list[Tensor]]
"""Values of all parameters by kind, in the order of the graph."""


class LearnableInt8:
    """A calibrated graph to be run in simulated INT8.

    calibration: where learning starts. strengths: the root mean square of each activation that is read in
    INT8, in float32.
    """

    def __init__(self, calibration: Calibration, strengths: Mapping[str, float]) -> None:
        self._start = calibration
        placement = calibration.placement()
        sites = _learned_weights(placement)
        self._weights = {place: _Weights(calibration, site) for place, site in sites.items()}
        self._start_biases = _start_biases(calibration, placement)
        self._graph = TorchGraph(correct_biases(calibration.model, self._start_biases))
        simulation = Int8Simulation(calibration)
        self._fixed = {place: value for place, value in simulation.weights.items() if place not in sites}
        self._activations = simulation.activations
        self._log_steps = {
            tensor: torch.tensor(math.log(simulation.steps[tensor])) for tensor in placement.activations
        }
        self._bias_units = {
            node: self._weights[node, index].output_unit(strengths[self._activations[node, 0]])
            for node, index in sites
            if node in self._start_biases
        }
        self.scales = _zeros(self._log_steps)
        self.biases = _zeros(self._bias_units)
        self.levels = _zeros({weights.tensor: weights.levels for weights in self._weights.values()})

    def run(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The outputs for float32 (N, 3, H, W), with gradients to the parameters."""
        done: dict[str, Tensor] = {}

        def read(node: str, index: int, tensor: str, value: Tensor) -> Tensor:
            if (node, index) in self._weights:
                return self._weights[node, index].moved(self.levels[tensor])
            if (node, index) in self._fixed:
                return self._fixed[node, index]
            if (node, index) in self._activations:
                if tensor not in done:
                    done[tensor] = _rounded(value, self._log_steps[tensor] + self.scales[tensor])
                return done[tensor]
            if index == 2 and node in self.biases:
                return value + self.biases[node] * self._bias_units[node]
            return value

        return self._graph.run(pixels, read)

    def parameters(self) -> dict[str, list[Tensor]]:
        """The parameters themselves, by kind."""
        kinds = {"scales": self.scales, "biases": self.biases, "levels": self.levels}
        return {kind: list(found.values()) for kind, found in kinds.items()}

    def state(self) -> State:
        """A copy of the parameters."""
        return {kind: [found.detach().clone() for found in kept] for kind, kept in self.parameters().items()}

    def restore(self, state: State) -> None:
        """Set the parameters to those of ``state``."""
        with torch.no_grad():
            for kind, kept in self.parameters().items():
                for parameter, value in zip(kept, state[kind], strict=True):
                    parameter.copy_(value)

    def calibration(self) -> Calibration:
        """The calibration that the parameters stand for: other ranges, levels and biases, the same scales of
        weights."""
        table = self._start.table
        tensors = dict(table.tensors)
        for name, change in self.scales.items():
            amax = tensors[name].amax * float(torch.exp(change.detach()))
            tensors[name] = replace(tensors[name], amax=amax)
        weights = {found.tensor: found.rounded(self.levels[found.tensor]) for found in self._weights.values()}
        biases = {
            name: self._start_biases[name] + (change.detach() * self._bias_units[name]).double().numpy()
            for name, change in self.biases.items()
        }
        rounded = RoundedLayers(
            {**self._start.rounded.weights, **weights}, {**self._start.rounded.bias_changes, **biases}
        )
        return replace(self._start, table=replace(table, tensors=tensors), rounded=rounded)


class _Weights:
    """One constant: its levels at the start, float32, and their steps, which stay."""

    def __init__(self, calibration: Calibration, site: QuantisedWeight) -> None:
        self.tensor = site.tensor
        array = calibration.rounded.weights.get(site.tensor)
        if array is None:
            exact = Topology(calibration.model).constant(site.tensor)
            assert exact is not None  # the plan quantises constants only
            array = quantize_weights(require_finite(site.tensor, exact), site.axis)
        self._scale = array.scale
        self.levels = torch.from_numpy(array.values).float()
        axes = range(self.levels.ndim)
        self._steps = torch.from_numpy(array.scale)
        if site.axis is not None:
            self._steps = self._steps.reshape([-1 if axis == site.axis else 1 for axis in axes])

    def moved(self, change: Tensor) -> Tensor:
        """The values at the levels that ``change`` leads to, with gradients."""
        levels = _rounded_through(self.levels + change)
        return levels.clamp(-LARGEST_INT8, LARGEST_INT8) * self._steps

    def rounded(self, change: Tensor) -> QuantisedArray:
        levels = (self.levels + change.detach()).round().clamp(-LARGEST_INT8, LARGEST_INT8)
        return QuantisedArray(levels.numpy().astype(np.int8), self._scale)

    def output_unit(self, strength: float) -> Tensor:
        """By how much (O,) a convolution's outputs move when every weight moves by a level at random, for
        inputs of this root mean square."""
        return torch.from_numpy(self._scale * np.float32(self.levels[0].numel() ** 0.5 * strength))


class _Round(torch.autograd.Function):
    """To the nearest integer, with the gradient of the identity."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        return values.round()

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _RoundToStep(torch.autograd.Function):
    """QuantizeLinear and DequantizeLinear, the step given by its logarithm."""

    @staticmethod
    def forward(context: Any, values: Tensor, log_step: Tensor) -> Tensor:
        step = log_step.exp()
        rounded = (values / step).round_().clamp_(-LARGEST_INT8 - 1, LARGEST_INT8).mul_(step)
        context.save_for_backward(values, rounded, step)
        return rounded

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        values, rounded, step = context.saved_tensors
        # within the range rounding moves by half a step at most; what it moves by more was clipped
        error = rounded - values
        inside = error.abs() <= 0.501 * step
        passed = gradients[0] * inside
        # of a clipped value the result itself grows with the step
        return passed, (gradients[0] * torch.where(inside, error, rounded)).sum()


def _rounded_through(values: Tensor) -> Tensor:
    found: Tensor = _Round.apply(values)  # type: ignore[no-untyped-call]
    return found


def _rounded(values: Tensor, log_step: Tensor) -> Tensor:
    found: Tensor = _RoundToStep.apply(values, log_step)  # type: ignore[no-untyped-call]
    return found


def _zeros(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(value, requires_grad=True) for name, value in values.items()}


def _start_biases(calibration: Calibration, placement: Placement) -> dict[str, Any]:
    """What calibration adds to the bias of every quantised Conv; 0 where nothing, float64 (O,)."""
    topology = Topology(calibration.model)
    changes = calibration.corrections()
    biases = {}
    for site in placement.weights:
        node, weights = topology.producer(site.node), topology.constant(site.tensor)
        if node is not None and weights is not None and node.op_type == "Conv" and site.axis == 0:
            biases[site.node] = changes.get(site.node, np.zeros(len(weights)))
    return biases


def _learned_weights(placement: Placement) -> dict[Site, QuantisedWeight]:
    """The weights that one layer reads; what several share stays as it is."""
    readers = Counter(site.tensor for site in placement.weights)
    return {(site.node, site.index): site for site in placement.weights if readers[site.tensor] == 1}
