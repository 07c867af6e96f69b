"""GraphView: the lookups that several rules share."""

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

DEFAULT_DOMAINS = ("", "ai.onnx")

# larger constants cannot be shapes, which is all that inference reads of values
_SHAPE_VALUES = 64


class GraphView:
    """An index over the top level of a graph; it goes stale when the graph is edited."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.model = model
        self.nodes = list(graph.node)
        self.outputs = frozenset(value.name for value in graph.output)
        self.producers = {output: node for node in graph.node for output in node.output if output}
        self.consumers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in graph.node:
            for index, name in enumerate(node.input):
                self.consumers.setdefault(name, []).append((node, index))
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self.constants[node.output[0]] = attribute.t
        self._types: dict[str, int] | None = None

    def value(self, name: str) -> NDArray[np.generic] | None:
        """The constant of that name as an array, None for a computed tensor."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def type_of(self, name: str) -> int:
        """The TensorProto data type of a tensor, UNDEFINED where it cannot be inferred."""
        if self._types is None:
            self._types = _element_types(self.model)
        return self._types.get(name, TensorProto.UNDEFINED)

    def quantisers(self) -> Iterator[onnx.NodeProto]:
        """The QuantizeLinear and DequantizeLinear nodes."""
        for node in self.nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.domain in DEFAULT_DOMAINS:
                yield node

    def is_weight(self, node: onnx.NodeProto) -> bool:
        """Whether a Q or DQ node works on a constant, directly or through the Q before it."""
        producer = self.producers.get(node.input[0])
        through = producer is not None and producer.op_type == "QuantizeLinear"
        source = producer.input[0] if producer is not None and through else node.input[0]
        return source in self.constants

    def readers_through(self, name: str, *operators: str) -> Iterator[tuple[onnx.NodeProto, int]]:
        """The nodes that read a tensor and at which input; nodes of ``operators`` are looked through."""
        for node, index in self.consumers.get(name, []):
            if node.op_type in operators:
                yield from self.readers_through(node.output[0], *operators)
            else:
                yield node, index

    def data_path(self) -> set[str]:
        """The tensors that depend on the values of the graph's input, and not on its shape alone."""
        reached = {value.name for value in self.model.graph.input} - set(self.constants)
        for node in self.nodes:  # ONNX demands that they are in topological order
            if node.op_type not in ("Shape", "Size") and reached.intersection(node.input):
                reached.update(output for output in node.output if output)
        return reached


def place(node: onnx.NodeProto) -> str:
    """How findings call a node: by its name, or by its first output where it has none."""
    return node.name or next((str(output) for output in node.output if output), "")


def axis_of(node: onnx.NodeProto) -> int:
    """The axis of a Q or DQ node; the standard's default is 1."""
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 1)


def quantised_type(graph: GraphView, node: onnx.NodeProto) -> int | None:
    """The data type that a Q node writes or a DQ node reads; None where nothing in the graph says it."""
    if len(node.input) > 2 and node.input[2] in graph.constants:
        return int(graph.constants[node.input[2]].data_type)
    if node.op_type == "DequantizeLinear":
        tensor = graph.constants.get(node.input[0])
        return None if tensor is None else int(tensor.data_type)
    given = [attribute.i for attribute in node.attribute if attribute.name == "output_dtype"]
    return int(given[0]) if given and given[0] else int(TensorProto.UINT8)  # the standard's default


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Types by tensor. Large weights are left out of what is inferred, so that they are not copied."""
    graph = model.graph
    small = [tensor for tensor in graph.initializer if np.prod(tensor.dims) <= _SHAPE_VALUES]
    kept = {tensor.name for tensor in small} | {value.name for value in graph.input}
    large = [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in graph.initializer
        if tensor.name not in kept
    ]
    skeleton = helper.make_model(
        helper.make_graph(list(graph.node), graph.name, [*graph.input, *large], list(graph.output), small),
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
    )
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton).graph
    except Exception:  # onnx has several for graphs that its checker is to refuse
        inferred = skeleton.graph
    types = {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        types[value.name] = int(value.type.tensor_type.elem_type)
    return types
