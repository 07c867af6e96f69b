"""`posedge inspect`: graphs and bundles, for people and machines."""

import json
import os
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from posedge.cli import main
from posedge.engines.flavours import flavour_named, installed_version
from posedge.engines.probe import SPEC, probe_graph
from posedge.runtime.bundle import VariantFiles, seal_bundle


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A sound INT8 graph."""
    path = tmp_path / "probe.onnx"
    onnx.save(probe_graph("int8"), path)
    return path


def with_scale(path: Path, value: list[float]) -> None:
    model = onnx.load(path)
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == "scale")
    scale.CopyFrom(numpy_helper.from_array(np.array(value, np.float32), "scale"))
    onnx.save(model, path)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Two variants without engines."""
    directory = tmp_path / "bundle"
    directory.mkdir()
    for precision in ("fp32", "int8"):
        onnx.save(probe_graph(precision), directory / f"{precision}.onnx")
    variants = {name: VariantFiles(f"{name}.onnx") for name in ("fp32", "int8")}
    seal_bundle(directory, SPEC, variants, "fp32")
    return directory


def test_a_sound_graph(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(graph)]) == 0
    said = capsys.readouterr().out
    for words in (
        "opset        17",
        "input float [n, 3, 16, 16]",
        "INT8 100.0 %",
        "findings     none",
        "refit",
    ):
        assert words in said


def test_findings_make_it_exit_with_1(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_scale(graph, [0.0])
    assert main(["inspect", str(graph)]) == 1
    said = capsys.readouterr().out
    assert "scale at 'input.q': a scale must be positive and finite. Quantise the graph again" in said
    assert "asked for    INT8" in said  # the rest of the graph can still be told


def test_a_graph_for_machines(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_scale(graph, [0.1])
    assert main(["inspect", "--json", str(graph)]) == 1
    document = json.loads(capsys.readouterr().out)
    assert {finding["code"] for finding in document["findings"]} == {"activation-scale-shape"}
    assert document["summary"]["macs"] == sum(layer["macs"] for layer in document["summary"]["layers"]) > 0


@pytest.mark.parametrize("content", [b"", b"no graph at all", bytes(1000)])
def test_what_is_no_graph(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file.onnx").write_bytes(content)
    assert main(["inspect", str(tmp_path / "file.onnx")]) == 1
    said = capsys.readouterr()
    assert "findings     1" in said.out
    assert "Traceback" not in said.err


def test_damaged_graphs_are_told_and_never_end_in_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(0)
    sound, codes = probe_graph("int8").SerializeToString(), set()
    for _ in range(80):
        content = bytearray(sound)
        # the weights, which are most of the bytes, lie in the middle
        place = rng.choice([rng.randrange(1500), len(content) - 1 - rng.randrange(300)])
        if rng.random() < 0.7:
            content[place] ^= 1 << rng.randrange(8)
        else:
            del content[place : place + rng.randrange(1, 20)]
        (tmp_path / "graph.onnx").write_bytes(content)
        assert main(["inspect", "--json", str(tmp_path / "graph.onnx")]) in (0, 1)
        found = json.loads(capsys.readouterr().out)["findings"]
        codes |= {finding["code"] for finding in found}
    assert len(codes) > 3


def test_a_graph_is_mended(graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_scale(graph, [0.1])
    before, output = graph.read_bytes(), tmp_path / "mended.onnx"
    assert main(["inspect", str(graph), "--mend", str(output)]) == 0
    assert f"{output}: 10 findings mended" in capsys.readouterr().out
    assert graph.read_bytes() == before
    assert main(["inspect", str(output)]) == 0


def test_what_cannot_be_mended_is_left_and_named(
    graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_scale(graph, [0.0])
    model = onnx.load(graph)
    model.graph.node.append(helper.make_node("Relu", ["input"], [], "culprit"))
    onnx.save(model, graph)
    output = tmp_path / "mended.onnx"
    assert main(["inspect", str(graph), "--mend", str(output)]) == 1
    said = capsys.readouterr().out
    assert "mended       node-without-outputs at 'culprit'" in said
    assert "left         scale at 'input.q'" in said


def test_nothing_to_mend_writes_nothing(
    graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(graph), "--mend", str(tmp_path / "mended.onnx")]) == 0
    assert "nothing to mend" in capsys.readouterr().out
    assert not (tmp_path / "mended.onnx").exists()


def test_a_mend_replaces_no_graph(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(graph), "--mend", str(graph)]) == 1
    assert "needs a file of its own" in capsys.readouterr().err


def test_a_mend_makes_no_directories(graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_scale(graph, [0.1])
    assert main(["inspect", str(graph), "--mend", str(tmp_path / "new" / "mended.onnx")]) == 1
    assert f"there is no directory {tmp_path / 'new'}" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_mend_replaces_what_is_no_file_by_none(
    make, graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_scale(graph, [0.1])
    make(tmp_path / "other")
    assert main(["inspect", str(graph), "--mend", str(tmp_path / "other")]) == 1
    assert "--mend FILE" in capsys.readouterr().err
    assert not (tmp_path / "other").is_file()


@pytest.mark.parametrize("mend", [[], ["--mend", "mended.onnx"]])
def test_a_device_is_no_graph(mend: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "/dev/zero", *mend]) == 1
    said = capsys.readouterr()
    assert "not a regular file" in said.out + said.err


def test_half_weights_of_constant_nodes_are_mended(tmp_path: Path) -> None:
    """One that a single layer reads, and one that two read; both are declared as float16 beside."""
    model = probe_graph("fp32")
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    convs[2].input[1] = convs[1].input[1]
    for name in {convs[0].input[1], convs[1].input[1]}:
        half = numpy_helper.from_array(numpy_helper.to_array(weights[name]).astype(np.float16))
        model.graph.initializer.remove(weights[name])
        model.graph.node.insert(0, helper.make_node("Constant", [], [name], f"constant_{name}", value=half))
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT16, half.dims))
    onnx.save(model, tmp_path / "half.onnx")
    assert main(["inspect", str(tmp_path / "half.onnx"), "--mend", str(tmp_path / "mended.onnx")]) == 0
    assert main(["inspect", str(tmp_path / "mended.onnx")]) == 0


def test_a_bundle(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle)]) == 0
    said = capsys.readouterr().out
    for words in ("variant      fp32", "variant      int8", "asked for    INT8 100.0 %", "conv4"):
        assert words in said
    assert said.count("not known: the variant has no engine") == 2


