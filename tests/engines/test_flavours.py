"""Which TensorRT is chosen, and how each version is asked: full TensorRT is played by stand-in modules.

A stand-in has the attributes that the version has and no others, so asking for one that is gone fails.
Its engine is a JSON text of what it was asked.
"""

import io
import json
import os
import subprocess
import sys

import pytest
from onnx import helper

from posedge.engines import available_flavour, build_engine
from posedge.engines.flavours import FLAVOURS, flavour_named, installed_flavours, installed_version
from posedge.errors import BuildError, MissingExtraError
from posedge.progress import LineProgress


@pytest.mark.parametrize(
    ("version", "asked"),
    [
        ("8.6.2", {"EXPLICIT_BATCH"}),  # JetPack 6.0
        ("10.3.0", {"STRONGLY_TYPED"}),  # JetPack 6.2
        ("10.13.3.9", {"STRONGLY_TYPED"}),  # JetPack 7.0
        ("11.4.1.7", set()),  # always strongly typed
    ],
)
def test_each_version_is_asked_only_for_what_it_has(version, asked, stand_in, conv_chain, saved, out):
    stand_in(version)
    assert available_flavour().name == "tensorrt"
    result = build_engine(saved(conv_chain()), out / "model.engine")
    assert (result.flavour, result.version) == ("tensorrt", version)
    calls = json.loads((out / "model.engine").read_text())["calls"]
    values = {"EXPLICIT_BATCH": 1, "STRONGLY_TYPED": 2}
    assert ["Builder.create_network", sum(values[name] for name in asked)] in calls
    assert [
        "IOptimizationProfile.set_shape",
        "input",
        [1, 3, 16, 16],
        [8, 3, 16, 16],
        [32, 3, 16, 16],
    ] in calls
    assert ["IBuilderConfig.profiling_verbosity", "DETAILED"] in calls  # or the inspector has names alone
    assert os.listdir(out) == ["model.engine"]


