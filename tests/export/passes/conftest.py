"""Networks of a few nodes, written operator by operator, and what every rewritten graph must still be."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from posedge.calibration.calibrate import quantize
from posedge.calibration.half import write_float16
from posedge.calibration.recipe import Recipe
from posedge.engines import BatchProfile, build_engine
from posedge.engines.lint import lint
from posedge.export.graphs import run_graph
from posedge.export.passes.base import GraphPass, apply_passes, relative_difference


class Net:
    """A network under construction; every method adds a node and returns the name of what it gives.

    whole: weights, biases and the input are -1, 0 and 1, so sums are the same bits in whatever order.
    """

    def __init__(
        self, channels: int = 3, height: int = 16, width: int = 12, opset: int = 17, whole: bool = False
    ) -> None:
        self.channels = {"input": channels}
        self.shape = (channels, height, width)
        self.opset = opset
        self.whole = whole
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def const(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def random(self, name: str, *shape: int) -> str:
        return self.const(name, self.rng.uniform(0.5, 1.5, shape).astype(np.float32))

    def op(self, operator: str, *inputs: str, channels: int | None = None, **attributes: Any) -> str:
        name = f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [f"{name}_out"], name, **attributes))
        self.channels[f"{name}_out"] = channels or self.channels.get(inputs[0], 0)
        return f"{name}_out"

    def split(self, source: str, sizes: Sequence[int], even: bool = False, **attributes: Any) -> list[str]:
        name = f"split{len(self.nodes)}"
        outputs = [f"{name}_out{index}" for index in range(len(sizes))]
        inputs = [source] if even else [source, self.const(f"{name}.sizes", np.array(sizes, np.int64))]
        self.nodes.append(helper.make_node("Split", inputs, outputs, name, axis=1, **attributes))
        self.channels.update(zip(outputs, sizes, strict=True))
        return outputs

    def conv(
        self, source: str, channels: int, kernel: int = 3, group: int = 1, bias: bool = True, stride: int = 1
    ) -> str:
        inside = self.channels[source] // group
        name = f"conv{len(self.nodes)}"
        weight = self._values((channels, inside, kernel, kernel), inside * kernel**2)
        inputs = [source, self.const(f"{name}.weight", weight)]
        if bias:
            inputs.append(self.const(f"{name}.bias", self._values((channels,))))
        pads = [kernel // 2] * 4
        return self.op("Conv", *inputs, channels=channels, group=group, pads=pads, strides=[stride, stride])

    def transposed(
        self,
        source: str,
        channels: int,
        kernel: int = 4,
        group: int = 1,
        bias: bool = True,
        **attributes: Any,
    ) -> str:
        inside = self.channels[source]
        name = f"convtranspose{len(self.nodes)}"
        weight = self._values((inside, channels // group, kernel, kernel), inside)
        inputs = [source, self.const(f"{name}.weight", weight)]
        if bias:
            inputs.append(self.const(f"{name}.bias", self._values((channels,))))
        return self.op("ConvTranspose", *inputs, channels=channels, group=group, **attributes)

    def model(self, *outputs: str) -> ModelProto:
        free = ["c", "h", "w"]
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", *self.shape])],
            [
                helper.make_tensor_value_info(
                    name, TensorProto.FLOAT, ["n", *(f"{axis}{index}" for axis in free)]
                )
                for index, name in enumerate(outputs)
            ],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def batch(self, size: int = 3) -> NDArray[np.float32]:
        rng, shape = np.random.default_rng(size), (size, *self.shape)
        values = rng.integers(-1, 2, shape) if self.whole else rng.standard_normal(shape)
        return values.astype(np.float32)

    def _values(self, shape: tuple[int, ...], sums: int = 1) -> NDArray[np.float32]:
        """Random weights; ``sums`` of them make one output, and keep it of the size of the input."""
        if self.whole:
            return self.rng.integers(-1, 2, shape).astype(np.float32)
        return (self.rng.standard_normal(shape) / sums**0.5).astype(np.float32)


@pytest.fixture
def net() -> type[Net]:
    return Net


Rewritten = Callable[..., ModelProto]


@pytest.fixture
def rewritten() -> Rewritten:
    """Applies a pass; the graph that comes out computes the same, shapes included, and lints clean.

    The same is to 1e-6 of the largest value, and to the last bit for whole numbers.
    """

    def apply(net: Net, step: GraphPass, *outputs: str) -> ModelProto:
        model = net.model(*outputs)
        before = model.SerializeToString()
        result = apply_passes(model, [step], net.batch(2))
        assert model.SerializeToString() == before
        assert lint(result) == []
        for size in (1, 3):
            expected = run_graph(model, net.batch(size))
            for optimise in (False, True):
                actual = run_graph(result, net.batch(size), optimise=optimise)
                assert set(actual) == set(expected)
                for name in expected:
                    difference = relative_difference(expected[name], actual[name])
                    assert difference == 0 if net.whole else difference < 1e-6
                    assert not net.whole or 0 < np.abs(expected[name]).max() < 2**20
        assert [value.name for value in result.graph.input] == ["input"]
        return result

    return apply


@pytest.fixture
def builds(tmp_path: Path) -> Callable[[ModelProto, Net], None]:
    """Quantises a graph and builds it as FP32, FP16 and INT8 engine."""
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")

    def build(model: ModelProto, net: Net) -> None:
        paths = [tmp_path / f"{name}.onnx" for name in ("fp32", "fp16", "int8")]
        onnx.save(model, paths[0])
        write_float16(paths[0], paths[1])
        quantize(paths[0], [net.batch(4)], paths[2], Recipe("minmax"))
        quantised = run_graph(onnx.load(paths[2]), net.batch(4))
        for name, expected in run_graph(model, net.batch(4)).items():
            assert relative_difference(expected, quantised[name]) < 0.1
        for path in paths:
            assert lint(onnx.load(path)) == []
            result = build_engine(path, path.with_suffix(".engine"), BatchProfile(1, 2, 4))
            assert result.engine_bytes > 0

    return build


def by_name(model: ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.fixture
def constants() -> Callable[[ModelProto], dict[str, NDArray[Any]]]:
    return by_name


@pytest.fixture
def attribute() -> Callable[[ModelProto, str, str], Any]:
    """The value of an attribute of a node; None where it is not there."""

    def find(model: ModelProto, node_name: str, name: str) -> Any:
        (node,) = [node for node in model.graph.node if node.name == node_name]
        values = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        return values.get(name)

    return find
