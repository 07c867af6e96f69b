"""What TensorRT-RTX makes of INT8 graphs, read from the engines: they hold their program as text."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from posedge.calibration.calibrate import quantize
from posedge.calibration.placement import plan
from posedge.calibration.recipe import Recipe
from posedge.calibration.targets import TARGETS
from posedge.calibration.topology import Topology, node_id
from posedge.engines import build_engine
from posedge.engines.flavours import flavour_named, installed_version
from posedge.engines.inspection.engine_layers import EngineLayer
from posedge.engines.inspection.rtx_text import read_rtx_engine
from posedge.export.passes.fold_bias import FoldBias

pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
pytestmark = pytest.mark.skipif(
    not installed_version(flavour_named("tensorrt_rtx")).startswith("1.7.1."),
    reason="the text of TensorRT-RTX 1.7.1 is known",
)


def layers(engine: Path) -> list[EngineLayer]:
    """What the engine multiplies with; nodes without names are called after their first outputs."""
    found = read_rtx_engine(engine.read_bytes()).layers
    assert found is not None
    names = {layer: tuple(node.removeprefix("node_of_") for node in layer.nodes) for layer in found}
    return [replace(layer, nodes=names[layer]) for layer in found if layer.multiplies]


def not_in_int8(model: onnx.ModelProto, engine: Path) -> list[str]:
    """The convolutions and products that the plan means for INT8 and the engine computes otherwise."""
    topology = Topology(model)
    computed = {name: layer for layer in layers(engine) for name in layer.nodes}
    wanted = [weight.node for weight in plan(model, "tensorrt-rtx").weights]
    assert {topology.producer(name).op_type for name in wanted} <= {"Conv", "Gemm", "MatMul"}
    return [name for name in wanted if name not in computed or computed[name].precision != "INT8"]


def network(path: Path, body: str, channels: int = 32, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    """A model on ``channels`` x 16 x 12 pixels, written to ``path``."""
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> net (float[n, {channels}, 16, 12] x)'
        f"=> (float[n, c, h, w] y) {{ {body} }}"
    )
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        weights = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), name))
    onnx.save(model, path)
    return model


def built(path: Path, channels: int = 32, target: str = "tensorrt-rtx") -> Path:
    """The engine of the INT8 form of the graph at ``path``."""
    crops = np.random.default_rng(1).normal(size=(2, channels, 16, 12)).astype(np.float32)
    int8, engine = path.with_suffix(".int8.onnx"), path.with_suffix(".engine")
    quantize(path, [crops], int8, Recipe("minmax", target=target))
    build_engine(int8, engine, flavour="tensorrt_rtx", time_limit_s=120)
    return engine


SAME = "<pads = [1, 1, 1, 1]>"
NETWORKS = {
    "plain": (
        f"a = Conv {SAME} (x, w, b) r = Relu(a) y = Conv {SAME} (r, v)",
        {"w": (32, 32, 3, 3), "v": (32, 32, 3, 3), "b": (32,)},
    ),
    "1x1": ("a = Conv(x, w) r = Relu(a) y = Conv(r, v)", {"w": (30, 32, 1, 1), "v": (17, 30, 1, 1)}),
    "residual": (
        f"r = Relu(x) a = Conv {SAME} (r, w, b) s = Relu(a) c = Conv {SAME} (s, v) d = Add(c, r) y = Relu(d)",
        {"w": (32, 32, 3, 3), "v": (32, 32, 3, 3), "b": (32,)},
    ),
    "downsampling": (
        "a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w) r = Relu(a) c = Conv(r, v)"
        "k = Conv <strides = [2, 2]> (x, u) y = Add(c, k)",
        {"w": (32, 32, 3, 3), "v": (32, 32, 1, 1), "u": (32, 32, 1, 1)},
    ),
    "dilated": ("y = Conv <dilations = [2, 2]> (x, w)", {"w": (32, 32, 3, 3)}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_convolutions_that_are_meant_for_int8_are_in_int8(name: str, tmp_path: Path) -> None:
    body, shapes = NETWORKS[name]
    model = network(tmp_path / "net.onnx", body, **shapes)
    engine = built(tmp_path / "net.onnx")
    assert plan(model).weights
    assert not_in_int8(model, engine) == []


# groups, channels of a group, and to how many channels the engine pads each
@pytest.mark.parametrize(("groups", "width", "padded"), [(32, 1, 4), (4, 6, 8), (8, 4, 4), (4, 8, 8)])
def test_every_grouping_runs_in_int8_padded_to_multiples_of_four(groups, width, padded, tmp_path) -> None:
    channels = groups * width
    model = network(
        tmp_path / "net.onnx",
        f"a = Conv(x, u) r = Relu(a) y = Conv <group = {groups}, pads = [1, 1, 1, 1]> (r, w)",
        u=(channels, 32, 1, 1),
        w=(channels, width, 3, 3),
    )
    engine = built(tmp_path / "net.onnx")
    assert not_in_int8(model, engine) == []
    (grouped,) = (layer for layer in layers(engine) if "y" in layer.nodes)
    assert grouped.channels == (groups * padded, padded)


def test_dense_layers_run_in_int8(tmp_path: Path) -> None:
    body = "p = GlobalAveragePool(x) f = Flatten(p) g = Gemm <transB = 1> (f, w) r = Relu(g) y = MatMul(r, v)"
    model = network(tmp_path / "net.onnx", body, w=(64, 32), v=(64, 12))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", 1, ["n", 12]))
    onnx.save(model, tmp_path / "net.onnx")
    assert not_in_int8(model, built(tmp_path / "net.onnx")) == []


@pytest.mark.parametrize("target", TARGETS)
def test_graphs_for_every_target_are_built(target: str, tmp_path: Path) -> None:
    network(
        tmp_path / "net.onnx",
        "r = Relu(x) a = Conv <group = 32> (r, d) c = Add(a, r) s = Relu(c)"
        "t = ConvTranspose <strides = [2, 2]> (s, w) q = Relu(t) y = Conv <group = 8> (q, g)",
        d=(32, 1, 1, 1),
        w=(32, 16, 2, 2),
        g=(8, 2, 1, 1),
    )
    assert built(tmp_path / "net.onnx", target=target).stat().st_size > 64


def test_a_transposed_convolution_of_int8_weights_is_computed_in_float(tmp_path: Path) -> None:
    """Why the placement for TensorRT-RTX leaves it in float."""
    network(tmp_path / "net.onnx", "y = ConvTranspose <strides = [2, 2]> (x, w)", w=(32, 32, 2, 2))
    engine = built(tmp_path / "net.onnx", target="tensorrt")
    (layer,) = (layer for layer in layers(engine) if "y" in layer.nodes)
    assert layer.precision == "FP32"


@pytest.mark.slow
def test_all_convolutions_of_pp_tinypose_are_in_int8(tinypose: Path, tmp_path: Path) -> None:
    model = FoldBias().edit(onnx.load(tinypose))
    crops = np.random.default_rng(1).normal(size=(2, 3, 256, 192)).astype(np.float32)
    quantize(tinypose, [crops], tmp_path / "int8.onnx", Recipe("minmax", equalized=False, rounded=False))
    build_engine(tmp_path / "int8.onnx", tmp_path / "engine", flavour="tensorrt_rtx", time_limit_s=300)
    convolutions = [node_id(node) for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == len(plan(model).weights) == 269
    assert not_in_int8(model, tmp_path / "engine") == []