def test_a_stand_in_records_what_networks_are_asked_and_refuses_the_rest(stand_in, conv_chain, saved, out):
    stand_in("8.6.2")
    build_engine(saved(conv_chain()), out / "model.engine")
    calls = json.loads((out / "model.engine").read_text())["calls"]
    assert ["INetworkDefinition.get_input", 0] in calls
    assert ["INetworkDefinition.get_output", 0] in calls
    program = """if True:
        import tensorrt
        network = tensorrt.Builder(tensorrt.ILogger()).create_network(1)
        print(network.num_layers)
        for ask in (lambda: network.mark_debug, lambda: network.layers, lambda: network.get_input(0)):
            try:
                ask()
            except Exception as error:
                print(type(error).__name__)
        try:
            network.num_layer = 1
        except AttributeError:
            print("refused")
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    asked = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert asked.stdout.split() == ["0", "AttributeError", "AttributeError", "IndexError", "refused"]


def test_flags_are_found_by_their_names(stand_in, conv_chain, saved, out):
    stand_in("10.99.0", names="10.3", flag_values={"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 3})
    build_engine(saved(conv_chain()), out / "model.engine")
    assert ["Builder.create_network", 8] in json.loads((out / "model.engine").read_text())["calls"]


@pytest.mark.parametrize(("precision", "flags"), [("fp32", []), ("fp16", ["FP16"]), ("int8", ["INT8"])])
@pytest.mark.parametrize("version", ["8.6.2", "10.3.0"])
def test_flags_of_precision_only_before_strong_typing(
    version, precision, flags, stand_in, conv_chain, saved, out
):
    stand_in(version)
    build_engine(saved(conv_chain(precision)), out / "model.engine")
    calls = json.loads((out / "model.engine").read_text())["calls"]
    asked = [call[1] for call in calls if call[0] == "IBuilderConfig.set_flag"]
    assert asked == (flags if version.startswith("8") else [])


@pytest.mark.parametrize(
    ("version", "place"),
    [("8.6.2", "node 1, counted from 0: UNSUPPORTED_NODE"), ("10.3.0", r"node 'determinant0' \(Det\): UNS")],
)
def test_the_parsers_refusal_says_where(version, place, stand_in, graph_of, saved, out):
    stand_in(version)
    nodes = [
        helper.make_node("Relu", ["input"], ["relu"], "relu0"),
        helper.make_node("Det", ["relu"], ["determinant"], "determinant0"),
    ]
    with pytest.raises(BuildError, match=rf"parser refuses the graph: {place}"):
        build_engine(saved(graph_of(nodes, output_shape=["batch", 3])), out / "model.engine")


@pytest.mark.parametrize("version", ["8.5.2", "9.3.0", "12.0.1"])
def test_an_unsupported_version_is_named(version, stand_in, conv_chain, saved, out):
    stand_in(version, names="10.3")
    with pytest.raises(
        BuildError, match=rf"tensorrt {version} is not supported.* 8\.6 to before 9\.0, 10\.0 to before 11\.0"
    ):
        build_engine(saved(conv_chain()), out / "model.engine")


def test_a_version_with_a_known_fault_builds_with_a_note(stand_in, conv_chain, saved, out):
    stand_in("10.2.0.19", names="10.3")
    said = io.StringIO()
    build_engine(saved(conv_chain()), out / "model.engine", progress=LineProgress(said))
    assert "tensorrt 10.2.0.19: other exporters refuse this version" in said.getvalue()
    assert not flavour_named("tensorrt").warnings("10.20.0")


def test_tensorrt_without_a_gpu_says_so_and_is_not_replaced(stand_in, conv_chain, saved, out):
    stand_in("10.3.0", gpu=False)
    with pytest.raises(BuildError, match=r"tensorrt 10\.3\.0 could not start.*needs a GPU.*'tensorrt_rtx'"):
        build_engine(saved(conv_chain()), out / "model.engine")


def test_a_stub_that_cannot_be_imported_gives_way_to_rtx(tmp_path, monkeypatch, conv_chain, saved, out):
    """The package index has a ``tensorrt`` that installs everywhere and imports nowhere."""
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    package = tmp_path / "stub" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import tensorrt_libs_that_are_not_there\n")
    monkeypatch.syspath_prepend(package.parent)
    graph = saved(conv_chain())
    assert build_engine(graph, out / "model.engine").flavour == "tensorrt_rtx"
    for limit in (None, 1 << 30):
        with pytest.raises(
            MissingExtraError, match=r"tensorrt cannot be imported.*does not work: install it"
        ):
            build_engine(graph, out / "model.engine", flavour="tensorrt", memory_limit_bytes=limit)


def test_a_folder_of_that_name_is_no_library(tmp_path, monkeypatch):
    (tmp_path / "stray" / "tensorrt").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "stray")
    assert all(flavour.name != "tensorrt" for flavour in installed_flavours("tensorrt_rtx"))
    with pytest.raises(MissingExtraError):
        installed_flavours("tensorrt")


def test_without_any_tensorrt_the_error_says_how_to_get_one(tmp_path, monkeypatch, conv_chain, saved, out):
    graph = saved(conv_chain())
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'posedge\[tensorrt-rtx\]'"):
        build_engine(graph, out / "model.engine")


def test_an_unknown_flavour_names_the_known_ones(conv_chain, saved, out):
    with pytest.raises(
        BuildError, match=r"'tensorrt-rtx' is no TensorRT flavour.*'tensorrt' or 'tensorrt_rtx'"
    ):
        build_engine(saved(conv_chain()), out / "model.engine", flavour="tensorrt-rtx")


def test_choosing_a_flavour_imports_nothing():
    """The libraries weigh hundreds of megabytes; the command line asks for the flavour before it builds."""
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    program = (
        "import sys, posedge.engines as e; assert e.available_flavour('tensorrt_rtx').needs_gpu is False;"
        "heavy = {'tensorrt_rtx', 'tensorrt', 'onnx', 'torch'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    finished = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr


def test_the_installed_version_is_the_librarys_own():
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    assert installed_version(flavour_named("tensorrt_rtx")) == tensorrt_rtx.__version__


def test_every_flavours_releases_follow_one_another():
    for flavour in FLAVOURS:
        edges = [edge for release in flavour.releases for edge in (release.first, release.before)]
        assert edges == sorted(edges)


def test_a_version_that_is_none_is_refused():
    with pytest.raises(BuildError, match="'unknown', which is no version"):
        flavour_named("tensorrt").release("unknown")
