"""From a float32 graph to a strongly typed float16 graph: every tensor says its precision itself.

onnxruntime ships a converter too (onnxruntime.transformers.float16). It clamps weights that float16 cannot
hold, keeps Resize in float32 between casts, and rounds tiny weights away from zero; here a layer with values
that float16 cannot hold stays in float32, Resize runs in float16, and which inputs must stay float32 is read
from ONNX's own operator schemas.
"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..errors import CalibrationError
from ..export.graphs import load_graph, save_graph
from .half_range import layers_beyond_float16, observe_floats
from .observers import Batch
from .placement import FloatLayer
from .topology import Topology, node_id

# operators whose output type is an attribute, with its name
_TYPE_ATTRIBUTES = {
    "Cast": "to",
    "EyeLike": "dtype",
    "RandomNormal": "dtype",
    "RandomNormalLike": "dtype",
    "RandomUniform": "dtype",
    "RandomUniformLike": "dtype",
}

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}

_QUANTISED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}


def write_float16(
    graph: Path, output: Path, batches: Iterable[Batch] | None = None
) -> tuple[FloatLayer, ...]:
    """Write the float16 form of a graph file; return the layers that stay in float32 for their values.

    batches: float32 (N, 3, H, W) each, or batches of a dataset: activations are observed on them, and layers
        whose values float16 cannot hold stay in float32 (``half_range.py``). Without them only weights are
        looked at.

    Raises GraphError, CalibrationError, OutputError.
    """
    model = load_graph(graph)
    for node in model.graph.node:
        _refuse_unconvertible(node)
    statistics = None if batches is None else observe_floats(model, batches)
    kept = layers_beyond_float16(model, statistics)
    save_graph(to_float16(model, [layer.node for layer in kept]), output)
    return kept


def to_float16(model: onnx.ModelProto, keep_float32: Collection[str] = ()) -> onnx.ModelProto:
    """A copy of a float32 graph in which every float32 tensor is float16.

    Inputs and outputs stay float32, with a Cast at the border: a session feeds every variant of a model the
    same arrays, and the casts cost a thousandth of the network. Inputs that ONNX defines as float32 only
    (the scales of Resize) stay float32. Integer tensors are not touched.

    The last layer that has weights, and what only resamples or shapes its result, stays float32 too: decoders
    compare neighbouring values of a heatmap, and next to a peak of 1 float16 has steps of 0.0005, so equal
    neighbours pull joints to one side. On PP-TinyPose that alone cost 0.0012 of 0.0030 AP.

    keep_float32: nodes (their first outputs) that stay float32 as well, with casts around them, besides those
        whose constants float16 cannot hold.

    Raises CalibrationError for a graph that is quantised or has subgraphs, for a name in ``keep_float32``
    that no node has, and when the result is not valid ONNX.
    """
    single = {*keep_float32, *(layer.node for layer in layers_beyond_float16(model))}
    unknown = sorted(single - {node_id(node) for node in model.graph.node})
    if unknown:
        raise CalibrationError(
            f"no node of the graph has the first output {unknown[0]!r}, so it cannot be kept in float32"
        )
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _HalfEditor(result, single).rewrite()
    try:
        result = onnx.shape_inference.infer_shapes(result, check_type=True, strict_mode=True)
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CalibrationError(f"the float16 graph is not valid ONNX: {error}") from error
    return result


def float32_tail(topology: Topology) -> frozenset[str]:
    """Ids of the nodes that make the outputs, back to and with the last one that has weights.

    A path ends without a tail where two computed tensors meet, or where somebody else reads on the way.
    """
    tail: set[str] = set()
    for output in topology.outputs:
        path = _path_to_weights(topology, output)
        tail.update(node_id(node) for node in path)
    return frozenset(tail)


def _path_to_weights(topology: Topology, output: str) -> list[onnx.NodeProto]:
    path: list[onnx.NodeProto] = []
    tensor, readers = output, 0
    while True:
        node = topology.producer(tensor)
        if node is None or len(topology.readers(tensor)) != readers or len(node.output) != 1:
            return []
        if path and tensor in topology.outputs:
            return []
        path.append(node)
        computed = [name for name in node.input if name and not topology.is_constant(name)]
        if len(computed) != 1:
            return []
        if node.op_type in _WEIGHTED:
            return path
        tensor, readers = computed[0], 1


class _HalfEditor:
    """Rewrites one graph in place."""

    def __init__(self, model: onnx.ModelProto, single: Collection[str]) -> None:
        self._graph = model.graph
        self._opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
        self._topology = Topology(model)
        self._names = self._topology.names()
        self._single = {*float32_tail(self._topology), *single}
        self._types = _element_types(model)
        self._nodes: list[onnx.NodeProto] = []
        self._casts: dict[tuple[str, int], str] = {}

    def rewrite(self) -> None:
        for node in self._graph.node:
            _refuse_unconvertible(node)
        float32_only = self._float32_only_inputs()
        kept = self._kept_constants(float32_only)
        self._convert_initializers(kept)
        for node in self._graph.node:
            for index, tensor in enumerate(node.input):
                if (
                    not tensor
                    or tensor in kept
                    or self._types.get(tensor, TensorProto.FLOAT) != TensorProto.FLOAT
                ):
                    continue
                wanted = TensorProto.FLOAT if (node_id(node), index) in float32_only else TensorProto.FLOAT16
                if wanted != self._type_now(tensor):
                    node.input[index] = self._as(tensor, wanted)
            if not kept.intersection(node.output) and not self._is_single(node):
                _convert_attributes(node)
            self._nodes.append(node)
        self._cast_outputs()
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        del self._graph.value_info[:]  # they name the old types and are inferred anew

    def _float32_only_inputs(self) -> set[tuple[str, int]]:
        """The (node, input) pairs that take float32: by the operator's schema, or in a float32 layer."""
        found = set()
        for node in self._topology.nodes:
            for index, tensor in enumerate(node.input):
                types = self._accepted_types(node, index) if tensor else frozenset()
                single = self._is_single(node) and (not types or "tensor(float)" in types)
                if single or ("tensor(float)" in types and "tensor(float16)" not in types):
                    found.add((node_id(node), index))
        return found

    def _is_single(self, node: onnx.NodeProto | None) -> bool:
        return node is not None and node_id(node) in self._single

    def _type_now(self, tensor: str) -> int:
        """What a float32 tensor becomes: float32 for an input or where a float32 layer makes it."""
        single = tensor in self._topology.inputs or self._is_single(self._topology.producer(tensor))
        return TensorProto.FLOAT if single else TensorProto.FLOAT16

    def _accepted_types(self, node: onnx.NodeProto, index: int) -> frozenset[str]:
        domain = node.domain or "ai.onnx"
        version = self._opsets.get(domain, 0)
        try:
            schema = onnx.defs.get_schema(node.op_type, version, "" if domain == "ai.onnx" else domain)
        except onnx.defs.SchemaError:
            return frozenset()  # an operator of TensorRT or of a user; nothing is known of it
        # the last formal input of a variadic operator stands for all that follow
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        return frozenset(formal.types)

    def _kept_constants(self, float32_only: set[tuple[str, int]]) -> set[str]:
        """The constants that only such inputs read: they keep their type, the others become float16."""
        constants = {tensor.name for tensor in self._graph.initializer}
        constants.update(node.output[0] for node in self._topology.nodes if node.op_type == "Constant")
        reads = [
            (tensor, (node_id(node), index))
            for node in self._topology.nodes
            for index, tensor in enumerate(node.input)
        ]
        only = {tensor for tensor, read in reads if read in float32_only}
        also = {tensor for tensor, read in reads if read not in float32_only}
        return (only - also) & constants

    def _convert_initializers(self, kept: set[str]) -> None:
        converted = set()
        for tensor in self._graph.initializer:
            if tensor.data_type == TensorProto.FLOAT and tensor.name not in kept:
                tensor.CopyFrom(_half_tensor(tensor))
                converted.add(tensor.name)
        for value in self._graph.input:  # an initializer may be listed there too
            if value.name in converted:
                value.type.tensor_type.elem_type = TensorProto.FLOAT16

    def _cast_outputs(self) -> None:
        """Make each float32 output a Cast of what computes it, which everyone else goes on to read."""
        renamed = {
            value.name: self._fresh(f"{value.name}/float16")
            for value in self._graph.output
            if value.type.tensor_type.elem_type == TensorProto.FLOAT
            and self._topology.producer(value.name)
            and not self._is_single(self._topology.producer(value.name))
        }
        for node in self._nodes:
            for names in (node.input, node.output):
                for index, tensor in enumerate(names):
                    names[index] = renamed.get(tensor, tensor)
        for name, half in renamed.items():
            self._nodes.append(
                helper.make_node("Cast", [half], [name], name=f"{name}/cast", to=TensorProto.FLOAT)
            )

    def _as(self, tensor: str, data_type: int) -> str:
        """The name of ``tensor`` in the other type; the Cast is made at its first reader."""
        if (tensor, data_type) not in self._casts:
            name = self._fresh(f"{tensor}/{'float16' if data_type == TensorProto.FLOAT16 else 'float32'}")
            self._nodes.append(helper.make_node("Cast", [tensor], [name], name=name, to=data_type))
            self._casts[tensor, data_type] = name
        return self._casts[tensor, data_type]

    def _fresh(self, name: str) -> str:
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name


