"""How large a graph is and how much it computes, to compare its forms."""

from dataclasses import dataclass
from math import prod

import onnx
from onnx import ModelProto, NodeProto

from .graphs import dims

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_PARAMETERS = (*_WEIGHTED, "BatchNormalization", "PRelu")


@dataclass(frozen=True)
class GraphCost:
    """nodes: of the graph. parameters: values of the layers' weights and biases, zeros included.

    macs: multiplications with a weight for one image, padding of the borders included; None where a size
    is not known.
    """

    nodes: int
    parameters: int
    macs: int | None

    def __str__(self) -> str:
        macs = "unknown" if self.macs is None else f"{self.macs / 1e6:,.1f} M"
        return f"{self.nodes} nodes, {self.parameters / 1e6:,.3f} M parameters, {macs} MACs"


def cost_of(model: ModelProto) -> GraphCost:
    """Count Conv, ConvTranspose, and Gemm and MatMul with a constant."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {value.name: dims(value) for value in [*graph.value_info, *graph.input, *graph.output]}
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    read = {name for node in graph.node if node.op_type in _PARAMETERS for name in node.input[1:]}
    read |= {name for node in graph.node if node.op_type == "MatMul" for name in node.input}
    macs = [_macs(node, shapes, weights) for node in graph.node if node.op_type in _WEIGHTED]
    known = [count for count in macs if count is not None]
    return GraphCost(
        len(graph.node),
        sum(prod(size) for name, size in weights.items() if name in read),
        sum(known) if len(known) == len(macs) else None,
    )


def _macs(
    node: NodeProto, shapes: dict[str, list[int | str] | None], weights: dict[str, list[int]]
) -> int | None:
    constants = [weights[name] for name in node.input[:2] if name in weights]
    if len(constants) != 1:
        return None
    weight = prod(constants[0])
    # each weight meets every place of a Conv's result, and every place of what a ConvTranspose spreads
    shape = shapes.get(node.input[0] if node.op_type == "ConvTranspose" else node.output[0])
    if shape is None:
        return None
    places = shape[1:-1] if node.op_type in ("Gemm", "MatMul") else shape[2:]
    known = [size for size in places if isinstance(size, int)]
    return weight * prod(known) if len(known) == len(places) else None
