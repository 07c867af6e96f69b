"""Bring a graph of an old opset to one that can be quantised."""

import onnx
from onnx import ModelProto

from ...errors import GraphError
from ..graphs import opset_of
from .base import GraphPass

MIN_OPSET = 13  # the first whose QuantizeLinear has one scale per channel
MAX_OPSET = 21  # RSN-18 and PP-TinyPose build from it in TensorRT-RTX 1.7; newer ones were not looked at
_OLDEST_CONVERTIBLE = 9  # onnx's converter does not know Upsample, which Resize replaced, before it

_ADVICE = f"Export the model again with an opset from {MIN_OPSET} to {MAX_OPSET}"


def check_opset(model: ModelProto, where: str) -> None:
    """Raises GraphError for an opset that is neither accepted nor convertible."""
    opset = opset_of(model)
    if not _OLDEST_CONVERTIBLE <= opset <= MAX_OPSET:
        raise GraphError(f"{where}: the graph is written in opset {opset}. {_ADVICE}")


class RaiseOpset(GraphPass):
    """Opsets 13 to 21 stay as they are, 9 to 12 are converted to 13 by onnx's version converter."""

    def edit(self, model: ModelProto) -> ModelProto:
        check_opset(model, model.graph.name)
        opset = opset_of(model)
        if opset >= MIN_OPSET:
            return model
        try:
            converted: ModelProto = onnx.version_converter.convert_version(model, MIN_OPSET)
        except Exception as error:  # the converter raises RuntimeError and whatever its adapters meet
            raise GraphError(f"it cannot be brought from opset {opset} to {MIN_OPSET}. {_ADVICE}") from error
        return converted
