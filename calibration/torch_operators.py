"""What the operators of top-down networks compute, as torch operations by their names in ONNX.

Semantics: https://onnx.ai/onnx/operators/, of opset 11 and later. A form of an operator that is not known
here raises CalibrationError.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import CalibrationError

Inputs: TypeAlias = Sequence[Any]
"""Tensors in the order of the node's inputs; None for an optional one that is left out."""

Attributes: TypeAlias = Mapping[str, Any]
"""Those of the node, and ``num_outputs``."""

Operator: TypeAlias = Callable[[Inputs, Attributes], Any]
"""Gives a tensor, or one for each of the node's outputs."""


def _convolve(inputs: Inputs, values: Attributes) -> Any:
    pixels, weights, bias = (*inputs, None)[:3]
    rank = weights.ndim - 2
    pixels, pads = _padded(pixels, values, rank)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return convolve(
        pixels,
        weights,
        bias,
        values.get("strides", [1] * rank),
        pads,
        values.get("dilations", [1] * rank),
        values.get("group", 1),
    )


def _convolve_transposed(inputs: Inputs, values: Attributes) -> Any:
    pixels, weights, bias = (*inputs, None)[:3]
    rank = weights.ndim - 2
    pads = values.get("pads", [0] * 2 * rank)
    if pads[:rank] != pads[rank:] or "output_shape" in values or rank != 2:
        raise CalibrationError("this step does not know a ConvTranspose with uneven pads or a given shape")
    return F.conv_transpose2d(
        pixels,
        weights,
        bias,
        values.get("strides", [1] * rank),
        pads[:rank],
        values.get("output_padding", [0] * rank),
        values.get("group", 1),
        values.get("dilations", [1] * rank),
    )


def _padded(pixels: Tensor, values: Attributes, rank: int, fill: float = 0.0) -> tuple[Tensor, list[int]]:
    """``pixels`` and the pads that are left to the operator: torch's own must be even."""
    if values.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise CalibrationError(f"this step does not know auto_pad {values['auto_pad'].decode()}")
    pads = list(values.get("pads", [0] * 2 * rank))
    if pads[:rank] == pads[rank:]:
        return pixels, pads[:rank]
    sides = [side for axis in reversed(range(rank)) for side in (pads[axis], pads[axis + rank])]
    return F.pad(pixels, sides, value=fill), [0] * rank


def _max_pool(inputs: Inputs, values: Attributes) -> Any:
    (pixels,) = inputs
    pixels, pads = _padded(pixels, values, 2, -float("inf"))
    return F.max_pool2d(
        pixels,
        values["kernel_shape"],
        values.get("strides", [1, 1]),
        pads,
        values.get("dilations", [1, 1]),
        bool(values.get("ceil_mode", 0)),
    )


def _average_pool(inputs: Inputs, values: Attributes) -> Any:
    (pixels,) = inputs
    counted = bool(values.get("count_include_pad", 0))
    pads = list(values.get("pads", [0] * 4))
    if pads[:2] != pads[2:]:
        raise CalibrationError("this step does not know an AveragePool with uneven pads")
    return F.avg_pool2d(
        pixels,
        values["kernel_shape"],
        values.get("strides", [1, 1]),
        pads[:2],
        bool(values.get("ceil_mode", 0)),
        counted,
    )


def _resize(inputs: Inputs, values: Attributes) -> Any:
    pixels, _, scales, sizes = (*inputs, None, None, None)[:4]
    if sizes is not None:
        shape = [int(size) for size in sizes[2:]]
    else:
        sides = zip(pixels.shape[2:], scales[2:], strict=True)
        shape = [int(side * float(scale)) for side, scale in sides]
    mode, where = values.get("mode", b"nearest"), values.get("coordinate_transformation_mode", b"half_pixel")
    if mode == b"nearest":
        whole = all(size % side == 0 for size, side in zip(shape, pixels.shape[2:], strict=True))
        floors = where == b"asymmetric" and values.get("nearest_mode") == b"floor"
        if not whole and not floors:
            raise CalibrationError("this step knows a nearest Resize by whole factors, or one that floors")
        return F.interpolate(pixels, size=shape, mode="nearest")
    if mode == b"linear" and where in (b"align_corners", b"half_pixel", b"pytorch_half_pixel"):
        return F.interpolate(pixels, size=shape, mode="bilinear", align_corners=where == b"align_corners")
    raise CalibrationError(f"this step does not know a Resize of mode {mode.decode()}, {where.decode()}")


