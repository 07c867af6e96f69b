"""What is said of onnxruntime as a target, read from the graphs that it makes of quantised ones."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from posedge.calibration.calibrate import quantize, write_quantized
from posedge.calibration.recipe import Recipe
from posedge.errors import CalibrationError

INT8_OPERATORS = {"QLinearConv", "MatMulIntegerToFloat", "QGemm", "QLinearAdd"}

# body, output, shapes of the constants, operators that run in int8
BODIES = [
    ("r = Relu(x) y = MatMul(r, w)", "float[n, 8, 6, 5] y", {"w": (6, 5)}, {"MatMulIntegerToFloat"}),
    ("a = Conv(x, w) y = Conv(a, v)", "float[n, 8, 6, 6] y", {"w": (8, 8, 1, 1)}, {"QLinearConv"}),
    (
        "a = Conv <group = 8> (x, d) y = Conv(a, v)",
        "float[n, 8, 6, 6] y",
        {"d": (8, 1, 1, 1)},
        {"QLinearConv"},
    ),
    ("a = Conv(x, w) r = Relu(a) y = Conv(r, v)", "float[n, 8, 6, 6] y", {"w": (8, 8, 1, 1)}, set()),
    ("r = Relu(x) a = Conv(r, v) y = Add(a, r)", "float[n, 8, 6, 6] y", {}, set()),
]


def write(path: Path, body: str, output: str, shapes: dict[str, tuple[int, ...]]) -> Path:
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> net (float[n, 8, 6, 6] x) => ({output}) {{ {body} }}'
    )
    rng = np.random.default_rng(0)
    for name, shape in {"v": (8, 8, 1, 1), **shapes}.items():
        if name in body:
            weights = rng.normal(size=shape).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(weights, name))
    onnx.save(model, path)
    return path


def crops(seed: int = 0) -> list[np.ndarray]:
    return [np.random.default_rng(seed).normal(size=(2, 8, 6, 6)).astype(np.float32)]


@pytest.mark.parametrize(("body", "output", "shapes", "expected"), BODIES)
def test_what_onnxruntime_runs_in_int8(body, output, shapes, expected, tmp_path: Path) -> None:
    import onnxruntime

    graph, optimised = tmp_path / "int8.onnx", tmp_path / "optimised.onnx"
    quantize(
        write(tmp_path / "net.onnx", body, output, shapes),
        crops(),
        graph,
        Recipe("minmax", target="onnxruntime"),
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(optimised)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    operators = {node.op_type for node in onnx.load(optimised).graph.node}
    assert operators & INT8_OPERATORS == expected


def test_a_table_keeps_its_target(tmp_path: Path) -> None:
    body = "r = Relu(x) a = Conv(r, v) t = ConvTranspose(a, w) y = Add(t, r)"
    net = write(tmp_path / "net.onnx", body, "float[n, 8, 6, 6] y", {"w": (8, 8, 1, 1)})
    found = {}
    for target in ("tensorrt", "tensorrt-rtx", "onnxruntime"):
        table = quantize(net, crops(), tmp_path / f"{target}.onnx", Recipe(rounded=False, target=target))
        assert table.target == target
        found[target] = write_quantized(net, table, tmp_path / "again.onnx")
        assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / f"{target}.onnx").read_bytes()
    assert [site.node for site in found["tensorrt"].inputs] == ["a", "t"]
    assert [site.node for site in found["tensorrt-rtx"].inputs] == ["a"]


def test_an_unknown_target_leaves_nothing_behind(tmp_path: Path) -> None:
    net = write(tmp_path / "net.onnx", "y = Conv(x, v)", "float[n, 8, 6, 6] y", {})
    with pytest.raises(CalibrationError, match="unknown target 'gpu'; there are tensorrt, "):
        quantize(net, crops(), tmp_path / "int8.onnx", Recipe(target="gpu"))
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
