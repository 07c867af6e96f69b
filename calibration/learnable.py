"""INT8 whose scales, biases and weight levels have gradients, as torch parameters around what was calibrated.

Rounding has no gradient; the straight-through estimator takes that of the identity where nothing is clipped
(Bengio et al., "Estimating or propagating gradients through stochastic neurons", 2013). For the step of an
activation it gives a gradient too (Esser et al., "Learned step size quantization", ICLR 2020). Every
parameter begins at 0, which is the calibration itself, and has a unit that suits one learning rate: the
logarithm for steps; one level for weights; and for a bias, what its output moves when every weight of its
filter moves by a level at random.
"""

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
from .simulation import Site
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
        biases = _start_biases(calibration, placement)
        self._graph = TorchGraph(correct_biases(calibration.model, biases))
        self._activations: dict[Site, str] = {
            (site.node, site.index): site.tensor for site in placement.inputs
        }
        self._log_steps = {
            tensor: torch.tensor(np.log(calibration.table.tensors[tensor].amax / LARGEST_INT8)).float()
            for tensor in placement.activations
        }
        self._sites = {(site.node, site.index): site for site in placement.weights}
        self._arrays = _arrays(calibration, placement)
        self._levels = {name: torch.from_numpy(array.values).float() for name, array in self._arrays.items()}
        axes = {site.tensor: site.axis for site in placement.weights}
        self._weight_steps = {
            name: _shaped(array.scale, axes[name], array.values.ndim) for name, array in self._arrays.items()
        }
        self._bias_units = {
            site.node: self._bias_unit(site, strengths) for site in placement.weights if site.node in biases
        }
        self._start_biases = biases
        self.scales = {name: torch.zeros((), requires_grad=True) for name in self._log_steps}
        self.biases = {
            name: torch.zeros_like(unit, requires_grad=True) for name, unit in self._bias_units.items()
        }
        self.levels = {name: torch.zeros_like(v, requires_grad=True) for name, v in self._levels.items()}

    def run(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The outputs for float32 (N, 3, H, W), with gradients to the parameters."""
        done: dict[str, Tensor] = {}

        def read(node: str, index: int, tensor: str, value: Tensor) -> Tensor:
            if (node, index) in self._sites:
                if tensor not in done:
                    done[tensor] = self._weight(tensor)
                return done[tensor]
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
        weights = {
            name: QuantisedArray(_rounded_levels(self._levels[name], change), self._arrays[name].scale)
            for name, change in self.levels.items()
        }
        biases = {
            name: self._start_biases[name] + (change.detach() * self._bias_units[name]).double().numpy()
            for name, change in self.biases.items()
        }
        rounded = RoundedLayers(
            {**self._start.rounded.weights, **weights}, {**self._start.rounded.bias_changes, **biases}
        )
        return replace(self._start, table=replace(table, tensors=tensors), rounded=rounded)

    def _weight(self, tensor: str) -> Tensor:
        levels = _rounded_through(self._levels[tensor] + self.levels[tensor])
        return levels.clamp(-LARGEST_INT8, LARGEST_INT8) * self._weight_steps[tensor]

    def _bias_unit(self, site: QuantisedWeight, strengths: Mapping[str, float]) -> Tensor:
        (read,) = (name for (node, _), name in self._activations.items() if node == site.node)
        array = self._arrays[site.tensor]
        width = np.sqrt(array.values[0].size)
        return torch.from_numpy(array.scale * np.float32(width * strengths[read]))


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


def _rounded_levels(start: Tensor, change: Tensor) -> Any:
    found = (start + change.detach()).round().clamp(-LARGEST_INT8, LARGEST_INT8)
    return found.numpy().astype(np.int8)


def _start_biases(calibration: Calibration, placement: Placement) -> dict[str, Any]:
    """What calibration adds to the bias of every quantised Conv; 0 where nothing, float64 (O,)."""
    topology = Topology(calibration.model)
    changes = calibration.bias_changes()
    biases = {}
    for site in placement.weights:
        node, weights = topology.producer(site.node), topology.constant(site.tensor)
        if node is not None and weights is not None and node.op_type == "Conv" and site.axis == 0:
            biases[site.node] = changes.get(site.node, np.zeros(len(weights)))
    return biases


def _arrays(calibration: Calibration, placement: Placement) -> dict[str, QuantisedArray]:
    """The levels of all weights at the start."""
    topology = Topology(calibration.model)
    arrays = dict(calibration.rounded.weights)
    for site in placement.weights:
        if site.tensor not in arrays:
            exact = topology.constant(site.tensor)
            assert exact is not None  # the plan quantises constants only
            arrays[site.tensor] = quantize_weights(require_finite(site.tensor, exact), site.axis)
    placed = {site.tensor for site in placement.weights}
    return {name: array for name, array in arrays.items() if name in placed}


def _shaped(scale: Any, axis: int | None, rank: int) -> Tensor:
    shape = () if axis is None else tuple(-1 if index == axis else 1 for index in range(rank))
    return torch.from_numpy(scale).reshape(shape)
