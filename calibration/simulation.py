"""INT8 in float arithmetic: what a Q/DQ pair makes of a tensor, as torch operations.

The integers of a real INT8 convolution are summed exactly, so rounding its inputs and weights is all that
INT8 does; the simulation and onnxruntime's int8 kernels differ by less than a step of the next rounding.
"""

from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor

from .bias import correct_biases
from .calibrate import Calibration
from .qdq import quantize_weights
from .ranges import LARGEST_INT8
from .torch_graph import Read, TorchGraph

Site = tuple[str, int]
"""A layer (its first output) and the index of one of its inputs."""


class Int8Simulation:
    """The rounded inputs and weights, and the corrected biases, of the layers that are in INT8.

    ``graph`` runs what the simulation reads: ``calibration.model``, where every layer whose bias is corrected
    has a bias of its own.
    """

    def __init__(self, calibration: Calibration) -> None:
        corrections = calibration.corrections()
        own = {layer: np.zeros_like(added) for layer, added in corrections.items()}
        self.graph = TorchGraph(correct_biases(calibration.model, own))
        self.biases: dict[Site, Tensor] = {
            (layer, 2): torch.from_numpy(added.astype(np.float32)) for layer, added in corrections.items()
        }
        self.steps: Mapping[str, float] = {
            tensor: found.amax / LARGEST_INT8 for tensor, found in calibration.table.tensors.items()
        }
        placement = calibration.placement()
        self.activations: dict[Site, str] = {
            (site.node, site.index): site.tensor for site in placement.inputs
        }
        self.weights: dict[Site, Tensor] = {}
        for site in placement.weights:
            exact = self.graph.constants[site.tensor].numpy()
            array = calibration.rounded.weights.get(site.tensor) or quantize_weights(exact, site.axis)
            steps = torch.as_tensor(array.scale)  # a scalar where the tensor has one scale
            if site.axis is not None:
                steps = steps.reshape([-1 if axis == site.axis else 1 for axis in range(array.values.ndim)])
            self.weights[site.node, site.index] = torch.from_numpy(array.values) * steps

    def reader(self, layers: Collection[str] | None = None) -> Read:
        """What the nodes read when ``layers`` run in INT8; all that are placed when it is None."""
        rounded: dict[str, Tensor] = {}

        def read(node: str, index: int, tensor: str, value: Tensor) -> Tensor:
            if layers is not None and node not in layers:
                return value
            if (node, index) in self.weights:
                return self.weights[node, index]
            if (node, index) in self.biases:
                return value + self.biases[node, index]
            if (node, index) not in self.activations:
                return value
            if tensor not in rounded:
                rounded[tensor] = rounded_to(value, self.steps[tensor])
            return rounded[tensor]

        return read


def rounded_to(values: Tensor, step: float) -> Tensor:
    """``values`` after QuantizeLinear and DequantizeLinear: half to even, clipped to -128 and 127 steps."""
    return torch.clamp(torch.round(values / step), -LARGEST_INT8 - 1, LARGEST_INT8) * step