def test_an_engine_is_compared_with_its_graph(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if installed_version(flavour_named("tensorrt_rtx")) is None:
        pytest.skip("needs the extra tensorrt-rtx")
    assert main(["build", str(bundle), "--variant", "int8", "--batch-profile", "1,1,2"]) == 0
    capsys.readouterr()
    assert main(["inspect", "--json", "--variant", "int8", str(bundle)]) == 0
    (variant,) = json.loads(capsys.readouterr().out)["variants"]
    assert (variant["engine"], variant["asked_shares"]) == ("int8.engine", {"INT8": 1})
    assert variant["engine_bytes"] == (bundle / "int8.engine").stat().st_size
    assert variant["built_with"].startswith("tensorrt_rtx ")
    if variant["built_with"].startswith("tensorrt_rtx 1.7.1."):  # whose text is known
        assert (variant["got_shares"], variant["lost_int8"]) == ({"INT8": 1}, [])


def test_one_variant_for_machines(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--json", "--variant", "int8", str(bundle)]) == 0
    (variant,) = json.loads(capsys.readouterr().out)["variants"]
    assert (variant["variant"], variant["asked_shares"], variant["int8_not_known"]) == (
        "int8",
        {"INT8": 1},
        5,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent"], "there is no such file or directory"),
        (["bundle", "--variant", "fp8"], "it has fp32, int8"),
        (["bundle", "--mend", "x.onnx"], "--mend is for graphs"),
        (["bundle/fp32.onnx", "--variant", "fp32"], "--variant is for bundles"),
        (["."], "this is no bundle"),
    ],
)
def test_misuse_is_told(
    arguments: list[str],
    words: str,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(bundle.parent)
    assert main(["inspect", *arguments]) == 1
    assert words in capsys.readouterr().err


def test_an_altered_bundle_is_not_inspected(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((bundle / "int8.onnx").read_bytes())
    content[100] ^= 1
    (bundle / "int8.onnx").write_bytes(content)
    assert main(["inspect", str(bundle)]) == 1
    assert "its content is not what was sealed" in capsys.readouterr().err
