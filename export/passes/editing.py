"""What several passes need to edit a graph: attributes of nodes, and constants that may be shared."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, helper, numpy_helper

DEFAULT_DOMAINS = ("", "ai.onnx")


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes by name; texts are str."""
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def set_attributes(node: NodeProto, **changes: Any) -> None:
    """Set the named attributes and keep the others; None removes one."""
    kept = [attribute for attribute in node.attribute if attribute.name not in changes]
    new = [helper.make_attribute(name, value) for name, value in changes.items() if value is not None]
    copies = [type(attribute).FromString(attribute.SerializeToString()) for attribute in kept]
    del node.attribute[:]
    node.attribute.extend([*copies, *new])


def replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Make ``nodes``, of which some may be the graph's own, the nodes of the graph."""
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def drop_unread(graph: GraphProto, names: Collection[str]) -> None:
    """Remove the constants among ``names`` that nothing reads any more, and what is said of lost tensors."""
    lost = set(names) - set(_read(graph))
    replace_nodes(graph, [n for n in graph.node if n.op_type != "Constant" or n.output[0] not in lost])
    for field in (graph.initializer, graph.input, graph.value_info):
        kept = [
            type(entry).FromString(entry.SerializeToString()) for entry in field if entry.name not in lost
        ]
        if len(kept) < len(field):
            del field[:]
            field.extend(kept)


def has_subgraphs(graph: GraphProto) -> bool:
    """Whether a node holds graphs of its own (If, Loop, Scan), which read outer tensors by name."""
    return any(
        attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute
    )


class Constants:
    """The initializers of a graph, and new names in it.

    One that several nodes read is changed for one of them only: that node gets a copy.
    """

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._readers = Counter(_read(graph))
        self._names = {*self._tensors, *self._readers, *(name for node in graph.node for name in node.output)}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def value(self, name: str) -> NDArray[Any] | None:
        """The array, None for a name that is no initializer."""
        return numpy_helper.to_array(self._tensors[name]) if name in self._tensors else None

    def add(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant by this name or, where it is taken, one like it; returns the name."""
        name = self.unused(name)
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        self._tensors[name] = self._graph.initializer[-1]
        return name

    def replace(self, node: NodeProto, index: int, value: NDArray[Any]) -> None:
        """Give ``node`` another constant at input ``index``."""
        name = node.input[index]
        if self._readers[name] == 1:
            self._tensors[name].CopyFrom(numpy_helper.from_array(value, name))
            return
        self._readers[name] -= 1
        node.input[index] = self.add(f"{name}_of_{node.name or node.output[0]}", value)
        self._readers[node.input[index]] = 1

    def unused(self, name: str) -> str:
        """``name``, with underscores behind it where it is taken; it is taken from now on."""
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name


def _read(graph: GraphProto) -> Iterator[str]:
    """Every name that is read, once a reader; a graph's outputs read too."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
                yield from _read(inner)
