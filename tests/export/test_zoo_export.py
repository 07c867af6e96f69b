"""Zoo models all the way from random weights to engines: one of each family by default, all 22 when asked."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import ModelProto
from torch import nn

from posedge.calibration.calibrate import quantize
from posedge.calibration.half import write_float16
from posedge.calibration.recipe import Recipe
from posedge.engines.build import BatchProfile, build_engine
from posedge.export.graphs import dims, load_graph, random_batch, spec_of
from posedge.export.onnx_export import export_onnx
from posedge.export.verify import verify_export
from posedge.export.zoo import ZOO, build_model
from posedge.runtime.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from random_weights import set_random_weights
from zoo_table import table

SMALL = ("pose_resnest_50_256x192", "resnext50-32x4d")  # the backbones and both heads
SHAPE_ARITHMETIC = {"Shape", "Gather", "Range", "Reshape", "Cast", "Expand", "Concat", "Unsqueeze", "Slice"}

# what the drawings of the networks have; a batch norm, Identity or Shape that is left would show
OPERATORS = {
    "pose_resnest_50_256x192": {
        "Conv": 88,
        "Relu": 70,
        "Add": 48,
        "Split": 32,
        "Sub": 32,
        "Mul": 32,
        "ReduceMean": 16,
        "Sigmoid": 16,
        "AveragePool": 6,
        "ConvTranspose": 3,
        "MaxPool": 1,
    },
    "resnext50-32x4d": {"Conv": 53, "Relu": 49, "Add": 16, "MaxPool": 1, "ReduceMean": 1, "Gemm": 1},
}


class Exported:
    """A model with random weights and its graph; ``verify`` has run."""

    def __init__(self, name: str, directory: Path) -> None:
        self.spec = ZOO[name].spec
        self.model: nn.Module = build_model(name)
        set_random_weights(self.model)
        self.path = directory / "fp32.onnx"
        export_onnx(self.model, self.spec, self.path)
        self.report = verify_export(self.model, self.path, self.spec)
        self.graph: ModelProto = load_graph(self.path)


@pytest.fixture(scope="module", params=SMALL)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(request.param, tmp_path_factory.mktemp("zoo"))


def test_graphs_have_the_nodes_of_the_drawing(exported: Exported) -> None:
    counts = Counter(node.op_type for node in exported.graph.graph.node)
    assert counts == OPERATORS[exported.spec.name]
    assert not SHAPE_ARITHMETIC & set(counts)


def test_graphs_agree_with_torch_and_carry_their_spec(exported: Exported) -> None:
    assert {comparison.batch for comparison in exported.report.comparisons} == {1, 5}
    assert exported.report.largest < 1e-5
    assert spec_of(exported.graph) == exported.spec
    width, height = exported.spec.input_wh
    assert dims(exported.graph.graph.input[0]) == ["n", 3, height, width]


def test_nodes_are_named_after_modules(exported: Exported) -> None:
    modules = {name for name, _ in exported.model.named_modules()}
    for node in exported.graph.graph.node:
        assert node.name.rpartition("/")[0] in modules


def test_graphs_become_engines_of_three_precisions(exported: Exported, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    sizes = engine_sizes(exported.path, exported.spec, tmp_path)
    weights = exported.path.stat().st_size
    assert weights < sizes["fp32"]
    # transposed convolutions stay float32 in the INT8 graph, so its engine may be larger than that of FP16
    assert max(sizes["int8"], sizes["fp16"]) < sizes["fp32"]


@pytest.mark.slow
@pytest.mark.skipif("POSEDGE_WHOLE_ZOO" not in os.environ, reason="half an hour; set POSEDGE_WHOLE_ZOO=1")
@pytest.mark.parametrize("name", ZOO)
def test_every_model_is_exported_verified_and_built(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    exported = Exported(name, tmp_path)
    operators = {node.op_type for node in exported.graph.graph.node}
    assert not operators & (SHAPE_ARITHMETIC - {"Concat"})
    assert exported.report.largest < exported.report.tolerance
    sizes = engine_sizes(exported.path, exported.spec, tmp_path)
    assert max(sizes["int8"], sizes["fp16"]) < sizes["fp32"]


def engine_sizes(graph: Path, spec: ModelSpec, directory: Path) -> dict[str, int]:
    write_float16(graph, directory / "fp16.onnx")
    quantize(graph, noise(spec), directory / "int8.onnx", Recipe(rounded=False))
    paths = {"fp32": graph, "fp16": directory / "fp16.onnx", "int8": directory / "int8.onnx"}
    profile = BatchProfile(1, 2, 4)
    return {
        variant: build_engine(path, directory / f"{variant}.engine", profile).engine_bytes
        for variant, path in paths.items()
    }


def noise(spec: ModelSpec) -> Iterator[np.ndarray]:
    for seed in range(2):
        yield random_batch(spec, 1, seed)


def test_random_weights_repeat() -> None:
    first, second = build_model(SMALL[0]), build_model(SMALL[0])
    for model in (first, second):
        set_random_weights(model, seed=3)
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_the_table_says_what_was_not_measured(tmp_path: Path) -> None:
    (tmp_path / "rsn_18_256x192").mkdir()
    figures = {"nodes": 290, "deployed_macs": 2_100_000_000, "export_s": 20.0, "verify_s": 5.0}
    figures |= {"cpu_s": 30.0, "peak_bytes": 900_000_000, "largest_difference": 1e-6}
    (tmp_path / "rsn_18_256x192" / "export.json").write_text(json.dumps(figures))
    rows = {line.split(" | ")[0]: line for line in table(tmp_path).splitlines() if line.startswith("| `")}
    assert len(rows) == len(ZOO)
    unknown = "not measured"
    assert rows["| `rsn_18_256x192`"] == (
        f"| `rsn_18_256x192` | 290 | 9.14 | 2.25 | 2.10 | {unknown} | {unknown} | {unknown} | 25 | 0.90 |"
    )
    assert rows["| `resnext50-32x4d`"].count(unknown) == 7
    assert "1 of 22 models" in table(tmp_path)