def _split(inputs: Inputs, values: Attributes) -> Any:
    pixels, sizes = (*inputs, None)[:2]
    axis = values.get("axis", 0)
    if sizes is None and "split" not in values:
        return pixels.chunk(values["num_outputs"], axis)
    lengths = values["split"] if sizes is None else [int(size) for size in sizes]
    return pixels.split(list(lengths), axis)


def _reshape(inputs: Inputs, values: Attributes) -> Any:
    pixels, shape = inputs
    sizes = [int(size) for size in shape]
    if not values.get("allowzero", 0):
        sizes = [size or pixels.shape[axis] for axis, size in enumerate(sizes)]
    return pixels.reshape(sizes)


def _reduced(reduce: Callable[..., Tensor]) -> Operator:
    def run(inputs: Inputs, values: Attributes) -> Any:
        pixels, given = (*inputs, None)[:2]
        axes = values.get("axes") if given is None else [int(axis) for axis in given]
        return reduce(
            pixels, tuple(range(pixels.ndim) if axes is None else axes), bool(values.get("keepdims", 1))
        )

    return run


def _gemm(inputs: Inputs, values: Attributes) -> Any:
    left, right, bias = (*inputs, None)[:3]
    left = left.T if values.get("transA", 0) else left
    right = right.T if values.get("transB", 0) else right
    product = values.get("alpha", 1.0) * (left @ right)
    return product if bias is None else product + values.get("beta", 1.0) * bias


def _clip(inputs: Inputs, values: Attributes) -> Any:
    pixels, low, high = (*inputs, None, None)[:3]
    lowest = values.get("min") if low is None else float(low)
    highest = values.get("max") if high is None else float(high)
    return pixels.clamp(lowest, highest)


def _each(function: Any) -> Operator:
    """An operator that has tensors as its only arguments."""
    return lambda inputs, _values: function(*inputs)


def _flattened(inputs: Inputs, values: Attributes) -> Any:
    (pixels,) = inputs
    axis = values.get("axis", 1)
    return pixels.reshape(int(np.prod(pixels.shape[:axis])), -1)


OPERATORS: dict[str, Operator] = {
    "Conv": _convolve,
    "ConvTranspose": _convolve_transposed,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "Resize": _resize,
    "Split": _split,
    "Reshape": _reshape,
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduced(torch.sum),
    "Gemm": _gemm,
    "Clip": _clip,
    "Flatten": _flattened,
    "GlobalAveragePool": _each(lambda pixels: pixels.mean((2, 3), keepdim=True)),
    "GlobalMaxPool": _each(lambda pixels: pixels.amax((2, 3), keepdim=True)),
    **{
        name: _each(function)
        for name, function in {
            "Relu": torch.relu,
            "Sigmoid": torch.sigmoid,
            "HardSwish": F.hardswish,
            "Tanh": torch.tanh,
            "Exp": torch.exp,
            "Sqrt": torch.sqrt,
            "Identity": lambda value: value,
            "PRelu": lambda value, slope: torch.where(value > 0, value, value * slope),
            "Add": torch.add,
            "Sub": torch.sub,
            "Mul": torch.mul,
            "Div": torch.div,
            "MatMul": torch.matmul,
            "Sum": lambda *values: sum(values),
        }.items()
    },
    "LeakyRelu": lambda inputs, values: F.leaky_relu(inputs[0], values.get("alpha", 0.01)),
    "HardSigmoid": lambda inputs, values: (
        inputs[0] * values.get("alpha", 0.2) + values.get("beta", 0.5)
    ).clamp(0, 1),
    "Concat": lambda inputs, values: torch.cat(list(inputs), values["axis"]),
    "Transpose": lambda inputs, values: inputs[0].permute(
        values.get("perm", list(reversed(range(inputs[0].ndim))))
    ),
    "Softmax": lambda inputs, values: torch.softmax(inputs[0], values.get("axis", -1)),
    "Squeeze": lambda inputs, values: inputs[0].squeeze(
        tuple(int(axis) for axis in (values["axes"] if len(inputs) < 2 else inputs[1]))
    ),
}
