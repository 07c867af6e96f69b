"""The optional rewrites by their switches, on a small exported network, and what they report."""

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from posedge.errors import GraphError
from posedge.export.graph_cost import GraphCost, cost_of
from posedge.export.graph_options import PLAIN, GraphOptions
from posedge.export.graphs import load_graph, random_batch, run_graph, save_graph, spec_of
from posedge.export.onnx_export import export_onnx
from posedge.export.passes.base import apply_passes, relative_difference
from posedge.export.rewrite import rewrites
from posedge.export.source import open_source
from posedge.export.verify import verify_export
from posedge.progress import SilentProgress
from posedge.runtime.spec import ModelSpec

SPEC = ModelSpec(name="small", input_wh=(24, 32), heatmap_wh=(12, 16))
ALL = GraphOptions(pad_channels=True, dla_friendly=True, merge_groups=2)


class Small(nn.Module):
    """A stem, grouped and depthwise convolutions, a padded transposed one, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 3, 2, 1)
        self.grouped = nn.Conv2d(20, 20, 3, 1, 1, groups=10)
        self.depthwise = nn.Conv2d(20, 20, 3, 2, 1, groups=20)
        self.mix = nn.Conv2d(20, 12, 1)
        self.up = nn.ConvTranspose2d(12, 12, 4, 2, 1)
        self.head = nn.Conv2d(12, 17, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.stem(x).relu()).relu()
        return self.head(self.up(self.mix(self.depthwise(x)).relu()).relu())


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


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
def plain(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    export_onnx(model, SPEC, path)
    return path


def test_all_rewrites_of_an_export_keep_its_outputs(model: nn.Module, tmp_path: Path) -> None:
    listener = Listener()
    path = tmp_path / "rewritten.onnx"
    export_onnx(model, SPEC, path, listener, ALL)
    graph = load_graph(path)
    assert operators(graph) == {"Conv": 5, "Relu": 4, "ConvTranspose": 1, "Slice": 1}
    weights = shapes(graph)
    assert weights["stem.weight"] == (20, 3, 3, 3)  # the grouped convolutions hold its channels
    assert weights["grouped.weight"] == (20, 10, 3, 3)
    assert weights["up.weight"] == (32, 32, 4, 4)
    assert weights["head.weight"] == (17, 32, 1, 1)
    assert verify_export(model, path, SPEC).largest < 1e-5
    assert spec_of(graph) == SPEC
    assert [note.split(":")[0] for note in listener.notes if "before;" in note] == [
        "MergeGroups",
        "PadChannels",
        "SplitTransposed",
    ]


def test_one_group_lets_all_inner_channels_be_padded(plain: Path) -> None:
    options = GraphOptions(pad_channels=True, merge_groups=1)
    weights = shapes(apply_passes(load_graph(plain), rewrites(options), random_batch(SPEC, 2)))
    assert weights["grouped.weight"] == weights["depthwise.weight"] == (32, 32, 3, 3)


def test_a_difference_in_a_padded_graph_is_traced_to_an_unpadded_node(
    model: nn.Module, plain: Path, tmp_path: Path
) -> None:
    """Nodes with more channels than their module has are not taken for the place of a difference."""
    graph = apply_passes(load_graph(plain), rewrites(GraphOptions(pad_channels=True)), random_batch(SPEC, 2))
    (bias,) = [tensor for tensor in graph.graph.initializer if tensor.name == "head.bias"]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, "head.bias"))
    save_graph(graph, tmp_path / "changed.onnx")
    with pytest.raises(GraphError, match="first node where they part is 'head/Conv'"):
        verify_export(model, tmp_path / "changed.onnx", SPEC)


def test_an_onnx_file_is_rewritten_as_its_source_says(plain: Path, tmp_path: Path) -> None:
    source = open_source(str(plain), options=ALL)
    assert source.inputs == open_source(str(plain), options=ALL).inputs != open_source(str(plain)).inputs
    crops = random_batch(SPEC, 3)
    for name in ("a.onnx", "b.onnx"):
        source.export(tmp_path / name, crops, SilentProgress())
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    graph = load_graph(tmp_path / "a.onnx")
    assert operators(graph)["Slice"] == 1
    expected, actual = (run_graph(form, crops)["heatmaps"] for form in (load_graph(plain), graph))
    assert relative_difference(expected, actual) < 1e-6


def test_options_decide_the_key_of_a_checkpoints_export(tmp_path: Path) -> None:
    checkpoint = tmp_path / "a.pth"
    checkpoint.write_bytes(b"weights")
    keys = [
        open_source("rsn_18_256x192", checkpoint, options=options).inputs
        for options in (PLAIN, GraphOptions(pad_channels=True), GraphOptions(merge_groups=1), ALL)
    ]
    assert all(keys.count(key) == 1 for key in keys)


def test_nothing_asked_for_is_nothing_done(plain: Path) -> None:
    listener = Listener()
    graph = load_graph(plain)
    assert apply_passes(graph, rewrites(PLAIN, listener.note), random_batch(SPEC, 2)) == graph
    assert (listener.notes, PLAIN.lines, len(ALL.lines)) == ([], (), 3)


@pytest.mark.parametrize("groups", [0, -4])
def test_less_than_one_group_is_refused(groups: int) -> None:
    with pytest.raises(GraphError, match=f"--merge-groups {groups}"):
        GraphOptions(merge_groups=groups)


def test_cost_counts_places_and_says_where_it_cannot() -> None:
    value = onnx.helper.make_tensor_value_info
    weight = numpy_helper.from_array(torch.ones(3, 5, 2, 2).numpy(), "w")
    node = onnx.helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    for size, macs in ((4, 3 * 5 * 4 * 16), ("s", None)):
        inputs = [value("x", onnx.TensorProto.FLOAT, ["n", 3, size, size])]
        outputs = [value("y", onnx.TensorProto.FLOAT, ["n", 5, "h", "w"])]
        graph = onnx.helper.make_model(onnx.helper.make_graph([node], "g", inputs, outputs, [weight]))
        assert cost_of(graph) == GraphCost(1, 60, macs)
    assert "unknown MACs" in str(cost_of(graph))
