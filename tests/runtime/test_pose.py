"""PoseEstimator on a network whose answer is known: each map is the brightness of one colour."""

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from posedge.errors import BundleError, DataError, DeviceError, SessionError
from posedge.runtime.bundle import VariantFiles, seal_bundle
from posedge.runtime.cuda.frames import Nv12Frame
from posedge.runtime.pose import PoseEstimator
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.spec import ModelSpec

# joint 0 sees the sum of all colours, joint 1 blue, joint 2 red (RGB input)
SPEC = ModelSpec(
    name="spots",
    input_wh=(48, 64),
    heatmap_wh=(12, 16),
    num_joints=3,
    mean=(0.0, 0.0, 0.0),
    std=(255.0, 255.0, 255.0),
    flip_pairs=((1, 2),),
    flip_shift=False,
    box_padding=1.0,
)
SEES = np.array([[1 / 3, 1 / 3, 1 / 3], [0, 0, 1], [1, 0, 0]], np.float32)


def spot_network(gain: float = 1.0) -> bytes:
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"]),
        helper.make_node("AveragePool", ["c"], ["heatmaps"], kernel_shape=[4, 4], strides=[4, 4]),
    ]
    graph = helper.make_graph(
        nodes,
        "spots",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 64, 48])],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["n", 3, 16, 12])],
        [numpy_helper.from_array(SEES[:, :, None, None] * np.float32(gain), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def spot_image(*spots: tuple[int, int, tuple[int, int, int]]) -> np.ndarray:
    """A black image with a square of 9 pixels around each (x, y), in the BGR colour given."""
    image = np.zeros((128, 192, 3), np.uint8)
    for x, y, colour in spots:
        image[y - 4 : y + 5, x - 4 : x + 5] = colour
    return image


WHITE, BLUE, RED = (255, 255, 255), (255, 0, 0), (0, 0, 255)
BOX = (0.0, 0.0, 96.0, 128.0)  # 2 pixels of the image are one of the input, 8 one of the heatmap
SECOND_BOX = (96.0, 0.0, 192.0, 128.0)


@pytest.fixture
def estimator() -> Iterator[PoseEstimator]:
    with PoseEstimator.from_session(OnnxRuntimeSession(spot_network(), SPEC, threads=1)) as pose:
        yield pose


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "fp32.onnx").write_bytes(spot_network())
    (tmp_path / "dim.onnx").write_bytes(spot_network(0.5))
    variants = {"fp32": VariantFiles("fp32.onnx"), "dim": VariantFiles("dim.onnx")}
    seal_bundle(tmp_path, SPEC, variants, "fp32")
    return tmp_path


def many_images() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images with 0, 1, 2 and up to 11 persons, each with a spot of its own."""
    rng = np.random.default_rng(3)
    images, boxes = [], []
    for persons in (1, 0, 2, 11, 1, 1, 0, 0, 0, 3, 8, 1):
        images.append(spot_image(*((int(x), int(y), WHITE) for x, y in rng.integers(10, 110, (3, 2)))))
        corner = rng.uniform(-20, 100, (persons, 2))
        boxes.append(np.concatenate([corner, corner + rng.uniform(30, 90, (persons, 2))], axis=1))
    return images, boxes


def test_joints_are_where_the_spots_are(estimator: PoseEstimator) -> None:
    image = spot_image((30, 40, WHITE), (60, 100, BLUE), (130, 60, RED))
    keypoints, scores = estimator(image, [BOX, SECOND_BOX])
    assert keypoints.shape == (2, 3, 2)
    assert scores.shape == (2, 3)
    assert keypoints.dtype == scores.dtype == np.float32
    np.testing.assert_allclose(keypoints[0, 0], (30, 40), atol=8)
    np.testing.assert_allclose(keypoints[1, 2], (130, 60), atol=8)
    assert 0.3 < scores[0, 0] <= 1
    assert 0.3 < scores[1, 2] <= 1
    assert scores[1, 1] == 0  # nothing blue in the second box


def test_colours_reach_the_network_in_the_specs_order() -> None:
    image = spot_image((60, 100, BLUE))
    for order, joint in (("rgb", 1), ("bgr", 2)):
        spec = dataclasses.replace(SPEC, colour_order=order)
        with PoseEstimator.from_session(OnnxRuntimeSession(spot_network(), spec)) as pose:
            _, scores = pose(image, [BOX])
        assert scores[0].argmax() == joint


def test_flip_test_mirrors_and_exchanges_left_and_right() -> None:
    """Blue is joint 1 as it stands and joint 2 in the mirror: each gets half of it at the same place."""
    image = spot_image((60, 100, BLUE))
    session = OnnxRuntimeSession(spot_network(), SPEC)
    with PoseEstimator.from_session(session) as plain:
        before, full = plain(image, [BOX])
        with PoseEstimator.from_session(session, flip_test=True) as flipped:
            keypoints, scores = flipped(image, [BOX])
    np.testing.assert_allclose(scores[0, 1:], full[0, 1] / 2, rtol=1e-3)
    np.testing.assert_allclose(keypoints[0, 1], before[0, 1], atol=4)
    np.testing.assert_allclose(keypoints[0, 2], before[0, 1], atol=4)


def test_nobody_gives_empty_arrays(estimator: PoseEstimator) -> None:
    keypoints, scores = estimator(spot_image(), np.zeros((0, 4)))
    assert keypoints.shape == (0, 3, 2)
    assert scores.shape == (0, 3)
    assert keypoints.dtype == scores.dtype == np.float32


def test_scores_stay_in_range_and_broken_maps_score_zero() -> None:
    """MSRA's maxima overshoot 1; a variant that overflows gives maps of NaN."""
    for gain, expected in ((50.0, 1.0), (np.nan, 0.0)):
        with PoseEstimator.from_session(OnnxRuntimeSession(spot_network(gain), SPEC)) as pose:
            _, scores = pose(spot_image((30, 40, WHITE)), [BOX])
        assert scores.tolist() == [[expected] * 3]


@pytest.mark.parametrize("max_batch", [1, 3, 8, 100])
def test_stream_equals_one_call_per_image(max_batch: int) -> None:
    """Persons of several images share batches, and large images are cut; the results do not show it."""
    images, boxes = many_images()
    with PoseEstimator.from_session(OnnxRuntimeSession(spot_network(), SPEC), max_batch=max_batch) as pose:
        streamed = list(pose.stream(iter(images), iter(boxes)))
    with PoseEstimator.from_session(OnnxRuntimeSession(spot_network(), SPEC)) as pose:
        single = [pose(image, image_boxes) for image, image_boxes in zip(images, boxes, strict=True)]
    assert len(streamed) == len(images)
    for got, want in zip(streamed, single, strict=True):
        np.testing.assert_allclose(got[0], want[0], atol=1e-3)
        np.testing.assert_allclose(got[1], want[1], atol=1e-5)


def test_images_without_persons_do_not_hold_the_stream_up(estimator: PoseEstimator) -> None:
    """An endless camera that sees nobody still gets its (empty) results."""

    def empty_street() -> Iterator[np.ndarray]:
        while True:
            yield spot_image()

    def nobody() -> Iterator[np.ndarray]:
        while True:
            yield np.zeros((0, 4))

    with closing(estimator.stream(empty_street(), nobody())) as results:
        for _ in range(20):
            assert next(results)[0].shape == (0, 3, 2)


def test_an_image_waits_for_a_bounded_number_of_others() -> None:
    taken = []

    def images() -> Iterator[np.ndarray]:
        for index in range(10_000):
            taken.append(index)
            yield spot_image((30, 40, WHITE))

    boxes = ([BOX] for _ in range(10_000))
    session = OnnxRuntimeSession(spot_network(), SPEC)
    with (
        PoseEstimator.from_session(session, max_batch=4) as pose,
        closing(pose.stream(images(), boxes)) as results,
    ):
        next(results)
    assert len(taken) < 100


@pytest.mark.parametrize(
    ("image", "boxes", "message"),
    [
        (spot_image(), [BOX, (0, 0, np.nan, 9)], "box 1"),
        (spot_image(), [BOX] * 10 + [(5, 5, 5, 9)], "box 10"),  # beyond the first batch
        (spot_image(), [(500, 500, 600, 600)], "box 0"),
        (spot_image().astype(np.float32), [BOX], "float32"),
        (spot_image()[..., 0], [BOX], "shape"),
    ],
)
def test_bad_input_is_named_and_keeps_its_place(
    estimator: PoseEstimator, image: np.ndarray, boxes: list[tuple[float, ...]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        estimator(image, boxes)
    good = spot_image((30, 40, WHITE))
    results = estimator.stream([good, good, image, good], [[BOX], [BOX], boxes, [BOX]])
    assert [len(next(results)[0]) for _ in range(2)] == [1, 1]
    with pytest.raises(DataError, match=f"image 2: .*{message}"):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("posedge-")]


def test_an_error_of_the_callers_generator_arrives_as_it_is(estimator: PoseEstimator) -> None:
    def images() -> Iterator[np.ndarray]:
        yield spot_image()
        raise OSError("camera unplugged")

    results = estimator.stream(images(), [[BOX], [BOX]])
    assert next(results)[0].shape == (1, 3, 2)
    with pytest.raises(OSError, match="camera unplugged"):
        next(results)


@pytest.mark.parametrize(("images", "boxes", "short"), [(2, 3, "images"), (3, 2, "boxes")])
def test_images_and_boxes_must_be_equally_many(
    estimator: PoseEstimator, images: int, boxes: int, short: str
) -> None:
    with pytest.raises(DataError, match=f"{short} ran out after 2"):
        list(estimator.stream([spot_image()] * images, [[BOX]] * boxes))


def test_a_bundle_runs_the_variant_that_is_asked_for(bundle: Path) -> None:
    image = spot_image((30, 40, WHITE))
    with PoseEstimator(bundle) as pose:
        assert pose.variant == "fp32"
        assert pose.spec == SPEC
        keypoints, scores = pose(image, [BOX])
    with PoseEstimator(str(bundle), variant="dim", threads=1) as pose:
        assert pose.variant == "dim"
        same, dimmer = pose(image, [BOX])
    np.testing.assert_allclose(same, keypoints, atol=1e-3)
    np.testing.assert_allclose(dimmer, scores / 2, atol=1e-5)
    with pytest.raises(BundleError, match="'int4'; it has fp32, dim"):
        PoseEstimator(bundle, variant="int4")


def test_without_a_gpu_it_says_why_the_cpu_runs(bundle: Path) -> None:
    with PoseEstimator(bundle) as pose:
        assert (pose.device, pose.no_gpu) == ("cpu", "the variant fp32 has no engine")
    with PoseEstimator(bundle, device="cpu") as pose:
        assert (pose.device, pose.no_gpu) == ("cpu", "the CPU was asked for")
    with pytest.raises(DeviceError, match=r"no GPU can be used: .*device='cpu'"):
        PoseEstimator(bundle, device="cuda")
    with pytest.raises(DeviceError, match="'tpu' is no device"):
        PoseEstimator(bundle, device="tpu")  # type: ignore[arg-type]


def test_the_stages_of_an_image_on_the_cpu(estimator: PoseEstimator) -> None:
    estimator.warmup((40, 30), [1, 2])
    times = estimator.profile(spot_image(), [BOX] * 9, rounds=2)
    assert list(times) == ["warp", "network", "decode"]
    assert all(time > 0 for time in times.values())
    with pytest.raises(DataError, match="rounds is 0"):
        estimator.profile(spot_image(), [BOX], rounds=0)


def test_arrays_of_other_libraries_by_dlpack(estimator: PoseEstimator) -> None:
    class Lent:
        """Lends a numpy array as another library would."""

        def __init__(self, array: np.ndarray) -> None:
            self.__dlpack__ = array.__dlpack__
            self.__dlpack_device__ = array.__dlpack_device__

    image = spot_image((30, 40, WHITE))
    np.testing.assert_array_equal(estimator(Lent(image), [BOX])[0], estimator(image, [BOX])[0])
    with pytest.raises(DataError, match="has shape"):
        estimator(Lent(image[..., 0]), [BOX])


def test_an_altered_bundle_does_not_run(bundle: Path) -> None:
    (bundle / "fp32.onnx").write_bytes(spot_network(2.0))
    with pytest.raises(BundleError, match=r"fp32\.onnx"):
        PoseEstimator(bundle)


def test_a_closed_estimator_says_so(bundle: Path) -> None:
    pose = PoseEstimator(bundle)
    pose.close()
    pose.close()
    with pytest.raises(SessionError, match="closed"):
        pose(spot_image(), [BOX])
    with pytest.raises(SessionError, match="closed"):
        pose.stream([], [])


def test_closing_under_a_running_stream_ends_it(estimator: PoseEstimator) -> None:
    results = estimator.stream((spot_image() for _ in range(10_000)), ([BOX] for _ in range(10_000)))
    next(results)
    estimator.close()
    with pytest.raises(SessionError, match="closed"):
        for _ in results:
            pass


@pytest.mark.parametrize("image_wh", [(-1, 5), (0, 0), (80, 100.5), (80,), None, 80, (10**9, 10**9)])
def test_a_warm_up_for_what_is_no_image_is_refused(estimator: PoseEstimator, image_wh: object) -> None:
    with pytest.raises(DataError, match=r"image_wh|does not fit into memory"):
        estimator.warmup(image_wh)  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [[0], [-1], [2, 1.5], 3])
def test_a_warm_up_for_what_is_no_batch_is_refused(estimator: PoseEstimator, sizes: object) -> None:
    with pytest.raises(DataError, match="sizes"):
        estimator.warmup((80, 100), sizes)  # type: ignore[arg-type]
    estimator.warmup((np.int64(80), np.int32(100)), np.array([1, 2]))


@pytest.mark.parametrize("rounds", [-1, "a", 1.5, None])
def test_a_profile_has_whole_rounds(estimator: PoseEstimator, rounds: object) -> None:
    with pytest.raises(DataError, match="rounds is "):
        estimator.profile(np.zeros((9, 9, 3), np.uint8), [(0, 0, 9, 9)], rounds)  # type: ignore[arg-type]


def test_nv12_needs_a_gpu(estimator: PoseEstimator) -> None:
    frame = Nv12Frame(np.zeros((8, 8), np.uint8), np.zeros((4, 8), np.uint8))
    with pytest.raises(DataError, match="NV12 frame, which needs an estimator with device='cuda'"):
        estimator(frame, [BOX])


def test_an_unknown_colour_standard_is_refused_at_once(bundle: Path) -> None:
    with pytest.raises(DataError, match="colour standard of NV12 is 'bt2020'; it must be one of bt601"):
        PoseEstimator(bundle, yuv="bt2020")
    with (
        OnnxRuntimeSession(spot_network(), SPEC) as session,
        pytest.raises(DataError, match="colour standard"),
    ):
        PoseEstimator.from_session(session, yuv="bt2020")


def test_a_batch_holds_at_least_one_person() -> None:
    with pytest.raises(DataError, match="max_batch"):
        PoseEstimator.from_session(OnnxRuntimeSession(spot_network(), SPEC), max_batch=0)
