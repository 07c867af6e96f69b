"""The work of each layer of an ONNX graph, and how much of it is in INT8."""

from collections.abc import Mapping

import numpy as np
import onnx

from .topology import Topology, attributes, node_id, tensor_shapes

_CONVOLUTIONS = ("Conv", "ConvTranspose", "QLinearConv")


def layer_macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of each Conv, QLinearConv, ConvTranspose, Gemm and MatMul for one input, by first
    output.

    Layers whose shapes cannot be inferred but for the batch are left out. Biases are not counted.
    """
    shapes, topology = tensor_shapes(model), Topology(model)
    macs: dict[str, int] = {}
    for node in topology.nodes:
        if node.op_type in _CONVOLUTIONS:
            # a filter is used once at each place of the output, in a transposed convolution of the input
            places = shapes.get(node.input[0] if node.op_type == "ConvTranspose" else node.output[0], ())[2:]
            weights = shapes.get(node.input[3 if node.op_type == "QLinearConv" else 1], ())
            factors = (*places, *weights)
        elif node.op_type in ("Gemm", "MatMul"):
            left, result = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
            inner = left[-2 if attributes(node).get("transA", 0) else -1] if len(left) > 1 else None
            factors = (*result[1:], inner)
        else:
            continue
        if factors and None not in factors:
            macs[node_id(node)] = int(np.prod([int(factor) for factor in factors if factor is not None]))
    return macs


def convolution_macs(model: onnx.ModelProto) -> dict[str, int]:
    """``layer_macs`` of Conv and ConvTranspose alone."""
    convolutions = {node_id(node) for node in model.graph.node if node.op_type in _CONVOLUTIONS}
    return {name: macs for name, macs in layer_macs(model).items() if name in convolutions}


def int8_share(model: onnx.ModelProto, macs: Mapping[str, int] | None = None) -> float:
    """The share of the convolutions' multiply-accumulates whose inputs and weights are both INT8, 0 to 1.

    model: a graph with Q/DQ, or with QLinearConv. macs: ``layer_macs`` of it, where known.
    """
    found, topology = layer_macs(model) if macs is None else macs, Topology(model)
    total = quantised = 0
    for node in topology.nodes:
        if node.op_type in _CONVOLUTIONS:
            work = found.get(node_id(node), 0)
            total += work
            makers = [topology.producer(tensor) for tensor in node.input[:2]]
            if node.op_type == "QLinearConv" or all(
                maker is not None and maker.op_type == "DequantizeLinear" for maker in makers
            ):
                quantised += work
    return quantised / total if total else 0.0
