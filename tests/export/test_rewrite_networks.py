"""The optional rewrites on whole networks: RSN-18 with random weights and PP-TinyPose as it was trained."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import nn

from posedge.calibration.calibrate import quantize
from posedge.calibration.half import write_float16
from posedge.calibration.placement import plan
from posedge.calibration.recipe import Recipe
from posedge.engines import BatchProfile, build_engine
from posedge.engines.lint import lint
from posedge.errors import GraphError
from posedge.export.graph_cost import cost_of
from posedge.export.graph_options import GraphOptions
from posedge.export.graphs import load_graph, random_batch, run_graph, save_graph
from posedge.export.models.heads import HeatmapNetwork
from posedge.export.models.layers import ResidualLayers
from posedge.export.models.resnest import ResNeSt
from posedge.export.models.resnext import ResNeXt
from posedge.export.onnx_export import export_onnx, prepare_onnx
from posedge.export.passes.base import apply_passes, relative_difference
from posedge.export.rewrite import rewrites
from posedge.export.zoo import build_model, find_entry
from posedge.progress import SilentProgress
from posedge.runtime.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from random_weights import set_random_weights


class Listener(SilentProgress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def shapes(graph: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}


def operators(graph: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph.node)


@pytest.fixture(scope="module")
def rsn(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    network = build_model("rsn_18_256x192")
    set_random_weights(network)
    path = tmp_path_factory.mktemp("rsn") / "rsn.onnx"
    export_onnx(network, find_entry("rsn_18_256x192").spec, path)
    return load_graph(path)


@pytest.fixture(scope="module")
def prepared(
    tinypose: Path, tinypose_spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory
) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("tinypose") / "tinypose.onnx"
    prepare_onnx(tinypose, tinypose_spec, path)
    return load_graph(path)


def foldable(graph: onnx.ModelProto) -> list[str]:
    """Nodes that could have been computed before: of constants only, of nothing, twice the same, or scales
    and shifts behind a layer with weights, which could hold them."""
    constants = {tensor.name for tensor in graph.graph.initializer}
    uses = Counter(name for node in graph.graph.node for name in node.input)
    makers = {name: node.op_type for node in graph.graph.node for name in node.output}
    found, seen = [], set()
    for node in graph.graph.node:
        computed = [name for name in node.input if name and name not in constants]
        once = [name for name in computed if uses[name] == 1]
        same = (node.op_type, *node.input, *(entry.SerializeToString() for entry in node.attribute))
        behind_layer = len(computed) == 1 == len(once) and makers.get(once[0]) in ("Conv", "ConvTranspose")
        linear = node.op_type in ("Add", "Sub", "Mul", "Div", "BatchNormalization")
        if not computed or node.op_type == "Identity" or same in seen or (behind_layer and linear):
            found.append(node.name)
        seen.add(same)
    return found


def still_quantises(graph: onnx.ModelProto, plain: onnx.ModelProto) -> None:
    """The same layers and residual additions are quantised as before."""
    before, after = plan(plain), plan(graph)
    assert len(after.inputs) == len(before.inputs)
    assert after.residual_adds == before.residual_adds
    assert lint(graph) == []


def builds_in_every_precision(
    graph: onnx.ModelProto, plain: onnx.ModelProto, batch: np.ndarray, directory: Path
) -> None:
    """TensorRT-RTX takes all forms of ``graph``; its INT8 form has the ranges that ``plain`` has.

    Outputs of INT8 forms are not compared: a rounding error that crosses a step of INT8 grows to that step.
    """
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    paths = [directory / f"{name}.onnx" for name in ("fp32", "fp16", "int8")]
    expected = int8_ranges(plain, batch, paths[0], paths[2])
    actual = int8_ranges(graph, batch, paths[0], paths[2])
    assert actual == {name: pytest.approx(amax, rel=1e-4) for name, amax in expected.items()}
    write_float16(paths[0], paths[1])
    for path in paths:
        assert build_engine(path, path.with_suffix(".engine"), BatchProfile(1, 2, 4)).engine_bytes > 0


def int8_ranges(graph: onnx.ModelProto, batch: np.ndarray, source: Path, path: Path) -> dict[str, float]:
    """Write ``graph`` to ``source`` and its INT8 form to ``path``; the largest value of each INT8 tensor."""
    save_graph(graph, source)
    table = quantize(source, [batch], path, Recipe("minmax", False, False))
    return {name: entry.amax for name, entry in table.tensors.items()}


@pytest.mark.slow
def test_costs_are_those_of_the_published_network(rsn: onnx.ModelProto) -> None:
    """RSN-18 by hand: every convolution's weights once, the folded batch norms as biases."""
    network = build_model("rsn_18_256x192")
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    names = {node.name.removesuffix("/Conv") for node in rsn.graph.node if node.op_type == "Conv"}
    deployed = [module for name, module in network.named_modules() if name in names]
    assert len(deployed) == len(names) < len(convolutions)
    weights = sum(module.weight.numel() + module.out_channels for module in deployed)
    assert cost_of(rsn).parameters == weights


@pytest.mark.slow
def test_everything_that_can_be_folded_is(
    rsn: onnx.ModelProto, prepared: onnx.ModelProto, tinypose: Path
) -> None:
    assert [foldable(graph) for graph in (rsn, prepared)] == [[], []]
    assert len(foldable(onnx.load(tinypose))) > 100  # so the question can find something


