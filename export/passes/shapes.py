"""The shapes of a graph's tensors, inferred without copying its weights."""

import onnx
from onnx import ModelProto, helper

from ..graphs import dims

_LARGE_CONSTANT = 4096  # bytes; larger ones are weights, no shapes


def inferred_shapes(model: ModelProto) -> dict[str, list[int | str] | None]:
    """Shapes by tensor, as ``dims`` gives them; tensors of unknown rank are missing or None.

    Sizes that are computed from other sizes are followed too. Inference copies what it is given, so large
    weights are only declared to it.
    """
    light = helper.make_model(
        helper.make_graph(model.graph.node, "shapes", model.graph.input, model.graph.output),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > _LARGE_CONSTANT:
            light.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
        else:
            light.graph.initializer.append(tensor)
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    return {value.name: dims(value) for value in [*inferred.value_info, *inferred.output, *inferred.input]}
