"""Transposed convolutions without padding, and a crop behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper

from ..graphs import dims
from .base import GraphPass, Report, unheard
from .editing import DEFAULT_DOMAINS, Constants, attributes, replace_nodes, set_attributes

_TO_THE_END = np.iinfo(np.int64).max


class SplitTransposed(GraphPass):
    """Writes each padded ConvTranspose as an unpadded one and a Slice.

    The DLA computes a deconvolution only with padding 0 ("DLA Supported Layers and Restrictions" in NVIDIA's
    TensorRT documentation: 2D only, no groups, no dilation, padding must be 0); any other goes to the GPU.
    Padding of a transposed convolution takes rows off its result, so taking them off afterwards is the same.
    An output padding gives rows back at the end: less is taken off there, and where it is larger than the
    padding, kernel taps of zero make the missing rows. Left alone: a layer whose padding depends on a size
    that is not known.
    """

    def __init__(self, report: Report = unheard) -> None:
        self._report = report

    def edit(self, model: ModelProto) -> ModelProto:
        constants, shapes = Constants(model.graph), _shapes(model)
        nodes: list[NodeProto] = []
        split = 0
        for node in model.graph.node:
            nodes.append(node)
            if node.op_type != "ConvTranspose" or node.domain not in DEFAULT_DOMAINS:
                continue
            crop = _crop(node, constants, shapes)
            if isinstance(crop, str):
                self._report(f"left alone: {node.name}: {crop}")
            elif crop.is_padded:
                nodes.extend(_split(node, crop, constants))
                split += 1
        replace_nodes(model.graph, nodes)
        del model.graph.value_info[:]  # what it may say of the sizes is no longer so
        self._report(f"{split} transposed convolutions split into an unpadded one and a crop")
        return model


@dataclass(frozen=True)
class _Crop:
    """Rows to take off an unpadded result, for each spatial axis.

    begin, end: at its two ends; a negative end are rows to add. padded: the layer has attributes to remove.
    dilations: rows that one kernel tap more adds.
    """

    begin: Sequence[int]
    end: Sequence[int]
    dilations: Sequence[int]
    is_padded: bool


def _crop(node: NodeProto, constants: Constants, shapes: dict[str, list[int | str]]) -> _Crop | str:
    """What the layer's padding takes off, or why that is not known."""
    given = attributes(node)
    weight = constants.value(node.input[1])
    kernel = given.get("kernel_shape") or ([] if weight is None else list(weight.shape[2:]))
    if not kernel:
        return "its weights are computed"
    axes = range(len(kernel))
    strides = given.get("strides") or [1 for _ in axes]
    dilations = given.get("dilations") or [1 for _ in axes]
    extra = given.get("output_padding") or [0 for _ in axes]
    pads = given.get("pads") or [0 for _ in range(2 * len(kernel))]
    auto = given.get("auto_pad", "NOTSET")
    reach = [(kernel[i] - 1) * dilations[i] + 1 for i in axes]
    if "output_shape" in given:
        sizes = shapes.get(node.input[0], [])[2:]
        if len(sizes) != len(kernel) or not all(isinstance(size, int) and size for size in sizes):
            return "its padding follows from an input size that is not known"
        wanted = given["output_shape"][-len(kernel) :]
        totals = [strides[i] * (int(sizes[i]) - 1) + extra[i] + reach[i] - wanted[i] for i in axes]
        pads = _distribute(totals, auto)
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = _distribute([extra[i] + reach[i] - strides[i] for i in axes], auto)
    if min(pads) < 0:
        return "its padding is negative"
    begin, end = pads[: len(kernel)], [pads[len(kernel) + i] - extra[i] for i in axes]
    if min(end) < 0 and weight is None:
        return "its output padding needs a larger kernel, and its weights are computed"
    return _Crop(begin, end, dilations, any((*pads, *extra)))


def _distribute(totals: Sequence[int], auto: str) -> list[int]:
    """ONNX's rule for padding that is given as a sum: the odd row goes to the end for SAME_UPPER only."""
    halves = [total // 2 for total in totals]
    others = [total - half for total, half in zip(totals, halves, strict=True)]
    return [*halves, *others] if auto == "SAME_UPPER" else [*others, *halves]


def _split(node: NodeProto, crop: _Crop, constants: Constants) -> list[NodeProto]:
    """Change ``node`` to one without padding; the Slice behind it, where one is needed."""
    taps = [
        -(end // dilation) if end < 0 else 0 for end, dilation in zip(crop.end, crop.dilations, strict=True)
    ]
    end = [rows + more * step for rows, more, step in zip(crop.end, taps, crop.dilations, strict=True)]
    weight = constants.value(node.input[1])
    if any(taps) and weight is not None:
        larger = np.pad(weight, [(0, 0), (0, 0), *((0, more) for more in taps)])
        constants.replace(node, 1, larger)
        set_attributes(node, kernel_shape=list(larger.shape[2:]))
    set_attributes(node, pads=None, auto_pad=None, output_padding=None, output_shape=None)
    axes = [axis for axis, rows in enumerate(zip(crop.begin, end, strict=True)) if any(rows)]
    if not axes:
        return []
    result = node.output[0]
    node.output[0] = constants.unused(f"{result}_uncropped")
    name = f"{node.name or result}_crop"
    bounds: dict[str, list[Any]] = {
        "starts": [crop.begin[axis] for axis in axes],
        "ends": [-end[axis] if end[axis] else _TO_THE_END for axis in axes],
        "axes": [axis + 2 for axis in axes],
    }
    inputs = [constants.add(f"{name}.{part}", np.array(values, np.int64)) for part, values in bounds.items()]
    return [helper.make_node("Slice", [node.output[0], *inputs], [result], name)]


def _shapes(model: ModelProto) -> dict[str, list[int | str]]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    return {value.name: dims(value) or [] for value in values}
