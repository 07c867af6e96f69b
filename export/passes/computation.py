"""Whether two graphs compute the same because they are the same but for names and notes."""

import hashlib
from collections.abc import Iterable

from onnx import AttributeProto, ModelProto, TensorProto

from ..graphs import opset_of


def computation(model: ModelProto) -> bytes:
    """A SHA-256 of all that decides the outputs: operators, attributes, wiring, weights, shapes, opset.

    Tensors count by where they are defined and not by name; names of nodes, doc strings, metadata and the
    notes on inner tensors do not count. Equal digests mean equal outputs; unequal ones may too (weights in
    another order, say). Bodies of If and Loop are taken as they are written, names included.
    """
    graph = model.graph
    numbers: dict[str, int] = {}
    digest = hashlib.sha256(f"opset {opset_of(model)}".encode())
    digest.update(repr(sorted((entry.domain, entry.version) for entry in model.opset_import)).encode())
    for value in graph.input:
        digest.update(value.type.SerializeToString(deterministic=True))
    _number(numbers, [value.name for value in graph.input])
    for tensor in graph.initializer:
        digest.update(_weight(tensor))
    _number(numbers, [tensor.name for tensor in graph.initializer])
    for node in graph.node:
        wiring = [numbers.get(name, -1) if name else None for name in node.input]
        outputs = [bool(name) for name in node.output]
        digest.update(repr((node.domain, node.op_type, wiring, outputs)).encode())
        for attribute in sorted(node.attribute, key=lambda attribute: attribute.name):
            digest.update(_attribute(attribute))
        _number(numbers, [name for name in node.output if name])
    for value in graph.output:
        digest.update(repr((value.name, numbers.get(value.name, -1))).encode())
        digest.update(value.type.SerializeToString(deterministic=True))
    for rare in [*model.functions, *graph.sparse_initializer]:
        digest.update(rare.SerializeToString(deterministic=True))
    return digest.digest()


def _number(numbers: dict[str, int], names: Iterable[str]) -> None:
    for name in names:
        numbers.setdefault(name, len(numbers))


def _weight(tensor: TensorProto) -> bytes:
    """A digest of its own, so that no two weights have to be in memory twice."""
    nameless = TensorProto()
    nameless.CopyFrom(tensor)
    for field in ("name", "doc_string", "metadata_props"):
        nameless.ClearField(field)
    return hashlib.sha256(nameless.SerializeToString(deterministic=True)).digest()


def _attribute(attribute: AttributeProto) -> bytes:
    plain = AttributeProto()
    plain.CopyFrom(attribute)
    plain.ClearField("doc_string")
    data: bytes = plain.SerializeToString(deterministic=True)
    return data
