"""Which TensorRT is chosen, and how each version is asked: full TensorRT is played by stand-in modules.

A stand-in has the attributes that the version has and no others, so asking for one that is gone fails.
Its engine is a JSON text of what it was asked.
"""

import json
import os
import subprocess
import sys

import pytest

from posedge.engines import available_flavour, build_engine
from posedge.engines.flavours import FLAVOURS, flavour_named, installed_flavours, installed_version
from posedge.errors import BuildError, MissingExtraError

STAND_IN = """
import enum, json
__version__ = "{version}"

class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)
    def __init__(self): pass

class IProgressMonitor:
    def __init__(self): pass

class NetworkDefinitionCreationFlag(enum.IntEnum):
    {flags}

class Tensor:
    name = "input"
    shape = (-1, 3, 16, 16)

class Network:
    num_inputs = num_outputs = 1
    def get_input(self, index): return Tensor
    def get_output(self, index): return Tensor

class Profile:
    def set_shape(self, name, smallest, usual, largest): self.shapes = [smallest, usual, largest]

class Config:
    def add_optimization_profile(self, profile): self.profile = profile

class Builder:
    def __init__(self, logger):
        if not {gpu}:
            # what the bindings do when the library's constructor returns nothing
            raise TypeError("pybind11::init(): factory function returned nullptr")
    def create_network(self, flags):
        self.flags = flags
        return Network()
    def create_builder_config(self): return Config()
    def create_optimization_profile(self): return Profile()
    def build_serialized_network(self, network, config):
        monitor = config.progress_monitor
        monitor.phase_start("build", None, 2)
        assert monitor.step_complete("build", 0)
        monitor.phase_finish("build")
        return json.dumps({{"flags": self.flags, "shapes": config.profile.shapes, "pad": " " * 64}}).encode()

class OnnxParser:
    def __init__(self, network, logger): pass
    def parse_from_file(self, path): return True
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a module ``tensorrt`` of a version on the import path."""

    def install(version: str, flags: str = "STRONGLY_TYPED = 1", gpu: bool = True) -> None:
        package = tmp_path / "stand_in" / "tensorrt"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(STAND_IN.format(version=version, flags=flags, gpu=gpu))
        monkeypatch.syspath_prepend(package.parent)

    return install


@pytest.mark.parametrize(
    ("version", "flags", "asked"),
    [
        ("10.3.0", "EXPLICIT_BATCH = 0; STRONGLY_TYPED = 1", 2),  # JetPack 6.2
        ("10.16.2.4", "EXPLICIT_BATCH = 0; STRONGLY_TYPED = 1", 2),  # JetPack 7.2.1
        ("10.99.0", "STRONGLY_TYPED = 3", 8),  # wherever the flag is, it is found by its name
        ("11.4.1.7", "STRONGLY_TYPED = 0", 0),  # always strongly typed
    ],
)
def test_tensorrt_is_preferred_and_asked_as_its_version_wants(
    version, flags, asked, stand_in, conv_chain, saved, out
):
    stand_in(version, flags)
    assert available_flavour().name == "tensorrt"
    result = build_engine(saved(conv_chain()), out / "model.engine")
    assert (result.flavour, result.version) == ("tensorrt", version)
    engine = json.loads((out / "model.engine").read_text())
    assert engine["flags"] == asked
    assert engine["shapes"] == [[1, 3, 16, 16], [8, 3, 16, 16], [32, 3, 16, 16]]


@pytest.mark.parametrize("version", ["8.6.2", "9.3.0", "12.0.1"])
def test_an_unsupported_version_is_named(version, stand_in, conv_chain, saved, out):
    stand_in(version)
    with pytest.raises(BuildError, match=rf"tensorrt {version} is not supported.*from 10\.0 up to.*12\.0"):
        build_engine(saved(conv_chain()), out / "model.engine")


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
    with pytest.raises(MissingExtraError, match="tensorrt cannot be imported"):
        build_engine(graph, out / "model.engine", flavour="tensorrt")


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
