"""The estimator on a device: keypoints as on the CPU, memory that stays, threads, a bad engine."""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from posedge.benchmarks.gpu.bench import CountingDriver
from posedge.benchmarks.gpu.networks import bundle_session
from posedge.benchmarks.gpu.scenes import draw_boxes, draw_frame
from posedge.benchmarks.gpu.torch_network import TorchNetwork
from posedge.errors import PosedgeError, SessionError
from posedge.runtime.bundle import open_bundle
from posedge.runtime.cuda.context import Context
from posedge.runtime.cuda.driver import open_driver
from posedge.runtime.cuda.gpu import what_is_missing
from posedge.runtime.cuda.memory import DeviceBuffer
from posedge.runtime.cuda.streams import Stream
from posedge.runtime.pose import PoseEstimator
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.sessions.tensorrt import TensorRTSession

Picture = tuple[np.ndarray, np.ndarray]


@dataclass
class Model:
    """A network as a session on the device and as a graph, and pictures that it finds joints in.

    graph: None where the torch stack stands in for the network; ``no_engine`` then says why.
    """

    session: TensorRTSession | TorchNetwork
    graph: Path | None
    pictures: list[Picture]
    driver: CountingDriver
    no_engine: str = ""

    def needs_an_engine(self) -> None:
        if self.graph is None:
            pytest.skip(self.no_engine)


@pytest.fixture
def model(device: str | None, request: pytest.FixtureRequest) -> Iterator[Model | None]:
    """On a device the engine of POSEDGE_TEST_BUNDLE, or the torch stack; on the stand-in a small network."""
    if device is None:
        yield None
        return
    driver = CountingDriver(open_driver())
    with Context(driver=driver) as context:
        if device == "stand-in":
            engine, spec = request.getfixturevalue("engine"), request.getfixturevalue("small_spec")
            session = TensorRTSession(engine(), spec, context=context)
            yield Model(session, request.getfixturevalue("small_pose"), noise(), driver)
            return
        yield on_a_gpu(context, driver)


def on_a_gpu(context: Context, driver: CountingDriver) -> Model:
    try:
        return of_a_bundle(context, driver)
    except NoEngineError as error:
        no_engine = str(error)
    try:
        session = TorchNetwork(context, Stream(context), 8)
    except PosedgeError as error:
        pytest.skip(f"{no_engine}; no stand-in for the network: {error}")
    return Model(session, None, noise(), driver, no_engine)


class NoEngineError(Exception):
    """Why no engine can run on the device."""


def of_a_bundle(context: Context, driver: CountingDriver) -> Model:
    if "POSEDGE_TEST_BUNDLE" not in os.environ:
        raise NoEngineError("POSEDGE_TEST_BUNDLE does not name a bundle whose engine could run here")
    bundle = open_bundle(Path(os.environ["POSEDGE_TEST_BUNDLE"]))
    files = bundle.variant(bundle.default_variant)
    libraries = ["tensorrt", "tensorrt_rtx"] if files.built is None else [files.built.target.library]
    missing = [what_is_missing(library=library) for library in libraries]
    if all(missing):
        raise NoEngineError(f"no engine can be run: {missing[0].message}")
    try:
        session = bundle_session(context, bundle, bundle.default_variant, 8)
    except PosedgeError as error:
        raise NoEngineError(f"the engine does not run here: {error}") from error
    return Model(session, bundle.path(files.graph), drawn(), driver)


def noise() -> list[Picture]:
    return [
        (draw_frame((160 + 10 * seed, 120), seed), draw_boxes(1 + seed, (160, 120), seed))
        for seed in range(4)
    ]


def drawn() -> list[Picture]:
    """Pictures of figures, on which the joints of a trained network are where they are."""
    pytest.importorskip("cv2")
    from posedge.benchmarks.drawn.scene import sample_scene

    pictures = []
    for seed in range(8):
        image, figures = sample_scene(seed)
        boxes = np.array([figure.box_xywh for figure in figures], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        pictures.append((image, boxes))
    return pictures


@pytest.mark.parametrize("flip_test", [False, True])
def test_keypoints_are_those_of_the_cpu(model: Model, flip_test: bool) -> None:
    model.needs_an_engine()
    pytest.importorskip("onnxruntime")
    cpu = OnnxRuntimeSession(model.graph, model.session.spec)
    with (
        PoseEstimator.from_session(cpu, flip_test) as on_cpu,
        PoseEstimator.from_session(model.session, flip_test) as on_gpu,
    ):
        assert on_gpu.no_gpu is None
        streamed = on_gpu.stream(*zip(*model.pictures, strict=True))
        for (image, boxes), found in zip(model.pictures, streamed, strict=True):
            wanted = on_cpu(image, boxes)
            for keypoints, scores in (found, on_gpu(image, boxes)):
                np.testing.assert_allclose(keypoints, wanted[0], rtol=0, atol=0.05)
                np.testing.assert_allclose(scores, wanted[1], rtol=0, atol=0.01)


def test_a_frame_on_the_device_is_read_where_it_is(model: Model) -> None:
    image, boxes = model.pictures[2]
    image = np.ascontiguousarray(image)
    context = model.session.context
    with PoseEstimator.from_session(model.session) as pose, DeviceBuffer(context, image.nbytes) as buffer:
        buffer.upload(image, stream=model.session.stream)
        model.session.stream.synchronize()
        frame = SimpleNamespace(
            __cuda_array_interface__={
                "shape": image.shape,
                "typestr": "|u1",
                "data": (buffer.address, False),
                "version": 3,
            }
        )
        there, here = pose(frame, boxes), pose(image, boxes)
    np.testing.assert_allclose(there[0], here[0], rtol=0, atol=0.05)


def test_memory_stays_flat_and_nothing_is_allocated(model: Model, frames: int) -> None:
    with PoseEstimator.from_session(model.session) as pose:

        def run(count: int) -> None:
            """Frames of one size with two persons each, so that every batch is like every other."""
            for _ in pose.stream(repeat(draw_frame((160, 120)), count), repeat(boxes, count)):
                pass

        boxes = draw_boxes(2, (160, 120))
        run(80)
        free, _ = model.session.context.memory_info()
        allocations = model.driver.allocations
        run(frames)
        assert model.driver.allocations == allocations
        assert model.session.context.memory_info()[0] >= free


def test_two_threads_share_an_estimator(model: Model) -> None:
    wrong: list[str] = []
    with PoseEstimator.from_session(model.session) as pose:
        wanted = [pose(image, boxes) for image, boxes in model.pictures]

        def work() -> None:
            for _ in range(5):
                for (image, boxes), (keypoints, _) in zip(model.pictures, wanted, strict=True):
                    if np.abs(pose(image, boxes)[0] - keypoints).max(initial=0) > 0.05:
                        wrong.append("other keypoints")

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_batch_is_replayed_as_a_graph_with_the_same_result(model: Model) -> None:
    """The first call of a size runs plainly, those after it from a graph, where the library allows one."""
    with PoseEstimator.from_session(model.session) as pose:
        image, boxes = model.pictures[2]
        first, *others = [pose(image, boxes)[0] for _ in range(4)]
        for keypoints in others:
            np.testing.assert_allclose(keypoints, first, rtol=0, atol=0.05)


def test_bytes_that_are_no_engine_are_refused_and_leave_nothing(model: Model) -> None:
    model.needs_an_engine()
    context, spec = model.session.context, model.session.spec
    free, _ = context.memory_info()
    with pytest.raises(SessionError, match="the engine"):
        TensorRTSession(b"no engine", spec, library=model.session.name, context=context)
    assert context.memory_info()[0] >= free
