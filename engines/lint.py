"""What is wrong with a graph before a builder sees it.

TensorRT's parser crashes on some malformed graphs, and takes some well-formed ones and gets them silently
wrong: a slower layer, or other numbers. Each rule here is one of these cases, cheap to check, and says how
to cure it. This module imports onnx; import it only where a graph is about to be checked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

# TensorRT's parser documents 9 as the oldest opset; 25 is the newest of TensorRT 11
OPSETS = range(9, 26)
IR_VERSIONS = range(3, 15)

_DEFAULT_DOMAINS = ("", "ai.onnx")
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"}
_INTEGER_OPERATORS = {
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantizeLinear",
}
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_REFUSED_QUANTISED = {TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32}


@dataclass(frozen=True)
class Finding:
    """A reason not to build a graph.

    code: the rule, in kebab-case; node: the node or tensor, "" for the graph as a whole.
    message: what is wrong; cure: what to do about it.
    """

    code: str
    node: str
    message: str
    cure: str

    def __str__(self) -> str:
        place = f" at {self.node!r}" if self.node else ""
        return f"{self.code}{place}: {self.message}. {self.cure}"


def lint_file(path: Path) -> list[Finding]:
    """The findings of an ONNX file, in the order of the graph; a file that is no graph is a finding too."""
    try:
        if path.stat().st_size == 0:
            return [Finding("empty-file", "", "the file is empty", _EXPORT)]
        model = onnx.load(path)
    except (
        Exception
    ) as error:  # protobuf, onnx and the system each have their own for a file they cannot read
        return [
            Finding("not-onnx", "", f"the file is not a readable ONNX model ({_first_line(error)})", _EXPORT)
        ]
    return lint(model)


def lint(model: onnx.ModelProto) -> list[Finding]:
    """The findings of a model, in the order of the graph. An empty list means that it may be built.

    The rules on weights and quantisation are applied only to a graph that is sound as a structure.
    """
    main = model.graph
    structure = [*_versions(model), *_interface(main), *_outputs(main), *_tensors(main)]
    structure = structure or list(_checker(model))
    if structure:
        return structure
    graph = _Graph(model.graph)
    return [*_weights(graph), *_operators(graph), *_quantisation(graph)]


_EXPORT = "Export the model again (posedge deploy)"
_REQUANTISE = "Quantise the graph again (posedge deploy)"


class _Graph:
    """The lookups that several rules share."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = list(graph.node)
        self.producers = {output: node for node in graph.node for output in node.output}
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

    def value(self, name: str) -> NDArray[np.generic] | None:
        """The constant of that name as an array, None for a computed tensor."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def is_weight(self, node: onnx.NodeProto) -> bool:
        """Whether a Q or DQ node works on a constant, directly or through the Q before it."""
        producer = self.producers.get(node.input[0])
        through = producer is not None and producer.op_type == "QuantizeLinear"
        source = producer.input[0] if producer is not None and through else node.input[0]
        return source in self.constants


def _versions(model: onnx.ModelProto) -> Iterator[Finding]:
    opsets = [entry.version for entry in model.opset_import if entry.domain in _DEFAULT_DOMAINS]
    if len(opsets) != 1:
        yield Finding("opset", "", f"the model imports {len(opsets)} versions of ONNX's operators", _EXPORT)
    elif opsets[0] not in OPSETS:
        known = f"{OPSETS[0]} to {OPSETS[-1]}"
        yield Finding("opset", "", f"opset {opsets[0]} is outside {known}", "Export the model with opset 17")
    if model.ir_version not in IR_VERSIONS:
        known = f"{IR_VERSIONS[0]} to {IR_VERSIONS[-1]}"
        yield Finding("ir-version", "", f"IR version {model.ir_version} is outside {known}", _EXPORT)


def _interface(graph: onnx.GraphProto) -> Iterator[Finding]:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(inputs) or "none"
        yield Finding(
            "inputs",
            "",
            f"a model has one input, the images; this graph has {len(inputs)} ({names})",
            _EXPORT,
        )
    if not graph.output:
        yield Finding("outputs", "", "the graph has no output", _EXPORT)
    if not graph.node:
        yield Finding("no-nodes", "", "the graph computes nothing", _EXPORT)


def _outputs(graph: onnx.GraphProto) -> Iterator[Finding]:
    """Nodes without outputs, on which the parser crashes."""
    for index, node in enumerate(graph.node):
        if not any(node.output):
            name = node.name or f"node {index}"
            yield Finding(
                "node-without-outputs", name, f"a {node.op_type} without outputs crashes the parser", _EXPORT
            )


def _checker(model: onnx.ModelProto) -> Iterator[Finding]:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        yield Finding("invalid-onnx", "", f"onnx.checker refuses the model: {_first_line(error)}", _EXPORT)
    except ValueError as error:
        yield Finding(
            "invalid-onnx", "", f"the model is too large to be checked: {_first_line(error)}", _EXPORT
        )


def _tensors(graph: onnx.GraphProto) -> Iterator[Finding]:
    """Weights whose data do not fill their shape, which onnx.checker lets pass."""
    for tensor in graph.initializer:
        try:
            numpy_helper.to_array(tensor)
        except Exception as error:  # numpy's, protobuf's or onnx's, by what is wrong with the tensor
            yield Finding(
                "tensor-data", tensor.name, f"its data do not fit its shape ({_first_line(error)})", _EXPORT
            )


def _weights(graph: _Graph) -> Iterator[Finding]:
    """NaN anywhere, and infinities in what is multiplied (an infinite bound of a Clip is legitimate)."""
    for name, tensor in graph.constants.items():
        if tensor.data_type not in _FLOATS:
            continue
        values = numpy_helper.to_array(tensor)
        if np.isfinite(values).all():
            continue
        multiplied = any(node.op_type in _WEIGHTED for node, _ in graph.consumers.get(name, []))
        bad = int((~np.isfinite(values)).sum())
        if multiplied or np.isnan(values).any():
            yield Finding(
                "non-finite-weights",
                name,
                f"{bad} of {values.size} values are NaN or infinite",
                "Check the checkpoint; in a float16 graph, keep the layers that overflow in float32",
            )


def _operators(graph: _Graph) -> Iterator[Finding]:
    for node in graph.nodes:
        if node.domain in _DEFAULT_DOMAINS and node.op_type in _INTEGER_OPERATORS:
            yield Finding(
                "integer-operator",
                node.name,
                f"TensorRT has no {node.op_type}",
                "Quantise with Q and DQ nodes around float operators (posedge deploy)",
            )


def _quantisation(graph: _Graph) -> Iterator[Finding]:
    for node in graph.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.domain in _DEFAULT_DOMAINS:
            yield from _quantised_type(graph, node)
            yield from _zero_point(graph, node)
            yield from _scale(graph, node)
            yield from _weight_axis(graph, node)


def _quantised_type(graph: _Graph, node: onnx.NodeProto) -> Iterator[Finding]:
    """TensorRT quantises to int8 and below; uint8 activations are even taken for int8 without a word."""
    kind = None
    if len(node.input) > 2 and node.input[2] in graph.constants:
        kind = graph.constants[node.input[2]].data_type
    elif node.op_type == "DequantizeLinear" and node.input[0] in graph.constants:
        kind = graph.constants[node.input[0]].data_type
    elif node.op_type == "QuantizeLinear":
        given = [attribute.i for attribute in node.attribute if attribute.name == "output_dtype"]
        kind = given[0] if given and given[0] else TensorProto.UINT8  # the standard's default
    if kind in _REFUSED_QUANTISED:
        name = TensorProto.DataType.Name(kind).lower()
        yield Finding(
            "quantised-type", node.name, f"it quantises to {name}; TensorRT takes int8", _REQUANTISE
        )


def _zero_point(graph: _Graph, node: onnx.NodeProto) -> Iterator[Finding]:
    zero = graph.value(node.input[2]) if len(node.input) > 2 else None
    if zero is not None and np.any(zero.astype(np.float32) != 0):
        yield Finding(
            "zero-point",
            node.name,
            "its zero point is not zero; TensorRT quantises symmetrically",
            _REQUANTISE,
        )


def _scale(graph: _Graph, node: onnx.NodeProto) -> Iterator[Finding]:
    """Scales are positive constants; an activation's has rank 0, or the layer falls back to float unseen."""
    scale = graph.value(node.input[1])
    if scale is None:
        yield Finding("computed-scale", node.name, "its scale is computed and not a constant", _REQUANTISE)
        return
    values = scale.astype(np.float32)
    if not (np.isfinite(values) & (values > 0)).all():
        yield Finding("scale", node.name, "a scale must be positive and finite", _REQUANTISE)
    if graph.is_weight(node):
        constant = graph.constants.get(node.input[0])
        if node.op_type == "QuantizeLinear" and constant is not None and not constant.dims:
            yield Finding(
                "quantised-scalar",
                node.name,
                "it quantises a constant of rank 0, which TensorRT refuses",
                "Leave the constant in float, or give it the shape [1, 1, 1, 1]",
            )
    elif scale.ndim != 0:
        yield Finding(
            "activation-scale-shape",
            node.name,
            f"an activation's scale must have rank 0, this one has the shape {list(scale.shape)}: "
            "its layer would run in float",
            _REQUANTISE,
        )


def _weight_axis(graph: _Graph, node: onnx.NodeProto) -> Iterator[Finding]:
    """A convolution's weights are quantised along axis 0; along another one the layer falls back to float."""
    scale = graph.value(node.input[1])
    feeds_conv = any(
        user.op_type == "Conv" and index == 1 for user, index in graph.consumers.get(node.output[0], [])
    )
    if node.op_type != "DequantizeLinear" or not feeds_conv or scale is None or scale.size == 1:
        return
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    weight = graph.constants.get(node.input[0])
    rank = 4 if weight is None else len(weight.dims)
    if axis % rank != 0:
        yield Finding(
            "weight-axis",
            node.name,
            f"a Conv's weights are quantised along axis {axis}: the layer would run in float",
            _REQUANTISE,
        )


def _first_line(error: Exception) -> str:
    return next((line.strip(" .") for line in str(error).splitlines() if line.strip()), type(error).__name__)
