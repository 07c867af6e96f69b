"""The program text inside an engine of TensorRT-RTX, which can be read without a GPU.

It is documented nowhere. What is here was learned from engines of 1.7.1; the text of any other version is
not looked at, because to guess would be to report precisions that are not there.
"""

import re
from collections.abc import Iterator

from .engine_layers import EngineLayer, Reading, onnx_nodes, widest

KNOWN_VERSION = (1, 7, 1)

_MAGIC = b"vtrt"
_VERSION_OFFSET = 24
_HEADER_BYTES = 64
_PRECISIONS = {"float": "FP32", "half": "FP16", "bfloat16": "BF16", "bf16": "BF16", "int8": "INT8"}
_TENSOR = re.compile(r"tensor=\{ ([^\n]*)")
_OPERATION = re.compile(r"\n  (?=\w+=\{ name=)")
_MULTIPLIES = ("corrltn", "deconv", "fully_connected")


def read_rtx_engine(engine: bytes) -> Reading:
    """The operations of an engine file, in the order in which they run."""
    if len(engine) < _HEADER_BYTES or not engine.startswith(_MAGIC):
        return Reading(None, "not known: this is no engine of TensorRT-RTX")
    version = tuple(engine[_VERSION_OFFSET : _VERSION_OFFSET + 3])
    dotted = ".".join(str(part) for part in version)
    if version != KNOWN_VERSION:
        known = ".".join(str(part) for part in KNOWN_VERSION)
        return Reading(
            None, f"not known: TensorRT-RTX {dotted} wrote it, and only the text of {known} is known"
        )
    # the engine's own program comes first; those of fusions that the runtime may make follow
    start = engine.find(b"\ndescriptors {")
    main = engine.find(b"\nmain {", start)
    end = engine.find(b"\n}", main)
    if not 0 <= start < main < end:
        return Reading(None, f"not known: the engine of TensorRT-RTX {dotted} holds no program text")
    text = engine[start:end].decode("ascii", "replace")
    return Reading(tuple(_operations(text)), f"the engine's own text (TensorRT-RTX {dotted}, undocumented)")


def _operations(body: str) -> Iterator[EngineLayer]:
    tensors = {}
    for line in _TENSOR.findall(body):
        name = re.search(r' name="([^"]+)"', line)
        if name:
            tensors[name[1]] = line
    for text in _OPERATION.split(body)[1:]:
        keyword = text.partition("=")[0]
        if "layers=" in text:
            yield _operation(keyword, text.partition("\n")[0], tensors)


def _operation(keyword: str, line: str, tensors: dict[str, str]) -> EngineLayer:
    name = re.match(r'\w+=\{ name="?([^" ]+)', line)
    layers = re.search(r' layers="([^"]*)"', line)
    # a fusion that the runtime compiles around a convolution says so
    multiplies = keyword.startswith(_MULTIPLIES) or " backbone=" in line
    operands = [tensors[tensor] for tensor in _inputs(line) if tensor in tensors]
    weights = [tensor for tensor in operands if " const_payload_size=" in tensor]
    weight = max(weights, key=_payload, default=None)
    activation = next((tensor for tensor in operands if tensor not in weights), None)
    if multiplies and activation is None and len(weights) == 1:
        weight = None  # nothing to tell the two operands apart by
    precision = widest([_precision(activation), _precision(weight)]) if multiplies else None
    return EngineLayer(
        name=name[1] if name else "",
        operation=keyword,
        nodes=onnx_nodes(layers[1]) if layers else (),
        multiplies=multiplies,
        precision=precision,
        weight_bytes=sum(_payload(tensor) for tensor in weights),
        channels=tuple(_channels(tensor) for tensor in (activation, weight) if multiplies and tensor),
    )


def _inputs(line: str) -> list[str]:
    found = re.search(r" input(?:_args)?=\{([^}]*)\}", line)
    return re.findall('"([^"]+)"', found[1]) if found else []


def _payload(tensor: str) -> int:
    size = re.search(r" const_payload_size=(\d+)", tensor)
    return int(size[1]) if size else 0


def _channels(tensor: str) -> int | None:
    dims = re.search(r" ?dims=\{ ([^}]*)\}", tensor)
    axes = dims[1].split() if dims else []
    return int(axes[1]) if len(axes) > 1 and axes[1].isdecimal() else None


def _precision(tensor: str | None) -> str | None:
    kind = None if tensor is None else re.search(r" type=(\w+)", tensor)
    return _PRECISIONS.get(kind[1]) if kind else None
