"""Which precisions a graph holds, for libraries that want to be told.

A device that builds engines need not have the onnx package, so the file is searched and not parsed.
"""

from pathlib import Path

# field 4 of NodeProto, the operator's name, as protobuf writes it: tag, length, text
_QUANTISING = tuple(
    bytes([4 << 3 | 2, len(name)]) + name for name in (b"QuantizeLinear", b"DequantizeLinear")
)


def graph_precisions(path: Path) -> frozenset[str]:
    """The reduced precisions of an ONNX file: "fp16" where a tensor is float16, "int8" where Q or DQ is."""
    from ..runtime.sessions.float16 import holds_float16  # imports numpy, which most builds do without

    model = path.read_bytes()
    found = {"fp16"} if holds_float16(model) else set()
    if any(name in model for name in _QUANTISING):
        found.add("int8")
    return frozenset(found)
