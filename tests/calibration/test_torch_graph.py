"""Every operator computes in torch what onnxruntime computes; what is not known is named."""

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from torch import Tensor

from posedge.calibration.torch_graph import TorchGraph
from posedge.calibration.torch_operators import OPERATORS
from posedge.errors import CalibrationError
from posedge.export.graphs import run_graph

# A graph for each form of an operator: what y is of x, float (n, 4, 6, 5).
PLAIN = {
    "Relu": "y = Relu(x)",
    "Sigmoid": "y = Sigmoid(x)",
    "HardSwish": "y = HardSwish(x)",
    "Tanh": "y = Tanh(x)",
    "Exp": "y = Exp(x)",
    "Sqrt": "a = Mul(x, x) y = Sqrt(a)",
    "Identity": "y = Identity(x)",
    "Sub": "y = Sub(x, c)",
    "Div": "y = Div(x, c)",
    "Mul": "y = Mul(c, x)",
    "Add": "y = Add(x, x)",
    "Sum": "y = Sum(x, c, x)",
    "PRelu": "y = PRelu(x, c)",
    "LeakyRelu": "a = LeakyRelu(x) y = LeakyRelu <alpha = 0.3> (a)",
    "HardSigmoid": "y = HardSigmoid <alpha = 0.16, beta = 0.4> (x)",
    "HardSigmoid by default": "y = HardSigmoid(x)",
    "Clip": "y = Clip(x, low, high)",
    "Clip at one end": "y = Clip(x, , high)",
    "Softmax": "y = Softmax <axis = 1> (x)",
    "Softmax by default": "y = Softmax(x)",
    "Concat": "y = Concat <axis = 1> (x, x)",
    "Concat of the last axis": "y = Concat <axis = -1> (x, x)",
    "Transpose": "y = Transpose <perm = [0, 2, 3, 1]> (x)",
    "Transpose by default": "y = Transpose(x)",
    "Flatten": "y = Flatten(x)",
    "Flatten at another axis": "y = Flatten <axis = 2> (x)",
    "Reshape": "y = Reshape(x, shape)",
    "Squeeze": "a = GlobalAveragePool(x) y = Squeeze(a, places)",
    "ReduceMean": "y = ReduceMean <axes = [2, 3]> (x)",
    "ReduceMean of all": "y = ReduceMean <keepdims = 0> (x)",
    "ReduceSum": "y = ReduceSum <keepdims = 0> (x, places)",
    "GlobalAveragePool": "y = GlobalAveragePool(x)",
    "GlobalMaxPool": "y = GlobalMaxPool(x)",
    "MaxPool": "y = MaxPool <kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 0]> (x)",
    "MaxPool with uneven pads": "y = MaxPool <kernel_shape = [2, 2], pads = [0, 0, 1, 1]> (x)",
    "MaxPool rounding up": "y = MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x)",
    "AveragePool": "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)",
    "AveragePool counting pads": (
        "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (x)"
    ),
    "Resize to nearest": (
        'y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">'
        " (x, , doubled)"
    ),
    "Resize to nearest by half pixels": 'y = Resize <mode = "nearest"> (x, , doubled)',
    "Resize by a fraction": (
        'y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">'
        " (x, , , sizes)"
    ),
    "Resize": 'y = Resize <mode = "linear"> (x, , doubled)',
    "Resize with aligned corners": (
        'y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , , sizes)'
    ),
    "Split": "a, b = Split <axis = 1> (x) y = Sub(a, b)",
    "Split by sizes": "a, b = Split <axis = 1> (x, lengths) y = Concat <axis = 1> (b, a)",
    "Conv": "y = Conv(x, w, bias)",
    "Conv with strides": "y = Conv <strides = [2, 1], pads = [1, 1, 1, 1], dilations = [1, 2]> (x, w)",
    "Conv with uneven pads": "y = Conv <pads = [0, 1, 2, 0]> (x, w)",
    "Conv in groups": "y = Conv <group = 2, pads = [1, 1, 1, 1]> (x, grouped, bias)",
    "ConvTranspose": "y = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w_back)",
    "ConvTranspose with more": (
        "y = ConvTranspose <group = 2, strides = [2, 3], output_padding = [1, 1]> (x, w_back, six)"
    ),
    "MatMul": "y = MatMul(x, m)",
    "Gemm": "f = Flatten(x) y = Gemm <alpha = 0.5, beta = 2.0> (f, g, bias)",
    "Gemm transposed": "f = Flatten(x) y = Gemm <transB = 1> (f, g_back)",
}

