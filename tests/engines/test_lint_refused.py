"""What the lint says of TensorRT-RTX is so: what it refuses, and what it runs in float without a word.

All graphs of a test go to one process.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from posedge.engines.flavours import flavour_named, installed_version
from posedge.engines.inspection.rtx_text import read_rtx_engine
from posedge.engines.lint import lint, mend

pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")

# prints for each file what the parser or the builder said against it, "" where it wrote FILE.engine
BUILD = """
import json, sys
import tensorrt_rtx as trt

class Log(trt.ILogger):
    said = ""
    def __init__(self):
        trt.ILogger.__init__(self)
    def log(self, severity, text):
        if int(severity) <= int(trt.ILogger.ERROR):
            self.said += text

answers = []
for path in sys.argv[1:]:
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(path):
        plan = builder.build_serialized_network(network, builder.create_builder_config())
        if plan:
            open(path + ".engine", "wb").write(plan)
        answers.append("" if plan else log.said)
    else:
        answers.append("; ".join(parser.get_error(i).desc() for i in range(parser.num_errors)) or "refused")
print(json.dumps(answers))
"""


def replace(model: onnx.ModelProto, name: str, values: np.ndarray) -> onnx.ModelProto:
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return model


def with_bias(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.arange(8, dtype=np.int32), "bias"),
            numpy_helper.from_array(np.full(8, 0.0005, np.float32), "bias_scale"),
        ]
    )
    node = helper.make_node("DequantizeLinear", ["bias", "bias_scale"], ["b"], "dequantize_bias", axis=0)
    model.graph.node.insert(0, node)
    next(node for node in model.graph.node if node.op_type == "Conv").input.append("b")
    return model


def built_without_lint(paths: list[Path]) -> dict[str, str]:
    """What was said against each file, by its name."""
    command = [sys.executable, "-c", BUILD, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip([path.name for path in paths], json.loads(done.stdout), strict=True))


def test_the_builder_refuses_what_the_lint_refuses(conv_chain, graph_of, tmp_path: Path) -> None:
    def int8() -> onnx.ModelProto:
        return conv_chain("int8", layers=1, batch=1)

    scalar = [
        helper.make_node("DequantizeLinear", ["two", "s", "z"], ["d"], "dequantize0"),
        helper.make_node("Mul", ["input", "d"], ["y"], "mul0"),
    ]
    constants = {"two": np.int8(40), "s": np.float32(0.05), "z": np.int8(0)}
    tensors = [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    cases = {
        "zero-point": (replace(int8(), "zero", np.array(3, np.int8)), "Non-zero zero point"),
        "int32-bias": (with_bias(int8()), "Int32"),
        "quantised-type": (
            replace(
                replace(int8(), "weight_zero", np.zeros(8, np.uint8)),
                "weight0",
                np.ones((8, 3, 3, 3), np.uint8),
            ),
            "UINT8",
        ),
        "scale": (replace(int8(), "weight_scale", np.zeros(8, np.float32)), "must all be positive"),
        "weight-type": (
            replace(conv_chain(layers=1, batch=1), "weight0", np.ones((8, 3, 3, 3), np.float16)),
            "same type",
        ),
        "quantised-scalar": (
            graph_of(scalar, tensors, input_shape=[1, 3, 16, 16], output_shape=[1, 3, 16, 16]),
            "only allowed before DQ",
        ),
    }
    paths = []
    for code, (model, _) in cases.items():
        assert {finding.code for finding in lint(model)} == {code}
        onnx.save(model, tmp_path / f"{code}.onnx")
        paths.append(tmp_path / f"{code}.onnx")
    for code in ("int32-bias", "weight-type", "quantised-scalar"):  # what is mended is built
        onnx.save(mend(cases[code][0])[0], tmp_path / f"{code}.mended.onnx")
        paths.append(tmp_path / f"{code}.mended.onnx")
    refused = built_without_lint(paths)
    for code, (_, words) in cases.items():
        assert words in refused[f"{code}.onnx"], (code, refused)
    assert [said for name, said in refused.items() if "mended" in name] == ["", "", ""]


@pytest.mark.skipif(
    not (installed_version(flavour_named("tensorrt_rtx")) or "").startswith("1.7.1."),
    reason="the text of TensorRT-RTX 1.7.1 is known",
)
def test_the_builder_silently_computes_in_float_what_the_lint_finds(conv_chain, tmp_path: Path) -> None:
    def int8() -> onnx.ModelProto:
        return conv_chain("int8", layers=2, batch=1)

    def with_axis(axis: int, operator: str) -> onnx.ModelProto:
        model = int8()
        for node in model.graph.node:
            node.op_type = operator if node.name == "conv1" else node.op_type
            if node.name == "dequantize_weight1":
                node.attribute[0].i = axis
        return model

    def in_other_domain(model: onnx.ModelProto) -> onnx.ModelProto:
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        for node in model.graph.node:
            node.domain = "" if node.op_type == "Relu" else "com.microsoft"
        return model

    one_number = replace(replace(int8(), "scale", np.array([0.05], np.float32)), "zero", np.zeros(1, np.int8))
    # the precisions of both convolutions, and the code
    cases = {
        "sound": (int8(), ["INT8", "INT8"], None),
        "one number": (one_number, ["FP32", "FP32"], "activation-scale-shape"),
        "mended": (mend(one_number)[0], ["INT8", "INT8"], None),
        "axis 1": (with_axis(1, "Conv"), ["INT8", "FP32"], "weight-axis"),
        "transposed": (with_axis(1, "ConvTranspose"), ["INT8", "FP32"], "transposed-weight-axis"),
        "other domain": (in_other_domain(int8()), ["INT8", "INT8"], "other-domain"),
        "axis 1 there": (in_other_domain(with_axis(1, "Conv")), ["INT8", "FP32"], "other-domain"),
    }
    for name, (model, _, code) in cases.items():
        assert {finding.code for finding in lint(model)} == ({code} if code else set())
        onnx.save(model, tmp_path / f"{name}.onnx")
    paths = [tmp_path / f"{name}.onnx" for name in cases]
    assert set(built_without_lint(paths).values()) == {""}
    for path, (_, precisions, _) in zip(paths, cases.values(), strict=True):
        layers = read_rtx_engine(Path(f"{path}.engine").read_bytes()).layers or ()
        assert [layer.precision for layer in layers if layer.multiplies] == precisions, path.name
