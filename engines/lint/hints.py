"""Hints: what costs time in a graph that TensorRT takes and computes rightly. They block no build."""

from collections.abc import Iterator

import onnx

from .findings import REQUANTISE, Finding
from .graph_view import GraphView, place

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish")
_GROUP_MULTIPLE = 4
# a chain of 20,000 nodes held the parser of TensorRT-RTX 1.7 for minutes; the largest of the zoo has
# 1,804 before Q and DQ
_MANY_NODES = 15_000


def hints(model: onnx.ModelProto) -> list[Finding]:
    """What to know of a graph that has no findings of ``lint``; most of it is about Q/DQ.

    The rules on Q/DQ are those of NVIDIA's guide to explicit quantisation, and what engines of RTX 1.7
    show.
    """
    graph = GraphView(model)
    quantised = [*_refit(), *(finding for node in graph.nodes for finding in _layer(graph, node))]
    return [*_size(graph), *(quantised if any(True for _ in graph.quantisers()) else [])]


def _size(graph: GraphView) -> Iterator[Finding]:
    if len(graph.nodes) > _MANY_NODES:
        message = f"it has {len(graph.nodes)} nodes; the parser may take minutes from {_MANY_NODES} on"
        yield Finding("many-nodes", "", message, "Simplify it (posedge deploy), or raise the time limit")


def _refit() -> Iterator[Finding]:
    message = "the graph has Q/DQ; a refittable engine of it forgoes the merging of equal scales"
    yield Finding("refit", "", message, "Build it without REFIT, as posedge does")


def _layer(graph: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    if node.op_type not in _LAYERS:
        return
    quantised = [_is_dequantised(graph, name) for name in node.input[:2]]
    if any(quantised) and not all(quantised):
        which = "weight" if quantised[0] else "activation"
        message = f"only one of its two inputs is quantised, its {which} is not: it runs in float"
        yield Finding("half-quantised", place(node), message, REQUANTISE)
    if not all(quantised):
        return
    if node.op_type == "ConvTranspose":
        message = "TensorRT-RTX computes a quantised ConvTranspose in float, from rounded weights"
        yield Finding("transposed-in-float", place(node), message, "Quantise for the target tensorrt-rtx")
    if node.op_type == "Conv":
        yield from _groups(graph, node)
    readers = graph.consumers.get(node.output[0], [])
    if any(
        reader.op_type == "QuantizeLinear" and _leads_to_activation(graph, reader) for reader, _ in readers
    ):
        message = "its output is quantised before its activation, so that the two do not fuse"
        yield Finding("quantised-before-activation", place(node), message, REQUANTISE)


def _groups(graph: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    """INT8 kernels of grouped convolutions want groups of multiples of 4 channels; depthwise has its own."""
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    dequantise = graph.producers[node.input[1]]
    maker = graph.producers.get(dequantise.input[0])
    weight = graph.value(dequantise.input[0] if maker is None else maker.input[0])
    if groups == 1 or weight is None or weight.ndim < 2:
        return
    inside, outside = weight.shape[1], weight.shape[0] // groups
    depthwise = inside == outside == 1
    if not depthwise and (inside % _GROUP_MULTIPLE or outside % _GROUP_MULTIPLE):
        message = (
            f"its groups have {inside} input and {outside} output channels, no multiples of "
            f"{_GROUP_MULTIPLE}: TensorRT runs it in float, TensorRT-RTX pads it"
        )
        yield Finding("group-size", place(node), message, "Merge groups (posedge deploy --merge-groups)")


def _is_dequantised(graph: GraphView, name: str) -> bool:
    maker = graph.producers.get(name)
    return maker is not None and maker.op_type == "DequantizeLinear"


def _leads_to_activation(graph: GraphView, quantise: onnx.NodeProto) -> bool:
    readers = graph.readers_through(quantise.output[0], "DequantizeLinear")
    return any(reader.op_type in _ACTIVATIONS for reader, _ in readers)
