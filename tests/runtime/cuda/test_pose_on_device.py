"""PoseEstimator on the stand-ins for libcuda and TensorRT gives what it gives on the CPU."""

import dataclasses
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from posedge.runtime.cuda.context import Context
from posedge.runtime.cuda.workspace import Workspace
from posedge.runtime.pose import PoseEstimator
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.sessions.tensorrt import TensorRTSession
from posedge.runtime.spec import ModelSpec

pytestmark = [pytest.mark.stand_in, pytest.mark.usefixtures("kernel_cache")]

Engine = Callable[..., bytes]
Picture = tuple[np.ndarray, np.ndarray]
PIXELS = 0.05


@pytest.fixture(scope="module")
def pictures(reference: Path) -> list[Picture]:
    """Real images (BGR) with the boxes of their persons."""
    cv2 = pytest.importorskip("cv2")
    boxes: dict[str, list[list[float]]] = {}
    for box in json.loads((reference / "fixtures" / "boxes_gt.json").read_text("utf-8"))["boxes"]:
        boxes.setdefault(box["img"], []).append(box["bbox_xyxy"])
    return [
        (cv2.imread(str(reference / "images" / name)), np.array(found[:2], np.float32))
        for name, found in list(boxes.items())[:4]
    ]


@pytest.fixture
def small_pictures(pictures: list[Picture]) -> list[Picture]:
    """A person for each of the first pictures, none for one, and 11 for another."""
    persons = (1, 2, 0, 1, 11, 1, 3)
    return [
        (image, np.resize(boxes, (count, 4)))
        for (image, boxes), count in zip(pictures * 4, persons, strict=False)
    ]


def assert_alike(found: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_allclose(found[0], wanted[0], rtol=0, atol=PIXELS)
    np.testing.assert_allclose(found[1], wanted[1], rtol=0, atol=0.01)


@pytest.mark.parametrize("flip_test", [False, True])
def test_a_real_model_on_real_images(
    tinypose: Path, tinypose_spec: ModelSpec, pictures: list[Picture], flip_test: bool, cuda
) -> None:
    import fake_trt

    engine = fake_trt.engine_bytes(tinypose.read_bytes(), largest=8)
    with (
        PoseEstimator.from_session(OnnxRuntimeSession(tinypose, tinypose_spec, 1), flip_test) as on_cpu,
        PoseEstimator.from_session(TensorRTSession(engine, tinypose_spec, graphs=0), flip_test) as pose,
    ):
        assert (on_cpu.device, pose.device) == ("cpu", "stand-in device")
        assert pose.no_gpu is None
        wanted = [on_cpu(image, boxes) for image, boxes in pictures]
        assert_alike(pose(*pictures[0]), wanted[0])
        streamed = pose.stream((image for image, _ in pictures), (boxes for _, boxes in pictures))
        for found, keypoints in zip(streamed, wanted, strict=True):
            assert_alike(found, keypoints)


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize(("flip_test", "largest"), [(False, 4), (True, 4), (True, 1)])
@pytest.mark.parametrize("half", [False, True])
def test_stream_and_call_as_on_the_cpu(
    engine: Engine,
    small_pose: Path,
    small_spec: ModelSpec,
    small_pictures: list[Picture],
    library: str,
    flip_test: bool,
    largest: int,
    half: bool,
    cuda,
) -> None:
    """Images share batches and large ones are cut; the engine takes 4 crops at once, or 1."""
    session = TensorRTSession(engine(largest=largest, half=half), small_spec, library=library)
    with (
        PoseEstimator.from_session(OnnxRuntimeSession(small_pose, small_spec, 1), flip_test) as on_cpu,
        PoseEstimator.from_session(session, flip_test) as pose,
    ):
        images, boxes = zip(*small_pictures, strict=True)
        called = [pose(*picture) for picture in small_pictures]
        again = [pose(*picture) for picture in small_pictures]  # by graphs
        with closing(pose.stream(images, boxes)) as results:
            streamed = list(results)
        for first, second, third in zip(called, again, streamed, strict=True):
            for one, other, another in zip(first, second, third, strict=True):
                np.testing.assert_array_equal(one, other)
                np.testing.assert_allclose(one, another, atol=1e-3)
        if not half:  # random maps have their maxima anywhere
            for found, picture in zip(called, small_pictures, strict=True):
                assert_alike(found, on_cpu(*picture))


def distributions(spec: ModelSpec) -> bytes:
    """A SimCC network: each joint sees a mix of the colours, along each axis its maximum."""
    weights = np.random.default_rng(0).standard_normal((spec.num_joints, 3, 5, 5)).astype(np.float32)
    width, height = spec.input_wh
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["seen"], pads=[2, 2, 2, 2]),
        helper.make_node("ReduceMax", ["seen"], ["simcc_x"], axes=[2], keepdims=0),
        helper.make_node("ReduceMax", ["seen"], ["simcc_y"], axes=[3], keepdims=0),
    ]
    shapes = {"simcc_x": ["n", spec.num_joints, width], "simcc_y": ["n", spec.num_joints, height]}
    graph = helper.make_graph(
        nodes,
        "simcc",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, height, width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("codec", ["msra", "unbiased", "megvii", "simcc"])
def test_every_codec(
    codec: str,
    flip_test: bool,
    small_pose: Path,
    small_spec: ModelSpec,
    small_pictures: list[Picture],
    cuda,
) -> None:
    import fake_trt

    spec, model = dataclasses.replace(small_spec, codec=codec, blur_kernel=5), small_pose.read_bytes()
    if codec == "simcc":
        spec = dataclasses.replace(spec, output_name="simcc_x", split_ratio=1.0)
        model = distributions(spec)
    session = TensorRTSession(fake_trt.engine_bytes(model), spec, graphs=0)
    with (
        PoseEstimator.from_session(OnnxRuntimeSession(model, spec, 1), flip_test) as on_cpu,
        PoseEstimator.from_session(session, flip_test) as pose,
    ):
        for picture in small_pictures[:4]:
            assert_alike(pose(*picture), on_cpu(*picture))


def test_estimators_whose_engines_share_their_memory(
    engine: Engine, small_spec: ModelSpec, small_pictures: list[Picture], cuda
) -> None:
    """The memory moves when the second engine comes; the graphs of the first one know nothing of it."""
    with Context() as context, Workspace(context) as workspace:

        def opened(size: int) -> PoseEstimator:
            session = TensorRTSession(
                engine(workspace=size), small_spec, context=context, workspace=workspace
            )
            return PoseEstimator.from_session(session)

        with opened(1000) as pose:
            wanted = [pose(*picture) for picture in small_pictures]
            with opened(300_000) as other:
                for estimator in (pose, other, pose):
                    for picture, expected in zip(small_pictures, wanted, strict=True):
                        np.testing.assert_array_equal(estimator(*picture)[0], expected[0])
