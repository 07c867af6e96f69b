"""Real data (``../shared`` beside the repository, or $POSEDGE_SHARED), and a network that is small."""

import functools
import http.server
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from posedge.engines import BatchProfile, BuildOptions
from posedge.options import DataPaths, DeployOptions
from posedge.runtime.spec import ModelSpec

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """Commands that tests start and interrupt must not inherit an ignored Ctrl-C, as shells give it to what
    they run in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests first, so that of two processes neither is left alone with one at the end."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared reference data; absent, it fails the test under CI and skips it elsewhere."""
    path = Path(os.environ.get("POSEDGE_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        reason = f"the shared reference data is not at {path} (set POSEDGE_SHARED to where it is)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def reference(shared: Path) -> Path:
    """Fixtures, manifests and facts of the original implementations."""
    return shared / "reference"


@pytest.fixture(scope="session")
def coco(shared: Path) -> Path:
    """Real images with keypoints: val.json, train.json, val_detections.json, images/."""
    return shared / "coco"


@pytest.fixture(scope="session")
def tinypose(shared: Path) -> Path:
    """A real trained model of 1.3 M parameters as an ONNX file."""
    return shared / "weights" / "pp_tinypose_256x192.onnx"


@pytest.fixture(scope="session")
def tinypose_spec() -> ModelSpec:
    """How PP-TinyPose is fed and read; the ONNX file itself does not say it."""
    return ModelSpec(name="pp_tinypose_256x192")


@pytest.fixture(scope="session")
def small_spec() -> ModelSpec:
    """The spec of ``small_pose``."""
    return ModelSpec(name="small_pose", input_wh=(48, 64), heatmap_wh=(12, 16))


@pytest.fixture(scope="session")
def small_pose(small_spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of a pose network with random weights: a strided stem, a residual block, 17 maps."""
    rng = np.random.default_rng(0)
    constants, nodes = [], []

    def conv(name: str, source: str, inside: int, outside: int, kernel: int, stride: int = 1) -> str:
        weight = rng.standard_normal((outside, inside, kernel, kernel)) * (2 / (inside * kernel**2)) ** 0.5
        constants.append(numpy_helper.from_array(weight.astype(np.float32), f"{name}.weight"))
        constants.append(
            numpy_helper.from_array(rng.standard_normal(outside).astype(np.float32), f"{name}.bias")
        )
        nodes.append(
            helper.make_node(
                "Conv",
                [source, f"{name}.weight", f"{name}.bias"],
                [f"{name}.out"],
                name,
                strides=[stride, stride],
                pads=[kernel // 2] * 4,
            )
        )
        return f"{name}.out"

    def relu(source: str) -> str:
        nodes.append(helper.make_node("Relu", [source], [f"{source}.relu"], f"{source}.relu"))
        return f"{source}.relu"

    stem = relu(conv("stem2", relu(conv("stem1", "input", 3, 16, 3, 2)), 16, 16, 3, 2))
    branch = conv("branch2", relu(conv("branch1", stem, 16, 16, 3)), 16, 16, 3)
    nodes.append(helper.make_node("Add", [branch, stem], ["sum"], "sum"))
    head = conv("head", relu("sum"), 16, 17, 1)
    nodes.append(helper.make_node("Identity", [head], ["heatmaps"], "output"))
    width, height = small_spec.input_wh
    graph = helper.make_graph(
        nodes,
        "small_pose",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, height, width])],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["n", 17, height // 4, width // 4])],
        constants,
    )
    path = tmp_path_factory.mktemp("small") / "small_pose.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        return None


@pytest.fixture
def small_zoo_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A model that the zoo has for one test; a server on this machine has its weights, the cache is empty."""
    import torch

    from posedge.export.zoo import ZOO
    from posedge.export.zoo_entry import PoseFigures, ZooEntry
    from posedge.files import sha256_file

    class Network(torch.nn.Sequential):
        def __init__(self) -> None:
            super().__init__(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 17, 3, 2, 1))

    served = tmp_path / "served"
    served.mkdir()
    torch.manual_seed(0)
    torch.save({"meta": {}, "state_dict": Network().state_dict()}, served / "weights")
    file = f"small_coco_64x48-{sha256_file(served / 'weights')[:8]}_20200727.pth"
    (served / "weights").rename(served / file)
    handler = functools.partial(_QuietHandler, directory=str(served))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    entry = ZooEntry(
        spec=ModelSpec(name="small_64x48", input_wh=(48, 64), heatmap_wh=(12, 16)),
        network=Network,
        parameters=1_465,
        macs=401_280,
        published=PoseFigures(0.1, 0.2, 0.3, 0.4, 0.5),
        checkpoint=f"http://127.0.0.1:{server.server_port}/{file}",
    )
    monkeypatch.setitem(ZOO, entry.name, entry)
    monkeypatch.setenv("POSEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield entry.name
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def options(small_pose: Path, small_spec: ModelSpec, coco: Path, tmp_path: Path) -> DeployOptions:
    """The main job with ``small_pose`` and few persons: it takes seconds."""
    spec = tmp_path / "spec.json"
    spec.write_text(small_spec.to_json())
    return DeployOptions(
        model=str(small_pose),
        output=tmp_path / "out",
        data=DataPaths(coco / "val.json", coco / "images", coco / "train.json"),
        spec=spec,
        flip_test=False,
        build=BuildOptions(BatchProfile(1, 2, 4)),
        calibration_crops=8,
        limit=12,
        batch_sizes=(1, 2),
        seconds=0.05,
    )
