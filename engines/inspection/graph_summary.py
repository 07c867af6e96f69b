"""What is in an ONNX graph: its interface, its size, and the precision it asks for in each layer."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from ...calibration.macs import layer_macs
from ...calibration.topology import node_id
from ..lint.graph_view import DEFAULT_DOMAINS, GraphView

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_PRECISIONS: dict[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
}
_COUNTED = {*LAYERS, "BatchNormalization", "PRelu", "DequantizeLinear"}


@dataclass(frozen=True)
class AskedLayer:
    """A layer that multiplies.

    node: the name by which engines call it. asked: "INT8" when both its inputs are dequantised, else its
    float type, None where that cannot be inferred. macs: for one image, None where a size is not known.
    """

    node: str
    operator: str
    asked: str | None
    macs: int | None


@dataclass(frozen=True)
class GraphSummary:
    """An ONNX graph in figures.

    inputs, outputs: such as "input float [n, 3, 256, 192]". operators: how many nodes of each.
    parameters: values in the constants of layers, quantised ones included.
    layers: what multiplies, in the order of the graph.
    """

    opset: int
    ir_version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: int
    operators: dict[str, int]
    parameters: int
    layers: tuple[AskedLayer, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image, as far as sizes are known."""
        return sum(layer.macs or 0 for layer in self.layers)


def summarise(model: onnx.ModelProto) -> GraphSummary:
    """Look through a model that onnx.checker accepts."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    read = {name for node in graph.node if node.op_type in _COUNTED for name in node.input}
    return GraphSummary(
        opset=next((entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS), 0),
        ir_version=model.ir_version,
        inputs=tuple(_described(value) for value in graph.input if value.name not in constants),
        outputs=tuple(_described(value) for value in graph.output),
        nodes=len(graph.node),
        operators=dict(sorted(Counter(node.op_type for node in graph.node).items())),
        parameters=sum(_size(tensor) for name, tensor in constants.items() if name in read),
        layers=asked_layers(model),
    )


def asked_layers(model: onnx.ModelProto) -> tuple[AskedLayer, ...]:
    """The layers that multiply, and the precision in which the graph wants them computed."""
    graph, macs = GraphView(model), layer_macs(model)
    return tuple(
        AskedLayer(engine_name(node), node.op_type, _asked(graph, node), macs.get(node_id(node)))
        for node in graph.nodes
        if node.op_type in LAYERS and node.domain in DEFAULT_DOMAINS
    )


def engine_name(node: onnx.NodeProto) -> str:
    """The name by which TensorRT calls a node; one without a name is called after its first output."""
    return node.name or f"node_of_{node_id(node)}"


def shares(layers: Iterable[tuple[str | None, int | None]]) -> dict[str, float]:
    """Parts, 0 to 1, of the multiply-accumulates in each precision; what is not known is "not known".

    layers: precision and multiply-accumulates of each.
    """
    sums: Counter[str] = Counter()
    for precision, macs in layers:
        sums[precision or "not known"] += macs or 0
    total = sum(sums.values())
    return {precision: count / total for precision, count in sorted(sums.items())} if total else {}


def _asked(graph: GraphView, node: onnx.NodeProto) -> str | None:
    makers = [graph.producers.get(name) for name in node.input[:2]]
    if all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers):
        return "INT8"
    return _PRECISIONS.get(graph.type_of(node.output[0]))


def _described(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    axes = [axis.dim_param or (str(axis.dim_value) if axis.dim_value else "?") for axis in kind.shape.dim]
    return f"{value.name} {TensorProto.DataType.Name(kind.elem_type).lower()} [{', '.join(axes)}]"


def _size(tensor: onnx.TensorProto) -> int:
    count = 1
    for side in tensor.dims:
        count *= side
    return count
