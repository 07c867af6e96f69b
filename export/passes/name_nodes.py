"""Give every node a name that a person can place in the network."""

import ast
from collections.abc import Iterable, Iterator

from onnx import GraphProto, ModelProto, NodeProto

from .base import GraphPass

# where torch's exporter writes the modules that a node came from: ['', 'backbone', 'backbone.top', 'conv2d']
_SCOPES = "pkg.torch.onnx.name_scopes"
# and what it calls the bias of a convolution into which it folded a batch norm
_FOLDED_BIAS = ".weight_bias"
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class NameNodes(GraphPass):
    """Names nodes of torch's exporter ``MODULE/OPERATOR`` and their outputs ``MODULE/OPERATOR_out``.

    The exporter's own names are counters (``node_Conv_1605``, ``getitem_3``), which tell nothing in a
    table of layers and change with torch's version. A node with a weight is named after the weight's
    module, so a convolution keeps its name when a batch norm is folded into it. Nodes from elsewhere keep
    their names; those without one are called by operator and position.
    """

    def edit(self, model: ModelProto) -> ModelProto:
        graph = model.graph
        if any(_scope(node) is not None for node in graph.node) and not _has_subgraphs(graph):
            _name_after_modules(graph)
        else:
            _name_unnamed(graph)
        return model


def module_of(node_name: str) -> str | None:
    """The torch module after which a node was named; None for a node that was not."""
    module, slash, _ = node_name.rpartition("/")
    return module if slash else None


def _has_subgraphs(graph: GraphProto) -> bool:
    """The bodies of If and Loop use outer tensors by name, so those must keep theirs."""
    return any(attribute.HasField("g") for node in graph.node for attribute in node.attribute)


def _name_unnamed(graph: GraphProto) -> None:
    taken = {node.name for node in graph.node}
    for index, node in enumerate(graph.node):
        node.name = node.name or _unused(f"{node.op_type}_{index}", taken)


def _name_after_modules(graph: GraphProto) -> None:
    weights = {tensor.name for tensor in graph.initializer}
    kept = {value.name for value in [*graph.input, *graph.output]}
    taken: set[str] = set()
    renamed = dict(_folded_biases(graph, weights))
    modules = _modules(graph, weights)
    for node, module in zip(graph.node, modules, strict=True):
        node.name = _unused(f"{module}/{node.op_type}", taken)
        outputs = [output for output in node.output if output and output not in kept]
        for index, output in enumerate(outputs):
            renamed[output] = f"{node.name}_out" if len(outputs) == 1 else f"{node.name}_out{index}"
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in graph.node:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = renamed.get(name, name)
    del graph.value_info[:]  # it speaks of the old names, and can be inferred


def _modules(graph: GraphProto, weights: set[str]) -> list[str]:
    """The module of each node: its weight's, the exporter's, or the one that holds all its neighbours."""
    modules = [_weight_module(node, weights) if node.op_type in _WEIGHTED else None for node in graph.node]
    known = [
        module if module is not None else _scope(node)
        for node, module in zip(graph.node, modules, strict=True)
    ]
    makers = {
        output: module for node, module in zip(graph.node, known, strict=True) for output in node.output
    }
    users: dict[str, list[str]] = {}
    for node, module in zip(graph.node, known, strict=True):
        for name in node.input:
            users.setdefault(name, []).extend([module] if module is not None else [])
    found = []
    for node, module in zip(graph.node, known, strict=True):
        if module is None:
            before = [maker for name in node.input if (maker := makers.get(name)) is not None]
            after = [user for name in node.output for user in users.get(name, [])]
            module = _common(before + after)
        found.append(module)
    return found


def _weight_module(node: NodeProto, weights: set[str]) -> str | None:
    names = [name for name in node.input if name in weights and name.endswith(".weight")]
    return names[0].removesuffix(".weight") if names else None


def _scope(node: NodeProto) -> str | None:
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            path: list[str] = ast.literal_eval(entry.value)
            return path[-2] if len(path) > 1 else ""
    return None


def _common(modules: Iterable[str]) -> str:
    paths = [module.split(".") for module in modules]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _folded_biases(graph: GraphProto, weights: set[str]) -> Iterator[tuple[str, str]]:
    taken = set(weights)
    for tensor in graph.initializer:
        if tensor.name.endswith(_FOLDED_BIAS):
            yield tensor.name, _unused(tensor.name.removesuffix(_FOLDED_BIAS) + ".bias", taken)


def _unused(name: str, taken: set[str]) -> str:
    """``name``, numbered when it is taken; it is taken from now on."""
    count = 0
    unused = name
    while unused in taken:
        count += 1
        unused = f"{name}_{count}"
    taken.add(unused)
    return unused
