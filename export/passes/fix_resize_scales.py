"""Resize by a constant factor instead of to a size that is computed from the batch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from .base import GraphPass
from .shapes import inferred_shapes

# coordinate rules by which a Resize to the same size takes every pixel from its own place
_EXACT_COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
)


class FixResizeScales(GraphPass):
    """Gives a Resize whose input and output sizes are known its factors, and drops its computed size.

    torch writes the output size as (batch, channels, height, width) with the batch read from the input by
    Shape and Concat: integers around each Resize that TensorRT must treat as shape tensors. The factor
    between two known sizes is a constant, and gives the same size by ONNX's rule, floor(input * scale);
    where rounding would not, the node is left alone. A Resize to the size that its input has (RSN's last
    unit has one) becomes an Identity, which simplification removes.
    """

    def edit(self, model: ModelProto) -> ModelProto:
        shapes = inferred_shapes(model)
        for index, node in enumerate(model.graph.node):
            if node.op_type == "Resize" and len(node.input) == 4 and node.input[3]:
                scales = _scales(shapes.get(node.input[0]), shapes.get(node.output[0]))
                if scales is None:
                    continue
                if bool((scales == 1).all()) and _coordinates(node) in _EXACT_COORDINATES:
                    _make_identity(node)
                else:
                    _use_scales(node, f"{node.name or index}.scales", scales, model)
        return model


def _scales(before: list[int | str] | None, after: list[int | str] | None) -> NDArray[np.float32] | None:
    """Factors of the four axes; None where a size is not known or no factor gives it."""
    if before is None or after is None or len(before) != 4 or len(after) != 4 or before[1] != after[1]:
        return None
    scales = np.ones(4, np.float32)
    for axis in (2, 3):
        old, new = before[axis], after[axis]
        if not isinstance(old, int) or not isinstance(new, int) or old < 1:
            return None
        scales[axis] = new / old
        if int(np.floor(np.float32(old) * scales[axis])) != new:
            return None
    return scales


def _coordinates(node: NodeProto) -> str:
    for attribute in node.attribute:
        if attribute.name == "coordinate_transformation_mode":
            mode: Any = attribute.s
            return str(mode.decode())
    return "half_pixel"


def _make_identity(node: NodeProto) -> None:
    node.op_type = "Identity"
    del node.attribute[:]
    del node.input[1:]


def _use_scales(node: NodeProto, name: str, scales: NDArray[np.float32], model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(scales, name))
    region = node.input[1]
    del node.input[1:]
    node.input.extend([region, name])