def _refuse_unconvertible(node: onnx.NodeProto) -> None:
    if node.op_type in _QUANTISED:
        raise CalibrationError(
            f"node {node_id(node)!r} ({node.op_type}) is quantised; make float16 of the float32 graph"
        )
    if any(attribute.type in (attribute.GRAPH, attribute.GRAPHS) for attribute in node.attribute):
        raise CalibrationError(
            f"node {node_id(node)!r} ({node.op_type}) has a subgraph, which is not converted to float16. "
            "Export the model without control flow."
        )


def _convert_attributes(node: onnx.NodeProto) -> None:
    """Let a node that states a float32 type or value state float16."""
    for attribute in node.attribute:
        if attribute.name == _TYPE_ATTRIBUTES.get(node.op_type) and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.type == attribute.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_half_tensor(attribute.t))
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            value = np.array(helper.get_attribute_value(attribute), np.float32)
            half = _half_tensor(numpy_helper.from_array(value))
            attribute.CopyFrom(helper.make_attribute("value", half))


def _half_tensor(tensor: TensorProto) -> TensorProto:
    """``tensor`` rounded to float16; infinities (masks) stay."""
    value: NDArray[Any] = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        return numpy_helper.from_array(value.astype(np.float16), tensor.name)


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of the tensors, as far as they can be inferred."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types
