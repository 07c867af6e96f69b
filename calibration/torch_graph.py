"""An ONNX graph as differentiable torch operations, with hooks where its layers read their inputs.

Learning needs gradients and sensitivity needs to start in the middle of the graph; onnxruntime gives neither.
Only what top-down networks are made of is known here; what is not is named.
"""

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from ..errors import CalibrationError
from .topology import Topology, attributes, node_id
from .torch_operators import OPERATORS

Read = Callable[[str, int, str, Tensor], Tensor]
"""What a node gets for an input: (node, index, tensor, its value) to the value that is used."""


def _unchanged(_node: str, _index: int, _tensor: str, value: Tensor) -> Tensor:
    return value


class TorchGraph:
    """The nodes of a float32 graph with one input, to be run one after another.

    Raises CalibrationError for an operator, or a form of one, that is not known.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        topology = Topology(model)
        self.outputs = tuple(value.name for value in model.graph.output)
        (self.input,) = topology.inputs
        self.nodes: list[tuple[str, onnx.NodeProto]] = []
        self.constants: dict[str, Tensor] = {}
        self._attributes: dict[str, dict[str, Any]] = {}
        for node in topology.nodes:
            if node.op_type == "Constant":
                continue
            if node.op_type not in OPERATORS:
                raise CalibrationError(
                    f"this step runs the graph in torch and does not know the operator {node.op_type} "
                    f"({node_id(node)}). Known: {', '.join(sorted(OPERATORS))}"
                )
            self.nodes.append((node_id(node), node))
            self._attributes[node_id(node)] = {"num_outputs": len(node.output), **attributes(node)}
            for tensor in node.input:
                value = topology.constant(tensor)
                if value is not None:
                    self.constants[tensor] = torch.from_numpy(np.array(value))
        last_reader = {tensor: index for index, (_, node) in enumerate(self.nodes) for tensor in node.input}
        self._read_last_by: dict[int, list[str]] = {}
        for tensor, index in last_reader.items():
            if tensor not in self.outputs:
                self._read_last_by.setdefault(index, []).append(tensor)

    def run(self, pixels: Tensor, read: Read = _unchanged) -> tuple[Tensor, ...]:
        """The outputs for float32 (N, 3, H, W), in the order of the graph."""
        values: dict[str, Tensor] = {self.input: pixels}
        for index in range(len(self.nodes)):
            self.step(index, values, read)
            for tensor in self.read_last_by(index):
                values.pop(tensor, None)
        return tuple(values[name] for name in self.outputs)

    def read_last_by(self, index: int) -> Sequence[str]:
        """The tensors that no node after this one reads, and that are no output of the graph."""
        return self._read_last_by.get(index, ())

    def step(self, index: int, values: MutableMapping[str, Tensor], read: Read = _unchanged) -> None:
        """Run one node: reads its inputs from ``values`` and adds its outputs to them."""
        name, node = self.nodes[index]
        inputs = [
            read(name, place, tensor, self.constants[tensor] if tensor in self.constants else values[tensor])
            if tensor
            else None
            for place, tensor in enumerate(node.input)
        ]
        found = OPERATORS[node.op_type](inputs, self._attributes[name])
        values.update(zip(node.output, [found] if isinstance(found, Tensor) else found, strict=True))
