"""The shapes of a graph's tensors, inferred without copying its weights."""

import onnx
from onnx import ModelProto

from ..graphs import dims
from ..light import without_weights


def inferred_shapes(model: ModelProto) -> dict[str, list[int | str] | None]:
    """Shapes by tensor, as ``dims`` gives them; tensors of unknown rank are missing or None.

    Sizes that are computed from other sizes are followed too.
    """
    inferred = onnx.shape_inference.infer_shapes(without_weights(model), data_prop=True).graph
    return {value.name: dims(value) for value in [*inferred.value_info, *inferred.output, *inferred.input]}
