"""A torch model becomes a graph that computes the same, clean, named and repeatable."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch
from onnx import ModelProto, TensorProto
from torch import Tensor, nn
from torch.nn import functional

from posedge.errors import GraphError
from posedge.export.graphs import dims, load_graph, opset_of, random_batch, run_graph, spec_of
from posedge.export.onnx_export import export_onnx
from posedge.export.passes.base import relative_difference
from posedge.export.zoo import build_model, find_entry
from posedge.runtime.spec import ModelSpec

SPEC = ModelSpec(name="small", input_wh=(24, 32), heatmap_wh=(12, 16), output_name="maps")


class Small(nn.Module):
    """What the zoo's networks are made of, once each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.branch = nn.Conv2d(4, 4, 3, 1, 1)
        self.up = nn.ConvTranspose2d(8, 8, 4, 2, 1, bias=False)
        self.up_norm = nn.BatchNorm2d(8)
        self.gate = nn.Linear(8, 8)
        self.unused = nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, 17, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left, right = x.split(4, 1)
        x = x + torch.cat([left, self.branch(right)], 1)
        x = self.up_norm(self.up(functional.max_pool2d(x, 2))).relu()
        x = x * self.gate(x.mean((2, 3))).sigmoid()[:, :, None, None]
        x = functional.interpolate(x, (8, 6), mode="bilinear", align_corners=True)
        return self.head(functional.interpolate(x, size=(16, 12), mode="bilinear"))


def randomise(model: nn.Module) -> nn.Module:
    """Norms as training leaves them, so that folding them wrongly shows."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(1)
    return randomise(Small())


@pytest.fixture(scope="module")
def exported(small: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "small.onnx"
    export_onnx(small, SPEC, path)
    return path


@pytest.fixture(scope="module")
def rsn(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, ModelProto]:
    torch.manual_seed(2)
    model = randomise(build_model("rsn_18_256x192"))
    path = tmp_path_factory.mktemp("export") / "rsn.onnx"
    export_onnx(model, find_entry("rsn_18_256x192").spec, path)
    return model, load_graph(path)


def assert_same_outputs(model: nn.Module, graph: ModelProto, spec: ModelSpec) -> None:
    for size in (1, 2, 5):
        batch = random_batch(spec, size, seed=size)
        with torch.no_grad():
            expected = model(torch.from_numpy(batch)).numpy()
        for optimise in (False, True):
            actual = run_graph(graph, batch, [spec.output_name], optimise)[spec.output_name]
            assert relative_difference(expected, actual) < 1e-5


def test_outputs_equal_torchs_at_every_batch_size(small: nn.Module, exported: Path) -> None:
    assert_same_outputs(small, load_graph(exported), SPEC)


def test_rsn_is_exported_without_superfluous_nodes(rsn: tuple[nn.Module, ModelProto]) -> None:
    model, graph = rsn
    spec = find_entry("rsn_18_256x192").spec
    counts = Counter(node.op_type for node in graph.graph.node)
    # as many as the network's drawing has; no Shape, Constant, Identity or BatchNormalization among them
    assert counts == {"Conv": 109, "Relu": 102, "Add": 59, "Split": 8, "Concat": 8, "Resize": 3, "MaxPool": 1}
    assert_same_outputs(model, graph, spec)
    assert spec_of(graph) == spec


def test_rsn_keeps_the_names_of_its_state_dict(rsn: tuple[nn.Module, ModelProto]) -> None:
    model, graph = rsn
    modules = {name for name, _ in model.named_modules()}
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    assert convolutions[0].name == "backbone.top.top.0.conv/Conv"
    for node in convolutions:
        module = node.name.removesuffix("/Conv")
        assert module in modules
        assert list(node.input[1:]) == [f"{module}.weight", f"{module}.bias"]
    names = [node.name for node in graph.graph.node]
    assert len(set(names)) == len(names)
    assert "backbone.multi_stage_rsn.0.downsample.layer1.0/Split" in names


def test_the_graph_states_what_the_spec_says(exported: Path) -> None:
    graph = load_graph(exported)
    (input_,) = graph.graph.input
    (output,) = graph.graph.output
    assert (input_.name, dims(input_)) == ("input", ["n", 3, 32, 24])
    assert (output.name, dims(output)) == ("maps", ["n", 17, 16, 12])
    assert input_.type.tensor_type.elem_type == TensorProto.FLOAT
    assert opset_of(graph) == 17
    assert [entry.domain for entry in graph.opset_import] == [""]
    assert spec_of(graph) == SPEC


def test_norms_are_folded_and_sizes_constant(exported: Path) -> None:
    operators = {node.op_type for node in load_graph(exported).graph.node}
    assert {"Conv", "ConvTranspose", "Resize", "Split"} <= operators
    assert not operators & {"BatchNormalization", "Shape", "Constant", "Identity", "Gather", "Cast"}


def test_nothing_of_the_machine_is_left(exported: Path) -> None:
    data = exported.read_bytes()
    for trace in (
        b".py",
        b"/site-packages",
        b"stack_trace",
        b"pkg.torch",
        str(Path.home()).encode(),
        b"forward",
    ):
        assert trace not in data
    graph = load_graph(exported)
    assert [entry.key for entry in graph.metadata_props] == ["posedge.spec"]
    assert (graph.producer_name, graph.producer_version, graph.doc_string) == ("posedge", "", "")
    assert not graph.graph.value_info
    assert not any(node.doc_string or node.metadata_props for node in graph.graph.node)
    assert b"unused" not in data


def test_the_same_model_gives_the_same_bytes(small: nn.Module, exported: Path, tmp_path: Path) -> None:
    export_onnx(small, SPEC, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()


def test_the_model_is_left_as_it_was(small: nn.Module, tmp_path: Path) -> None:
    model = Small().double().train()
    export_onnx(model, SPEC, tmp_path / "a.onnx")
    assert model.training
    assert next(model.parameters()).dtype == torch.float64


class Refusing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("this network cannot be traced")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"num_joints": 21}, "num_joints is 21"), ({"heatmap_wh": (6, 8)}, "heatmap_wh 6x8")],
)
def test_a_spec_that_does_not_fit_is_refused(
    small: nn.Module, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        export_onnx(small, dataclasses.replace(SPEC, **changes), tmp_path / "a.onnx")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"small: torch cannot export the model") as refusal:
        export_onnx(Refusing(), SPEC, tmp_path / "a.onnx")
    assert "ValueError: this network cannot be traced" in str(refusal.value)
    assert "forward" in str(refusal.value)
    assert "\x1b" not in str(refusal.value)


class Interrupted(nn.Module):
    """What torch makes of Ctrl-C now and then: an exception of its own."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("the trace has failed") from error


def test_an_interrupt_that_torch_wraps_stays_one(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        export_onnx(Interrupted(), SPEC, tmp_path / "a.onnx")
