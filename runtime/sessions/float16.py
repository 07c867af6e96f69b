"""Float16 graphs on a CPU: the same graph in float32 that rounds wherever the original would.

onnxruntime has next to no float16 kernels for CPUs. It runs such nodes in float32 and then removes the casts
between them, at every optimisation level, explicit ones too: values keep 24 bits, and what overflows at 65504
on a device does not overflow here. Casts to float16 and back in a float32 graph it keeps; so the graph is
rewritten into one.
"""

from collections.abc import Iterator
from typing import Any

from ...errors import GraphError, require

# Their outputs are among their inputs, which were rounded before.
_MOVES_VALUES = frozenset(
    (
        *("Concat", "Constant", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Max", "MaxPool"),
        *("Min", "Neg", "Relu", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose"),
        "Unsqueeze",
    )
)
_FLOAT, _FLOAT16 = 1, 10  # onnx.TensorProto
_VARINT, _BYTES = 0, 2  # wire types of protobuf
_FIXED_SIZES = {1: 8, 5: 4}

# Where number types stand in an ONNX file: message -> field -> message inside it (onnx.proto's numbers)
_CHILDREN = {
    "Model": {7: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 11: "Value", 12: "Value"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph"},
    "Value": {2: "Type"},
    "Type": {1: "TensorType"},
}
_NUMBER_TYPE = {"Tensor": 2, "TensorType": 1}


def holds_float16(model: bytes) -> bool:
    """Whether an input, an output or a constant of an ONNX file is float16; needs no onnx package."""
    return _mentions_float16(memoryview(model), "Model")


def rounding_in_float32(model: bytes, where: str) -> bytes:
    """Rewrite a float16 ONNX graph into float32 with every float16 result rounded to float16.

    This is how a strongly typed graph is meant: each node's result has the type's 11 bits and range, however
    the node adds up inside. Inputs and outputs become float32 too. ``where`` names the graph in messages.

    Raises GraphError for control flow and for tensors whose type cannot be inferred, MissingExtraError
    without the onnx package.
    """
    onnx = require("onnx", "export")
    document = onnx.load_model_from_string(model)
    graph = document.graph
    half = _float16_results(onnx, document, where)
    nodes: list[Any] = []
    names = _Names(graph)
    rounded = {value.name: names.fresh(f"{value.name}/rounded") for value in graph.input if _is_half(value)}
    for name, copy in rounded.items():
        nodes.extend(_rounding(onnx, names, name, copy))
    for node in graph.node:
        _widen_constants(onnx, node)
        node.input[:] = [rounded.get(name, name) for name in node.input]
        nodes.append(node)
        if node.op_type in _MOVES_VALUES:
            continue
        for index, name in enumerate(node.output):
            if name in half:
                node.output[index] = names.fresh(f"{name}/float32")
                nodes.extend(_rounding(onnx, names, node.output[index], name))
    for value in (*graph.input, *graph.output):
        if _is_half(value):
            value.type.tensor_type.elem_type = _FLOAT
    for tensor in graph.initializer:
        _widen(onnx, tensor)
    del graph.value_info[:], graph.node[:]
    graph.node.extend(nodes)
    rewritten: bytes = document.SerializeToString()
    return rewritten


def _float16_results(onnx: Any, document: Any, where: str) -> set[str]:
    """Names of the float16 tensors that nodes compute."""
    inferred = onnx.shape_inference.infer_shapes(document).graph
    types = {
        value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)
    }
    half = set()
    for node in document.graph.node:
        if any(
            attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
            for attribute in node.attribute
        ):
            raise GraphError(
                f"{where}: node {node.name!r} ({node.op_type}) is control flow, in which float16 cannot be "
                "imitated on the CPU. Use the float32 graph here."
            )
        for name in filter(None, node.output):
            if not types.get(name):
                raise GraphError(
                    f"{where}: the type of tensor {name!r} of {node.op_type} cannot be inferred, so float16 "
                    "cannot be imitated on the CPU. Use the float32 graph here."
                )
            if types[name] == _FLOAT16:
                half.add(name)
    return half


def _is_half(value: Any) -> bool:
    return bool(value.type.tensor_type.elem_type == _FLOAT16)


class _Names:
    """The tensors of a graph. A graph that float16 was made of has names such as "x/float32" itself."""

    def __init__(self, graph: Any) -> None:
        self._taken = {value.name for value in (*graph.input, *graph.initializer)}
        self._taken.update(name for node in graph.node for name in node.output)

    def fresh(self, name: str) -> str:
        """``name``, or one like it that no tensor has."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _rounding(onnx: Any, names: _Names, source: str, target: str) -> list[Any]:
    middle = names.fresh(f"{target}/float16")
    return [
        onnx.helper.make_node("Cast", [source], [middle], name=f"{target}/round", to=_FLOAT16),
        onnx.helper.make_node("Cast", [middle], [target], name=f"{target}/widen", to=_FLOAT),
    ]


def _widen_constants(onnx: Any, node: Any) -> None:
    """Turn the float16 types that a node's attributes name into float32."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            _widen(onnx, attribute.t)
        elif attribute.name in ("to", "dtype", "output_dtype") and attribute.i == _FLOAT16:
            attribute.i = _FLOAT


def _widen(onnx: Any, tensor: Any) -> None:
    if tensor.data_type == _FLOAT16:
        values = onnx.numpy_helper.to_array(tensor).astype("float32")
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _mentions_float16(message: memoryview, kind: str) -> bool:
    children = _CHILDREN.get(kind, {})
    for field, value in _fields(message):
        if isinstance(value, int):
            if field == _NUMBER_TYPE.get(kind) and value == _FLOAT16:
                return True
        elif field in children and _mentions_float16(value, children[field]):
            return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protobuf message that are integers or bytes; ends at the first malformed one."""
    at = 0
    try:
        while at < len(message):
            key, at = _varint(message, at)
            wire = key & 7
            if wire == _VARINT:
                value, at = _varint(message, at)
                yield key >> 3, value
            elif wire == _BYTES:
                size, at = _varint(message, at)
                yield key >> 3, message[at : at + size]
                at += size
            elif wire in _FIXED_SIZES:
                at += _FIXED_SIZES[wire]
            else:
                return
    except IndexError:
        return


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
