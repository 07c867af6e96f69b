"""A graph of ten nodes in every precision, to try a library with."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..runtime.spec import ModelSpec

PRECISIONS = ("fp32", "fp16", "int8")
SPEC = ModelSpec("probe", input_wh=(16, 16), heatmap_wh=(16, 16))

_CHANNELS = (3, 8, 8, 8, 8, 17)
_ACTIVATION_SCALE = 8 / 127  # of what normal input and weights of unit gain lead to


def probe_graph(precision: str) -> onnx.ModelProto:
    """Five convolutions, four Relus and a residual Add, with a batch of any size; fp32, fp16 or int8.

    All three have the same weights, so that their outputs are to agree. INT8 has the Q and DQ nodes of an
    explicit quantisation around the ten.
    """
    rng = np.random.default_rng(0)
    maker = _Maker(precision)
    tensor, shortcut = "input", ""
    for index, (inside, outside) in enumerate(itertools.pairwise(_CHANNELS), 1):
        weight = rng.standard_normal((outside, inside, 3, 3)) * (2 / (9 * inside)) ** 0.5
        last = index == len(_CHANNELS) - 1
        tensor = maker.convolution(tensor, weight, "heatmaps" if last else f"conv{index}")
        if index == 3:
            tensor = maker.node("Add", [tensor, shortcut], "add")
        if not last:
            tensor = maker.node("Relu", [tensor], f"relu{index}")
        shortcut = tensor if index == 2 else shortcut
    return maker.model()


class _Maker:
    """Collects nodes and constants of one precision."""

    def __init__(self, precision: str) -> None:
        self._quantises = precision == "int8"
        self._float = np.float16 if precision == "fp16" else np.float32
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        if self._quantises:
            self._constant("scale", np.array(_ACTIVATION_SCALE, np.float32))
            self._constant("zero", np.array(0, np.int8))
            self._dequantised: dict[str, str] = {}

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def convolution(self, tensor: str, weight: NDArray[np.float64], output: str) -> str:
        name = f"{output}.weight"
        if not self._quantises:
            self._constant(name, weight.astype(self._float))
            return self.node("Conv", [tensor, name], output, pads=[1] * 4)
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
        self._constant(f"{name}.int8", np.rint(weight / scale[:, None, None, None]).astype(np.int8))
        self._constant(f"{name}.scale", scale.astype(np.float32))
        self._constant(f"{name}.zero", np.zeros(len(scale), np.int8))
        inputs = [f"{name}.int8", f"{name}.scale", f"{name}.zero"]
        self.node("DequantizeLinear", inputs, name, axis=0)
        return self.node("Conv", [self._quantised(tensor), name], output, pads=[1] * 4)

    def model(self) -> onnx.ModelProto:
        kind = TensorProto.FLOAT16 if self._float is np.float16 else TensorProto.FLOAT
        width, height = SPEC.input_wh
        graph = helper.make_graph(
            self._nodes,
            "probe",
            [helper.make_tensor_value_info("input", kind, ["n", 3, height, width])],
            [helper.make_tensor_value_info("heatmaps", kind, ["n", 17, height, width])],
            self._constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def _quantised(self, tensor: str) -> str:
        if tensor not in self._dequantised:
            quantised = self.node("QuantizeLinear", [tensor, "scale", "zero"], f"{tensor}.q")
            name = self.node("DequantizeLinear", [quantised, "scale", "zero"], f"{tensor}.dq")
            self._dequantised[tensor] = name
        return self._dequantised[tensor]

    def _constant(self, name: str, value: NDArray[np.generic]) -> None:
        self._constants.append(numpy_helper.from_array(value, name))
