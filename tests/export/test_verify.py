"""An export is compared with its torch model, and a difference is traced to the node where it begins."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import ModelProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from posedge.errors import GraphError
from posedge.export.graphs import load_graph, random_batch, save_graph
from posedge.export.onnx_export import export_onnx
from posedge.export.verify import verify_export
from posedge.runtime.spec import ModelSpec

SPEC = ModelSpec(name="small", input_wh=(24, 32), heatmap_wh=(12, 16))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(8, 8, 3, 1, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, 1, 1)
        self.relu = nn.ReLU(
            inplace=True
        )  # runs twice, and in place, so that no other record must share its memory

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.conv2(self.relu(self.norm1(self.conv1(x)))))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.first = Block()
        self.second = Block()
        self.head = nn.Conv2d(8, 17, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.second(self.first(self.norm(self.stem(x)))))
        return functional.interpolate(functional.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    model = Small()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def exported(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "small.onnx"
    export_onnx(model, SPEC, path)
    return path


def change_weight(graph: ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    (tensor,) = [tensor for tensor in graph.graph.initializer if tensor.name == name]
    values = change(numpy_helper.to_array(tensor).copy()).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def limit_input(graph: ModelProto, limit: float) -> None:
    graph.graph.initializer.append(numpy_helper.from_array(np.array(limit, np.float32), "limit"))
    graph.graph.node[0].input[0] = "limited"
    graph.graph.node.insert(0, helper.make_node("Min", ["input", "limit"], ["limited"], name="limiter"))


def one_more(values: np.ndarray) -> np.ndarray:
    values.flat[3] += 0.3
    return values


def test_an_equal_graph_passes_on_random_and_real_input(model: nn.Module, exported: Path) -> None:
    crops = random_batch(SPEC, 3, seed=5) * 2 + 1
    report = verify_export(model, exported, SPEC, crops)
    cases = [(comparison.inputs, comparison.batch) for comparison in report.comparisons]
    assert cases == [("random", 1), ("random", 5), ("real", 1), ("real", 5)]
    assert 0 <= report.largest < report.tolerance == 1e-4
    assert all(comparison.difference < 1e-4 for comparison in report.comparisons)
    assert [c.inputs for c in verify_export(model, exported, SPEC, batches=(2,)).comparisons] == ["random"]


def test_the_report_repeats(model: nn.Module, exported: Path) -> None:
    assert verify_export(model, exported, SPEC) == verify_export(model, exported, SPEC)


@pytest.mark.parametrize(
    ("weight", "node"),
    [
        ("stem.weight", "stem/Conv"),
        ("stem.bias", "stem/Conv"),
        ("first.conv1.weight", "first.conv1/Conv"),
        ("first.conv2.bias", "first.conv2/Conv"),
        ("second.conv2.weight", "second.conv2/Conv"),
        ("head.weight", "head/Conv"),
    ],
)
def test_a_changed_weight_is_traced_to_its_node(
    model: nn.Module, exported: Path, tmp_path: Path, weight: str, node: str
) -> None:
    graph = load_graph(exported)
    change_weight(graph, weight, one_more)
    save_graph(graph, tmp_path / "changed.onnx")
    with pytest.raises(GraphError, match=rf"changed\.onnx.*first node where they part is '{node}'"):
        verify_export(model, tmp_path / "changed.onnx", SPEC)


def test_the_first_of_two_changes_is_named(model: nn.Module, exported: Path, tmp_path: Path) -> None:
    graph = load_graph(exported)
    for name in ("head.weight", "first.conv2.weight"):
        change_weight(graph, name, one_more)
    save_graph(graph, tmp_path / "changed.onnx")
    with pytest.raises(GraphError, match=r"is 'first\.conv2/Conv'.*up to 'first\.conv1/Conv', agree"):
        verify_export(model, tmp_path / "changed.onnx", SPEC)


def test_a_change_behind_the_last_module_is_placed_there(
    model: nn.Module, exported: Path, tmp_path: Path
) -> None:
    graph = load_graph(exported)
    (resize,) = [node for node in graph.graph.node if node.op_type == "Resize"]
    for attribute in resize.attribute:
        if attribute.name == "mode":
            attribute.s = b"nearest"
    save_graph(graph, tmp_path / "changed.onnx")
    with pytest.raises(GraphError, match=r"part after 'head/Conv', the last node that could be compared"):
        verify_export(model, tmp_path / "changed.onnx", SPEC)


def test_a_graph_without_module_names_is_still_refused(
    model: nn.Module, exported: Path, tmp_path: Path
) -> None:
    graph = load_graph(exported)
    change_weight(graph, "head.weight", one_more)
    for index, node in enumerate(graph.graph.node):
        node.name = f"node{index}"
    save_graph(graph, tmp_path / "changed.onnx")
    with pytest.raises(GraphError, match="no node of the graph is named after a module"):
        verify_export(model, tmp_path / "changed.onnx", SPEC)


def test_a_wrong_norm_epsilon_is_found(model: nn.Module, exported: Path) -> None:
    other = copy.deepcopy(model)
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    with pytest.raises(GraphError, match="stem/Conv"):
        verify_export(other, exported, SPEC)


def test_a_difference_in_one_person_of_a_batch_is_traced(
    model: nn.Module, exported: Path, tmp_path: Path
) -> None:
    graph = load_graph(exported)
    limit_input(graph, 50)
    save_graph(graph, tmp_path / "changed.onnx")
    crops = random_batch(SPEC, 4)
    crops[2] *= 40
    with pytest.raises(GraphError, match=r"for real input at batch 5.*first node.*stem/Conv"):
        verify_export(model, tmp_path / "changed.onnx", SPEC, crops)


def test_a_graph_that_mixes_the_batch_is_refused(model: nn.Module, exported: Path, tmp_path: Path) -> None:
    graph = load_graph(exported)
    (head,) = [node for node in graph.graph.node if node.name == "head/Conv"]
    mean = helper.make_node("ReduceMean", [head.input[0]], ["mean"], axes=[0], keepdims=1)
    maximum = helper.make_node("Max", [head.input[0], "mean"], ["mixed"])
    head.input[0] = "mixed"
    place = list(graph.graph.node).index(head)
    for node in (maximum, mean):
        graph.graph.node.insert(place, node)
    save_graph(graph, tmp_path / "mixed.onnx")
    with pytest.raises(GraphError, match=r"at batch 5.*mixes or counts the batch"):
        verify_export(model, tmp_path / "mixed.onnx", SPEC)


def test_values_that_are_not_numbers_are_refused(model: nn.Module, exported: Path, tmp_path: Path) -> None:
    graph = load_graph(exported)
    change_weight(graph, "second.conv1.weight", lambda values: values * np.float32("nan"))
    save_graph(graph, tmp_path / "changed.onnx")
    with pytest.raises(GraphError, match=r"second\.conv1/Conv"):
        verify_export(model, tmp_path / "changed.onnx", SPEC)


def test_real_crops_are_used(model: nn.Module, exported: Path, tmp_path: Path) -> None:
    """A difference that random input cannot show: a clip far above what noise reaches."""
    graph = load_graph(exported)
    limit_input(graph, 50)
    save_graph(graph, tmp_path / "changed.onnx")
    verify_export(model, tmp_path / "changed.onnx", SPEC)
    crops = random_batch(SPEC, 2) * 40
    with pytest.raises(GraphError, match=r"for real input at batch 1.*stem/Conv"):
        verify_export(model, tmp_path / "changed.onnx", SPEC, crops)


@pytest.mark.parametrize("shape", [(0, 3, 32, 24), (2, 3, 24, 32), (3, 32, 24)])
def test_crops_of_another_shape_are_refused(model: nn.Module, exported: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(GraphError, match=r"verification needs \(N, 3, 32, 24\)"):
        verify_export(model, exported, SPEC, np.zeros(shape, np.float32))


def test_a_model_in_training_mode_is_refused(exported: Path) -> None:
    with pytest.raises(GraphError, match="training mode"):
        verify_export(Small().train(), exported, SPEC)


def test_verification_leaves_no_hooks(model: nn.Module, exported: Path, tmp_path: Path) -> None:
    graph = load_graph(exported)
    change_weight(graph, "head.weight", one_more)
    save_graph(graph, tmp_path / "changed.onnx")
    with pytest.raises(GraphError):
        verify_export(model, tmp_path / "changed.onnx", SPEC)
    assert not any(module._forward_hooks for module in model.modules())
