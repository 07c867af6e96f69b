"""The JSON of TensorRT's engine inspector, versions 8.6 to 11.

After NVIDIA's documents ("Engine Inspector" in the developer guide, "Migrating IEngineInspector Usage from
TensorRT 10.x to 11.x" in the API reference) and published outputs; not run here, which takes a GPU:

    {"Layers": [{"Name": "conv1 + relu1", "LayerType": "CaskConvolution",
                 "Inputs": [{"Name": "x", "Dimensions": [1, 8, 16, 16], "Format/Datatype": "Int8"}],
                 "Outputs": [...], "Weights": {"Type": "Int8", "Count": 576},
                 "TacticName": "...", "Metadata": "[ONNX Layer: conv1]\\u001e[ONNX Layer: relu1]"}],
     "Bindings": ["x", "y"]}                   11: "I/O Tensors": [{"Name": "x", "IOMode": "Input", ...}]

With an execution context a format is spelled out ("Thirty-two wide channel vectorized row major Int8
format"), without one it is "Int8", "Half" or "Float". An engine that was built with the verbosity
LAYER_NAMES_ONLY has the names of layers as texts in place of the objects.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .engine_layers import EngineLayer, Reading, bytes_of, onnx_nodes, widest

_PRECISIONS = (
    (re.compile(r"bf16|bfloat16", re.I), "BF16"),
    (re.compile(r"fp8", re.I), "FP8"),
    (re.compile(r"int8", re.I), "INT8"),
    (re.compile(r"half|fp16", re.I), "FP16"),
    (re.compile(r"float|fp32", re.I), "FP32"),
)
_MULTIPLIES = re.compile(r"conv|correlation|gemm|matrix_?multiply|matmul|fully_?connected", re.I)
_AROUND = re.compile(r"reformat|reorder|copy|convert", re.I)


def read_inspector(text: str, source: str) -> Reading:
    """The layers of an engine. source: what said it, for the report.

    Nothing is guessed: a layer without data types has no precision.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        return Reading(None, f"not known: {source} gave no JSON ({error})")
    layers = document.get("Layers") if isinstance(document, dict) else None
    if not isinstance(layers, list):
        return Reading(None, f"not known: the JSON of {source} has no list of layers")
    if layers and all(isinstance(layer, str) for layer in layers):
        advice = "build the engine with detailed profiling verbosity"
        return Reading(
            tuple(_named(layer) for layer in layers), f"{source}, names only: {advice} to know more"
        )
    return Reading(tuple(_layer(layer) for layer in layers if isinstance(layer, dict)), source)


def io_tensors(text: str) -> tuple[str, ...]:
    """Names of the engine's inputs and outputs: "Bindings" up to TensorRT 10, "I/O Tensors" from 11 on."""
    document = json.loads(text)
    entries = document.get("Bindings", document.get("I/O Tensors", []))
    return tuple(entry["Name"] if isinstance(entry, dict) else str(entry) for entry in entries)


def _named(name: str) -> EngineLayer:
    return EngineLayer(name, "", _nodes_of_name(name), multiplies=False)


def _layer(fields: Mapping[str, Any]) -> EngineLayer:
    name, kind = str(fields.get("Name", "")), str(fields.get("LayerType", ""))
    nodes = onnx_nodes(str(fields.get("Metadata", ""))) or _nodes_of_name(name)
    multiplies = bool(_MULTIPLIES.search(kind)) and not _AROUND.search(kind)
    inputs = [_tensor_precision(tensor) for tensor in _list(fields.get("Inputs"))]
    weights = fields.get("Weights")
    stored = weights if isinstance(weights, dict) else {}
    weight = _precision(str(stored["Type"])) if "Type" in stored else None
    # the weights of a Myelin product are an input like any other, those of a convolution are listed apart
    operands = [inputs[0], weight] if weight is not None and inputs else inputs[:2]
    if not stored and len(operands) < 2:
        operands = []
    count = stored.get("Count")
    return EngineLayer(
        name=name,
        operation=kind,
        nodes=nodes,
        multiplies=multiplies,
        precision=widest(operands) if multiplies else None,
        weight_bytes=bytes_of(weight, count) if isinstance(count, int) else None,
    )


def _tensor_precision(tensor: Any) -> str | None:
    if not isinstance(tensor, dict):
        return None
    for key in ("Format/Datatype", "Datatype", "DataType"):
        if key in tensor:
            return _precision(str(tensor[key]))
    return None


def _precision(text: str) -> str | None:
    return next((precision for pattern, precision in _PRECISIONS if pattern.search(text)), None)


def _nodes_of_name(name: str) -> tuple[str, ...]:
    """Without metadata, a fused layer is called after its nodes: "conv1 + relu1", "PWN(relu1)"."""
    parts = [re.sub(r"^PWN\((.*)\)$", r"\1", part.strip()) for part in name.split(" + ")]
    return tuple(part for part in parts if part)


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []
