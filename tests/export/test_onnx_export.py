"""A torch model or an ONNX file becomes a graph that computes the same, clean, named and repeatable."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from posedge.errors import GraphError, OutputError
from posedge.export.graphs import dims, load_graph, opset_of, random_batch, run_graph, spec_of
from posedge.export.onnx_export import export_onnx, prepare_onnx
from posedge.export.passes.base import GraphPass, apply_passes, relative_difference
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


def test_an_unwritable_directory_is_reported(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        prepare_onnx(exported, SPEC, tmp_path / "file" / "folder" / "a.onnx")


# somebody's ONNX files


def network(opset: int = 17, batch: int | str = "n", reshape_batch: int = 0) -> ModelProto:
    """Conv, BatchNormalization, Relu and a Reshape, with a second output."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((17, 3, 2, 2)),
        "gamma": rng.uniform(0.5, 1.0, 17),
        "beta": rng.standard_normal(17),
        "mean": rng.standard_normal(17),
        "var": rng.uniform(0.5, 1.5, 17),
    }
    initializers = [
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()
    ]
    initializers.append(numpy_helper.from_array(np.array([reshape_batch, 17, 16, 12]), "shape"))
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["b"]),
        helper.make_node("Relu", ["b"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["maps"]),
        helper.make_node("Sigmoid", ["r"], ["second"]),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 32, 24])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 17, 16, 12])
            for name in ("maps", "second")
        ],
        initializers,
        doc_string="made in /home/somebody",
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7, producer_name="somebody"
    )


def prepare(model: ModelProto, tmp_path: Path) -> ModelProto:
    onnx.save(model, tmp_path / "source.onnx")
    prepare_onnx(tmp_path / "source.onnx", SPEC, tmp_path / "out.onnx")
    return load_graph(tmp_path / "out.onnx")


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("batch", ["batch", 1, 2])
def test_a_foreign_graph_is_prepared(tmp_path: Path, opset: int, batch: int | str) -> None:
    prepared = prepare(network(opset, batch), tmp_path)
    inputs = random_batch(SPEC, 5, seed=7)
    expected = run_graph(network(opset, "n"), inputs)["maps"]
    outputs = run_graph(prepared, inputs)
    assert list(outputs) == ["maps"]
    assert relative_difference(expected, outputs["maps"]) < 1e-6
    assert opset_of(prepared) == max(opset, 13)
    assert dims(prepared.graph.input[0]) == ["n", 3, 32, 24]
    assert "BatchNormalization" not in {node.op_type for node in prepared.graph.node}
    assert all(node.name for node in prepared.graph.node)
    assert spec_of(prepared) == SPEC
    assert b"somebody" not in prepared.SerializeToString()


def test_a_batch_size_that_the_nodes_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="DeclareShapes"):
        prepare(network(batch=1, reshape_batch=1), tmp_path)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("opset", [8, 22, 99])
def test_other_opsets_are_refused(tmp_path: Path, opset: int) -> None:
    model = network()
    model.opset_import[0].version = opset
    with pytest.raises(GraphError, match=f"opset {opset}.*from 13 to 21"):
        prepare(model, tmp_path)


def test_a_graph_that_overflows_is_refused(tmp_path: Path) -> None:
    model = network()
    weight = np.full((17, 3, 2, 2), np.inf, np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    with pytest.raises(GraphError, match="NaN or infinity"):
        prepare(model, tmp_path)


def test_tinypose_comes_through(tinypose: Path, tinypose_spec: ModelSpec, tmp_path: Path) -> None:
    original = load_graph(tinypose)
    spec = dataclasses.replace(tinypose_spec, output_name=original.graph.output[0].name)
    prepare_onnx(tinypose, spec, tmp_path / "a.onnx")
    prepared = load_graph(tmp_path / "a.onnx")
    assert (len(original.graph.node), len(prepared.graph.node)) == (1035, 766)
    for size in (1, 3):
        batch = random_batch(spec, size, seed=size)
        expected = run_graph(original, batch)[spec.output_name]
        assert relative_difference(expected, run_graph(prepared, batch)[spec.output_name]) < 1e-4


# passes check themselves


class ScaleWeights(GraphPass):
    def edit(self, model: ModelProto) -> ModelProto:
        weight = numpy_helper.to_array(model.graph.initializer[0]) * np.float32(1.001)
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, model.graph.initializer[0].name))
        return model


class DropNode(GraphPass):
    def edit(self, model: ModelProto) -> ModelProto:
        del model.graph.node[1]
        return model


class DoNothing(GraphPass):
    def edit(self, model: ModelProto) -> ModelProto:
        return model


@pytest.mark.parametrize(
    ("harmful", "message"),
    [(ScaleWeights(), "changed the output 'maps'"), (DropNode(), "onnx.checker rejects")],
)
def test_a_harmful_pass_is_caught_and_named(harmful: GraphPass, message: str) -> None:
    model = network()
    before = model.SerializeToString()
    with pytest.raises(GraphError, match=rf"{harmful.name} \(after DoNothing\) failed: .*{message}"):
        apply_passes(model, [DoNothing(), harmful], random_batch(SPEC, 2))
    assert model.SerializeToString() == before
