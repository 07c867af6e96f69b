"""State the shapes of input and outputs as the spec has them, with a symbolic batch axis."""

from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from ...runtime.spec import ModelSpec
from ..graphs import BATCH_AXIS, graph_input
from .base import GraphPass


class DeclareShapes(GraphPass):
    """Input (n, 3, H, W) and outputs as ``spec.output_shapes``, in their order; every other is removed.

    A graph that was exported with a fixed batch size is freed by this where its nodes allow it; where one
    of them holds the size (a Reshape to a constant shape), running it fails and the pass with it.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec

    def edit(self, model: ModelProto) -> ModelProto:
        spec = self._spec
        width, height = spec.input_wh
        input_ = graph_input(model, spec.name)
        _state(input_, (3, height, width))
        outputs = {value.name: value for value in model.graph.output}
        kept = [outputs[name] for name in spec.output_names]
        for output, shape in zip(kept, spec.output_shapes, strict=True):
            _state(output, shape)
        # graphs before IR version 4 list weights among their inputs, where they can be overridden
        for values, stated in ((model.graph.input, [input_]), (model.graph.output, kept)):
            copies = [_copy(value) for value in stated]
            del values[:]
            values.extend(copies)
        del model.graph.value_info[:]
        model.ir_version = max(model.ir_version, 4)
        return model


def _copy(value: ValueInfoProto) -> ValueInfoProto:
    copy = ValueInfoProto()
    copy.CopyFrom(value)
    return copy


def _state(value: ValueInfoProto, shape: tuple[int, ...]) -> None:
    kind = value.type.tensor_type.elem_type or TensorProto.FLOAT
    value.CopyFrom(helper.make_tensor_value_info(value.name, kind, [BATCH_AXIS, *shape]))
