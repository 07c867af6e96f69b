"""Rules on the graph as a structure: what crashes the parser, hangs it, or parses as an empty network."""

from collections.abc import Iterator

import onnx
from onnx import TensorProto, numpy_helper

from ...export.light import without_weights
from .findings import EXPORT, MENDABLE, Finding, first_line, unmendable
from .graph_view import DEFAULT_DOMAINS, GraphView, bodies, place

# TensorRT's parser documents 9 as the oldest opset; 25 is the newest of TensorRT 11
OPSETS = range(9, 26)
IR_VERSIONS = range(3, 15)

# a graph with one of these findings is not worth looking at further: what can be read of it may be nonsense
UNSOUND = frozenset(
    {
        "empty-file",
        "not-onnx",
        "opset",
        "ir-version",
        "inputs",
        "outputs",
        "no-nodes",
        "local-function",
        "node-without-outputs",
        "tensor-data",
        "weight-type",
        "invalid-onnx",
    }
)

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def structure(model: onnx.ModelProto) -> list[Finding]:
    """The findings that leave nothing to look at further. onnx.checker is asked when there are no others."""
    main = model.graph
    try:
        if any(isinstance(name, bytes) for graph in (main, *_inner(main)) for name in _names(graph)):
            return [_NO_UTF8]
        found = [*_versions(model), *_functions(model), *_interface(main), *_nodes(main), *_tensors(main)]
        for graph in _inner(main):
            found += [unmendable(finding) for finding in (*_nodes(graph), *_tensors(graph))]
        found = found or list(_weight_types(GraphView(model)))
    except UnicodeDecodeError:
        return [_NO_UTF8]
    return found or list(_checker(model))


_NO_UTF8 = Finding("invalid-onnx", "", "a name in the graph is not UTF-8", EXPORT)


def _inner(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside nodes, and those inside of them."""
    for node in graph.node:
        for body in bodies(node):
            yield body
            yield from _inner(body)


def _names(graph: onnx.GraphProto) -> Iterator[str | bytes]:
    """Every text of the graph. Where one is not UTF-8, some versions of protobuf give bytes, others raise."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (axis.dim_param for axis in value.type.tensor_type.shape.dim)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _versions(model: onnx.ModelProto) -> Iterator[Finding]:
    opsets = [entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS]
    if len(opsets) != 1:
        yield Finding("opset", "", f"the model imports {len(opsets)} versions of ONNX's operators", EXPORT)
    elif opsets[0] not in OPSETS:
        known = f"{OPSETS[0]} to {OPSETS[-1]}"
        yield Finding("opset", "", f"opset {opsets[0]} is outside {known}", "Export the model with opset 17")
    if model.ir_version not in IR_VERSIONS:
        known = f"{IR_VERSIONS[0]} to {IR_VERSIONS[-1]}"
        yield Finding("ir-version", "", f"IR version {model.ir_version} is outside {known}", EXPORT)


def _functions(model: onnx.ModelProto) -> Iterator[Finding]:
    """Functions of the model's own, into which no rule looks; on one that calls itself the parser crashes."""
    for function in model.functions:
        message = "it is a function of the model's own, and what is inside is not looked at"
        cure = "Inline it (onnx.inliner.inline_local_functions), or export the model without functions"
        yield Finding("local-function", function.name, message, cure)


def _interface(graph: onnx.GraphProto) -> Iterator[Finding]:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(inputs) or "none"
        message = f"a model has one input, the images; this graph has {len(inputs)} ({names})"
        yield Finding("inputs", "", message, EXPORT)
    if not graph.output:
        yield Finding("outputs", "", "the graph has no output", EXPORT)
    if not graph.node:
        yield Finding("no-nodes", "", "the graph computes nothing", EXPORT)


def _nodes(graph: onnx.GraphProto) -> Iterator[Finding]:
    """Nodes without outputs, on which the parser crashes."""
    for index, node in enumerate(graph.node):
        if not any(node.output):
            name = node.name or f"node {index}"
            message = f"a {node.op_type} without outputs crashes the parser"
            yield Finding("node-without-outputs", name, message, MENDABLE)


def _tensors(graph: onnx.GraphProto) -> Iterator[Finding]:
    """Weights whose data do not fill their shape, which onnx.checker lets pass; nodes hold some too."""
    held = [
        (place(node), attribute.t)
        for node in graph.node
        for attribute in node.attribute
        if attribute.HasField("t")
    ]
    for name, tensor in [*((tensor.name, tensor) for tensor in graph.initializer), *held]:
        try:
            numpy_helper.to_array(tensor)
        except Exception as error:  # numpy's, protobuf's or onnx's, by what is wrong with the tensor
            message = f"its data do not fit its shape ({first_line(error)})"
            yield Finding("tensor-data", name, message, EXPORT)


def _weight_types(graph: GraphView) -> Iterator[Finding]:
    yield from weight_types(graph)
    for inner in graph.inner():
        yield from map(unmendable, weight_types(inner))


def weight_types(graph: GraphView) -> Iterator[Finding]:
    """Weights in another float type than what they are multiplied with; the parser refuses the layer."""
    for node in graph.nodes:
        if node.op_type not in WEIGHTED or node.domain not in DEFAULT_DOMAINS:
            continue
        source = graph.type_of(node.input[0]) if node.input else TensorProto.UNDEFINED
        for name in node.input[1:]:
            tensor = graph.constants.get(name)
            types = (source, TensorProto.UNDEFINED if tensor is None else tensor.data_type)
            if types[0] != types[1] and set(types) <= set(_FLOATS):
                words = [TensorProto.DataType.Name(kind).lower() for kind in types]
                message = f"its input is {words[0]} and its weight {name!r} is {words[1]}"
                widens = types == (TensorProto.FLOAT, TensorProto.FLOAT16)
                yield Finding("weight-type", place(node), message, MENDABLE if widens else EXPORT)


def _checker(model: onnx.ModelProto) -> Iterator[Finding]:
    try:
        # which would hold the weights three times more, and only reads their types and shapes
        onnx.checker.check_model(without_weights(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        yield Finding("invalid-onnx", "", f"onnx.checker refuses the model: {first_line(error)}", EXPORT)
    except ValueError as error:
        message = f"the model is too large to be checked: {first_line(error)}"
        yield Finding("invalid-onnx", "", message, EXPORT)
