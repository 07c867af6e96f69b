"""Fold constants and batch norms, and drop nodes that do nothing."""

import gc

import onnx
import onnxslim
from onnx import ModelProto

from ...errors import GraphError
from ..graphs import first_line
from .base import GraphPass


class Simplify(GraphPass):
    """onnxslim, and the rule that no batch norm stays behind a convolution.

    onnxslim 0.1.98 and onnxsim 0.8.1 were compared on RSN-18 as torch exports it (299 nodes), on
    PP-TinyPose (1035) and on a graph with unfolded batch norms behind Conv and ConvTranspose. They end
    with the same operators, 299 and 766, with bit-equal outputs, and both write the same bytes each time.
    onnxsim is faster (0.1 to 0.3 s against 1.2 to 1.8 s). onnxslim is used because it is Python and so the
    same version everywhere that posedge runs (onnxsim 0.8 needs Python 3.11, so 3.10 would get an older
    one and other bytes), because it keeps the names of weights that it folds, and because it adds no
    record of its edits to the file.
    """

    def edit(self, model: ModelProto) -> ModelProto:
        try:
            slim = onnxslim.slim(model)
        except Exception as error:  # it promises no class of its own
            raise GraphError(f"onnxslim failed: {first_line(error)}") from error
        gc.collect()  # its own form of the graph holds the weights once more, in cycles
        if not isinstance(slim, onnx.ModelProto):
            raise GraphError("onnxslim gave no model back")
        _check_folded(slim)
        return slim


def _check_folded(model: ModelProto) -> None:
    """A batch norm alone behind a convolution would be quantised as if it were not part of it."""
    uses: dict[str, int] = {value.name: 1 for value in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    convolutions = {node.output[0] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")}
    for node in model.graph.node:
        if (
            node.op_type == "BatchNormalization"
            and node.input[0] in convolutions
            and uses[node.input[0]] == 1
        ):
            raise GraphError(f"the batch norm {node.name!r} could not be folded into its convolution")
