"""Who will run the INT8 graph, and what each can do with it: the part of the placement that is not the same
for all.

What a target cannot run in INT8 stays in float. Quantising it all the same would cost accuracy and gain
nothing: the library would compute it in float from rounded numbers.
"""

from dataclasses import dataclass

from ..errors import CalibrationError

DEFAULT_TARGET = "tensorrt-rtx"


@dataclass(frozen=True)
class Target:
    """What a library runs in INT8 beyond Conv, Gemm and MatMul, which all of them get.

    transposed: ConvTranspose, with one scale for the whole weight tensor.
    group_multiple: what the input and output channels of each group of a convolution must be a multiple of;
        1 where every grouping will do.
    depthwise: convolutions with one input and one output channel in each group, whatever group_multiple says.
    shortcuts: the shortcut of a residual Add, so that the Add is computed with the convolution before it.
    """

    name: str
    transposed: bool
    group_multiple: int
    depthwise: bool
    shortcuts: bool


TARGETS = {
    target.name: target
    for target in (
        # From NVIDIA's documents, not run here. Axis of a ConvTranspose's channel scales: 1 up to 8.2.1, 0
        # from 8.4.1 to 10.0.1, 1 again from 10.2; a single scale means the same to all of them. Groups in
        # INT8 have multiples of 4 channels; depthwise convolutions have kernels of their own.
        Target("tensorrt", transposed=True, group_multiple=4, depthwise=True, shortcuts=True),
        # Read from the engines of 1.7.1 (tests/engines/test_int8_engines.py). Every grouping runs in INT8;
        # groups of other than multiples of 4 input channels, depthwise ones too, are padded with zeros to
        # such first. A ConvTranspose is computed in float from dequantised weights.
        Target("tensorrt-rtx", transposed=False, group_multiple=1, depthwise=True, shortcuts=True),
        # Read from what 1.31.1 makes of such graphs on the CPU (tests/calibration/test_targets.py). Products
        # of matrices run in int8; convolutions, grouped or not, only where a Q follows at once, without the
        # Relu that belongs there for TensorRT; the others are computed in float from rounded numbers, so
        # that the results are those of INT8. No Add is computed with a convolution, and ConvTranspose has
        # no int8 kernel.
        Target("onnxruntime", transposed=False, group_multiple=1, depthwise=True, shortcuts=False),
    )
}


def target_named(name: str) -> Target:
    """The target of that name. Raises CalibrationError naming those that there are."""
    if name not in TARGETS:
        raise CalibrationError(f"unknown target {name!r}; there are {', '.join(TARGETS)}")
    return TARGETS[name]
