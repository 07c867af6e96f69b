"""GraphView: the lookups that several rules share."""

from collections.abc import Iterator, Set

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

DEFAULT_DOMAINS = ("", "ai.onnx")

# larger constants cannot be shapes, which is all that inference reads of values
_SHAPE_VALUES = 64

# of a Constant node: the attribute's name, the field that holds it, its type
_NUMBERS: dict[str, tuple[str, type[np.generic]]] = {
    "value_float": ("f", np.float32),
    "value_floats": ("floats", np.float32),
    "value_int": ("i", np.int64),
    "value_ints": ("ints", np.int64),
}


class GraphView:
    """An index over a graph, the model's own or one inside a node; it goes stale when the graph is edited.

    A graph inside a node (of If, Loop or Scan) sees the constants and producers of the graphs around it, and
    counts as a reader of what it reads from there. ``own_constants`` are those of this graph alone.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        graph: onnx.GraphProto | None = None,
        outer: "GraphView | None" = None,
        place_in_outer: tuple[int, int] = (0, 0),
    ) -> None:
        """graph: the model's own by default. place_in_outer: of one inside a node, which node and body."""
        graph = model.graph if graph is None else graph
        self.model, self.graph, self.outer, self._place = model, graph, outer, place_in_outer
        self.nodes = list(graph.node)
        self.outputs = frozenset(value.name for value in graph.output)
        self.own_constants = dict(_constants(graph))
        self.constants: dict[str, onnx.TensorProto] = {} if outer is None else dict(outer.constants)
        self.constants.update(self.own_constants)
        self.producers: dict[str, onnx.NodeProto] = {} if outer is None else dict(outer.producers)
        self.producers.update((output, node) for node in graph.node for output in node.output if output)
        self.consumers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node, index in _readers(graph):
            self.consumers.setdefault(node.input[index], []).append((node, index))
        self._inferred: onnx.GraphProto | None = None
        self._types: dict[str, int] | None = None
        self._path: frozenset[str] | None = None

    def inner(self) -> Iterator["GraphView"]:
        """The graphs inside the nodes of this one, and those inside of them."""
        for node_index, node in enumerate(self.nodes):
            for body_index, body in enumerate(bodies(node)):
                view = GraphView(self.model, body, self, (node_index, body_index))
                yield view
                yield from view.inner()

    def value(self, name: str) -> NDArray[np.generic] | None:
        """The constant of that name as an array, None for a computed tensor."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def type_of(self, name: str) -> int:
        """The TensorProto data type of a tensor, UNDEFINED where it cannot be inferred."""
        if self._types is None:
            self._types = _element_types(self.graph, self._inferred_graph())
        if name not in self._types and self.outer is not None:
            return self.outer.type_of(name)
        return self._types.get(name, TensorProto.UNDEFINED)

    def _inferred_graph(self) -> onnx.GraphProto:
        """This graph with the types that inference adds; it goes into the graphs inside nodes too."""
        if self._inferred is None:
            if self.outer is None:
                self._inferred = _inferred(self.model)
            else:
                node, body = self._place
                self._inferred = bodies(self.outer._inferred_graph().node[node])[body]
        return self._inferred

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

    def data_path(self) -> frozenset[str]:
        """The tensors that depend on the values of the model's input, and not on its shape alone."""
        if self._path is None:
            if self.outer is None:
                reached = {value.name for value in self.graph.input} - set(self.constants)
            else:
                outside = self.outer.data_path()
                reached = _reached_inputs(self.outer.nodes[self._place[0]], self.graph, outside) | outside
            self._path = frozenset(_reached(self.graph, reached))
        return self._path


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs inside a node, in the order of its attributes."""
    return [
        graph
        for attribute in node.attribute
        for graph in ([attribute.g] if attribute.HasField("g") else attribute.graphs)
    ]


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Initializers, and what Constant nodes hold as a tensor, a number or a list of numbers."""
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        if node.op_type != "Constant" or not node.output:
            continue
        for attribute in node.attribute:
            if attribute.name == "value":
                yield node.output[0], attribute.t
            elif attribute.name in _NUMBERS:
                field, kind = _NUMBERS[attribute.name]
                values = np.asarray(getattr(attribute, field), kind)
                yield node.output[0], numpy_helper.from_array(values)


def _readers(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Who reads at which input: the nodes, and those of inner graphs that read from outside of these."""
    for node in graph.node:
        yield from ((node, index) for index in range(len(node.input)))
        for body in bodies(node):
            own = {value.name for value in (*body.input, *body.initializer)}
            own.update(output for inner in body.node for output in inner.output)
            yield from ((inner, i) for inner, i in _readers(body) if inner.input[i] not in own)


def _reached(graph: onnx.GraphProto, outside: Set[str]) -> set[str]:
    """What depends on the tensors ``outside``, themselves included."""
    reached = set(outside)
    for node in graph.node:  # ONNX demands that they are in topological order
        if node.op_type in ("Shape", "Size"):
            continue
        through = not reached.isdisjoint(node.input)
        for body in bodies(node):
            inside = _reached(body, reached | _reached_inputs(node, body, reached))
            through = through or any(value.name in inside for value in body.output)
        if through:
            reached.update(output for output in node.output if output)
    return reached


def _reached_inputs(node: onnx.NodeProto, body: onnx.GraphProto, reached: Set[str]) -> set[str]:
    """The inputs of a Loop's or Scan's graph that get such a tensor: in the order of the node's own."""
    pairs = zip(body.input, node.input, strict=False)  # an If hands nothing to its graphs
    return {value.name for value, name in pairs if name in reached}


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


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    """The graph with types. Large weights are left out of what is inferred, so that they are not copied."""
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
        return onnx.shape_inference.infer_shapes(skeleton).graph
    except Exception:  # onnx has several for graphs that its checker is to refuse
        return skeleton.graph


def _element_types(graph: onnx.GraphProto, inferred: onnx.GraphProto) -> dict[str, int]:
    types = {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        types[value.name] = int(value.type.tensor_type.elem_type)
    return types