@pytest.mark.slow
def test_every_branch_of_rsn_is_padded(rsn: onnx.ModelProto, tmp_path: Path) -> None:
    batch = random_batch(find_entry("rsn_18_256x192").spec, 2, seed=4)
    graph = apply_passes(rsn, rewrites(GraphOptions(pad_channels=True)), batch)
    weights = shapes(graph)
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    sizes = {weights[node.input[1]][:2] for node in convolutions}
    assert {rows % 32 for rows, _ in sizes} == {0, 17}  # 17 heatmaps
    assert {columns % 32 for _, columns in sizes} == {0, 3}  # the picture
    assert {(32, 32), (64, 64), (128, 128), (224, 224)} <= sizes
    assert len(graph.graph.node) == len(rsn.graph.node) == 290
    assert (cost_of(rsn).parameters, cost_of(graph).parameters) == (8_815_869, 11_016_081)
    still_quantises(graph, rsn)
    expected, actual = (next(iter(run_graph(form, batch).values())) for form in (rsn, graph))
    assert relative_difference(expected, actual) < 2e-6  # measured: 4.6e-7, another kernel's order of sums
    assert apply_passes(graph, rewrites(GraphOptions(pad_channels=True)), batch) == graph
    builds_in_every_precision(graph, rsn, batch, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        (GraphOptions(pad_channels=True), 1_453_765),
        (GraphOptions(merge_groups=2), 3_676_105),
        (GraphOptions(pad_channels=True, dla_friendly=True, merge_groups=1), 7_596_533),
    ],
)
def test_tinypose_is_rewritten(
    prepared: onnx.ModelProto,
    tinypose_spec: ModelSpec,
    options: GraphOptions,
    parameters: int,
) -> None:
    """Its channel shuffles hold most channels; what lies outside them is padded, depthwise layers too."""
    listener = Listener()
    graph = apply_passes(prepared, rewrites(options, listener.note), random_batch(tinypose_spec, 2))
    assert operators(graph) == operators(prepared)
    assert cost_of(prepared).parameters < cost_of(graph).parameters == parameters
    held = "PadChannels: left alone: 182 classes of channels for Reshape"
    assert (held in listener.notes) == options.pad_channels
    still_quantises(graph, prepared)
    for size in (1, 3):
        batch = random_batch(tinypose_spec, size, seed=size)
        expected, actual = (run_graph(form, batch)[tinypose_spec.output_name] for form in (prepared, graph))
        assert relative_difference(expected, actual) < 5e-6  # measured: 2.0e-6 after merging, padding none


@pytest.mark.slow
def test_tinypose_has_no_convolution_of_groups_that_7_divides(
    prepared: onnx.ModelProto, tinypose_spec: ModelSpec
) -> None:
    with pytest.raises(
        GraphError, match=r"MergeGroups failed: --merge-groups 7: .* Numbers that do: 1, 2, 4"
    ):
        apply_passes(prepared, rewrites(GraphOptions(merge_groups=7)), random_batch(tinypose_spec, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "groups", "unfit"), [(ResNeXt, 32, 5), (ResNeSt, 2, None)], ids=["resnext", "resnest"]
)
def test_grouped_networks_with_a_head_are_rewritten(
    backbone: Callable[[int], ResidualLayers], groups: int, unfit: int | None, tmp_path: Path
) -> None:
    """The zoo's ResNeXt-50 and ResNeSt-50, the first block of each layer, for small pictures."""
    spec = ModelSpec(name="shallow", input_wh=(64, 64), heatmap_wh=(16, 16))
    plain = shallow(backbone, spec, tmp_path / "plain.onnx")
    counts = operators(plain)
    assert not {"Shape", "Gather", "Range", "Reshape", "Expand", "Cast", "Constant"} & set(counts)
    assert foldable(plain) == []
    assert (group_counts(plain), counts["ConvTranspose"], counts["Slice"]) == ({1, groups}, 3, 0)
    batch = random_batch(spec, 2, seed=1)
    if unfit is not None:
        with pytest.raises(GraphError, match=r"have 32 groups.* Numbers that do: 1, 2, 4, 8, 16$"):
            apply_passes(plain, rewrites(GraphOptions(merge_groups=unfit)), batch)
    graph = apply_passes(plain, rewrites(GraphOptions(True, True, groups // 2)), batch)
    assert operators(graph) - counts == Counter(Slice=3)
    assert group_counts(graph) == {1, groups // 2}
    still_quantises(graph, plain)
    expected, actual = (run_graph(form, batch)["heatmaps"] for form in (plain, graph))
    assert relative_difference(expected, actual) < 3e-6
    builds_in_every_precision(graph, plain, batch, tmp_path)


def shallow(backbone: Callable[[int], ResidualLayers], spec: ModelSpec, path: Path) -> onnx.ModelProto:
    body = backbone(50)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        setattr(body, name, getattr(body, name)[:1])
    network = HeatmapNetwork(body).eval()
    set_random_weights(network)
    export_onnx(network, spec, path)
    return load_graph(path)


def group_counts(graph: onnx.ModelProto) -> set[int]:
    return {
        onnx.helper.get_node_attr_value(node, "group") for node in graph.graph.node if node.op_type == "Conv"
    }