WEIGHTS = {
    "c": (4, 1, 1), "w": (8, 4, 3, 3), "grouped": (8, 2, 3, 3), "bias": (8,), "six": (6,),
    "w_back": (4, 3, 4, 4), "m": (5, 7), "g": (120, 8), "g_back": (8, 120),
}  # fmt: skip
CONSTANTS = {
    "low": np.float32(-0.4),
    "high": np.float32(0.7),
    "shape": np.array([0, 2, -1, 5]),
    "places": np.array([2, 3]),
    "lengths": np.array([1, 3]),
    "sizes": np.array([2, 4, 9, 8]),
    "doubled": np.array([1, 1, 2, 2], np.float32),
}


def network(body: str, opset: int = 17) -> onnx.ModelProto:
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> net (float[n, 4, 6, 5] x) => (float y) {{ {body} }}'
    )
    rng = np.random.default_rng(0)
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in WEIGHTS.items()}
    read = {tensor for node in model.graph.node for tensor in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in {**constants, **CONSTANTS}.items()
        if name in read
    )
    return model


def pixels() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(2, 4, 6, 5)).astype(np.float32)


@pytest.mark.parametrize("form", PLAIN)
def test_an_operator_computes_what_onnxruntime_computes(form: str) -> None:
    model = network(PLAIN[form])
    expected = run_graph(model, pixels())["y"]
    (found,) = TorchGraph(model).run(torch.from_numpy(pixels()))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


def test_every_operator_that_is_known_is_among_them() -> None:
    tried = {node.op_type for body in PLAIN.values() for node in network(body).graph.node}
    assert tried == set(OPERATORS)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("y = Erf(x)", r"does not know the operator Erf \(y\)\. Known: Add, AveragePool"),
        ('y = Conv <auto_pad = "SAME_UPPER"> (x, w)', "auto_pad SAME_UPPER"),
        ("y = AveragePool <kernel_shape = [2, 2], pads = [0, 0, 1, 1]> (x)", "AveragePool with uneven pads"),
        ("y = ConvTranspose <pads = [0, 1, 0, 0]> (x, w_back)", "ConvTranspose with uneven pads"),
        ('y = Resize <mode = "cubic"> (x, , doubled)', "Resize of mode cubic, half_pixel"),
        ('y = Resize <mode = "nearest"> (x, , , sizes)', "nearest Resize by whole factors"),
    ],
)
def test_what_is_not_known_is_named(body: str, said: str) -> None:
    with pytest.raises(CalibrationError, match=said):
        TorchGraph(network(body)).run(torch.from_numpy(pixels()))


def test_outputs_come_in_the_order_of_the_graph_and_may_be_read_again() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[n, 2] x) => (float[n, 2] z, float[n, 2] y)'
        "{ k = Constant <value = float[1] {3.0}> () y = Mul(x, k) z = Add(y, k) }"
    )
    first, second = TorchGraph(model).run(torch.ones(1, 2))
    assert first.tolist() == [[6, 6]]
    assert second.tolist() == [[3, 3]]


def test_a_hook_sees_every_input_and_what_it_gives_is_used() -> None:
    model = network("a = Conv(x, w, bias) y = Relu(a)")
    seen: list[tuple[str, int, str]] = []

    def read(node: str, index: int, tensor: str, value: Tensor) -> Tensor:
        seen.append((node, index, tensor))
        return torch.zeros_like(value) if tensor == "w" else value

    (found,) = TorchGraph(model).run(torch.from_numpy(pixels()), read)
    assert seen == [("a", 0, "x"), ("a", 1, "w"), ("a", 2, "bias"), ("y", 0, "a")]
    bias = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "bias")
    np.testing.assert_array_equal(found[0, :, 0, 0].numpy(), np.maximum(bias, 0))


def test_gradients_reach_the_weights() -> None:
    graph = TorchGraph(network("a = Conv(x, w, bias) b = Relu(a) y = GlobalAveragePool(b)"))
    graph.constants["w"].requires_grad_()
    (found,) = graph.run(torch.from_numpy(pixels()))
    found.sum().backward()
    gradient = graph.constants["w"].grad
    assert gradient is not None
    assert gradient.abs().max() > 0
