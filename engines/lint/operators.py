"""Rules on which operators a graph has: those without a layer, and those of other domains."""

from collections.abc import Iterator

import onnx

from .findings import EXPORT, REQUANTISE, Finding
from .graph_view import DEFAULT_DOMAINS, GraphView, place

_INTEGER_OPERATORS = {
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantizeLinear",
}
_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


def integer_operators(graph: GraphView) -> Iterator[Finding]:
    """Operators on integers, for which the parser has no layer."""
    for node in graph.nodes:
        if node.domain in DEFAULT_DOMAINS and node.op_type in _INTEGER_OPERATORS:
            yield Finding(
                "integer-operator",
                place(node),
                f"TensorRT has no {node.op_type}",
                "Quantise with Q and DQ nodes around float operators (posedge deploy)",
            )


def other_domains(graph: GraphView) -> Iterator[Finding]:
    """Operators of other domains that are called as ONNX's are.

    TensorRT-RTX 1.7.1 looks at the name alone, so it takes com.microsoft's QuantizeLinear for ONNX's; no
    rule here knows what such an operator means. Names that ONNX does not have are left to the parser.
    """
    for node in graph.nodes:
        if node.domain not in DEFAULT_DOMAINS and onnx.defs.has(node.op_type):
            message = f"it is the {node.op_type} of {node.domain}; TensorRT takes it for ONNX's"
            cure = REQUANTISE if node.op_type in _QUANTISERS else EXPORT
            yield Finding("other-domain", place(node), message, cure)
