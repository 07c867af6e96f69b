"""What the estimator on a GPU holds and does, on stand-ins: nothing is allocated after the first batches."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import pytest

from posedge.errors import DataError, DeviceError, SessionError
from posedge.runtime.cuda import slots
from posedge.runtime.cuda.pipeline import DevicePipeline
from posedge.runtime.pose import PoseEstimator
from posedge.runtime.sessions.tensorrt import TensorRTSession
from posedge.runtime.spec import ModelSpec

pytestmark = [pytest.mark.stand_in, pytest.mark.usefixtures("kernel_cache")]

ALLOCATIONS = ("cuMemAlloc", "cuMemHostAlloc", "cuGraphInstantiate", "cuEventCreate", "cuStreamCreate")
BOX = (4.0, 4.0, 60.0, 90.0)


@pytest.fixture
def make(engine: Callable[..., bytes], small_spec: ModelSpec, cuda) -> Callable[..., PoseEstimator]:
    def made(
        library: str = "tensorrt", flip_test: bool = False, max_batch: int = 8, **header: object
    ) -> PoseEstimator:
        session = TensorRTSession(engine(**header), small_spec, library=library, graphs=0)
        return PoseEstimator.from_session(session, flip_test, max_batch)

    return made


def pictures(count: int, height: int = 100, width: int = 80) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield rng.integers(0, 256, (height, width, 3), np.uint8)


def device_calls(cuda) -> list[str]:
    """What was asked of the driver, without what only concerns the host."""
    return [name for name in cuda.log() if not name.startswith(("cuCtx", "cuLaunchHostFunc"))]


def test_a_frame_is_one_upload_one_graph_and_one_download(make, cuda) -> None:
    (image,) = pictures(1)
    with make(flip_test=True) as pose:
        pose.warmup((80, 100), [3])
        cuda.clear_log()
        pose(image, [BOX] * 3)
        calls = device_calls(cuda)
    assert calls == [
        *("cuMemcpyHtoDAsync", "cuEventRecord"),  # the image, on the stream of uploads
        *("cuStreamWaitEvent", "cuMemcpyHtoDAsync", "cuGraphLaunch", "cuMemcpyDtoHAsync", "cuEventRecord"),
        "cuEventSynchronize",
    ]


def test_a_library_that_captures_itself_runs_between_two_graphs(make, cuda) -> None:
    (image,) = pictures(1)
    with make("tensorrt_rtx") as pose:
        pose.warmup((80, 100), [1])
        assert cuda.live()["executables"] == 4  # of batches of 1 and 8
        cuda.clear_log()
        pose(image, [BOX])
        assert device_calls(cuda).count("cuGraphLaunch") == 2


def test_nothing_is_allocated_after_the_warm_up(make, cuda) -> None:
    images = list(pictures(40))
    boxes = [[BOX] * (index % 4) for index in range(40)]
    with make() as pose:
        pose.warmup((80, 100))
        assert pose._pipeline.graph_sizes == tuple(range(1, 9))
        allocations, living, used = [cuda.calls(name) for name in ALLOCATIONS], cuda.live(), cuda.used
        first = list(pose.stream(images, boxes))
        called = [pose(image, image_boxes) for image, image_boxes in zip(images, boxes, strict=True)]
        for _ in range(3):
            for found, again in zip(pose.stream(images, boxes), first, strict=True):
                np.testing.assert_array_equal(found[0], again[0])
            for image, image_boxes, before in zip(images, boxes, called, strict=True):
                np.testing.assert_array_equal(pose(image, image_boxes)[0], before[0])
        assert [cuda.calls(name) for name in ALLOCATIONS] == allocations
        assert (cuda.live(), cuda.used) == (living, used)


def test_large_images_go_through_little_pinned_memory(make, cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is that of two rows here: an image takes 50 pieces, and arrives whole."""
    images = list(pictures(3))
    with make() as pose:
        wanted = list(pose.stream(images, [[BOX]] * 3))
    monkeypatch.setattr(slots, "STAGING_BYTES", 480)
    monkeypatch.setattr(slots, "_STEP", 480)
    with make() as pose:
        for found, expected in zip(pose.stream(images, [[BOX]] * 3), wanted, strict=True):
            np.testing.assert_array_equal(found[0], expected[0])
        cuda.clear_log()
        pose(images[0], [BOX])
        assert cuda.log().count("cuMemcpyHtoDAsync") == 51  # and the records


def test_a_refused_capture_is_said_and_done_without(make, cuda) -> None:
    (image,) = pictures(1)
    with make() as pose:
        wanted = pose(image, [BOX] * 2)
    with make(waits=True) as pose:  # as engines do that cannot be captured
        for _ in range(2):
            np.testing.assert_array_equal(pose(image, [BOX] * 2)[0], wanted[0])
        pipeline = pose._pipeline
        assert isinstance(pipeline, DevicePipeline)
        assert str(pipeline.no_graphs).startswith("a capture was refused: ")
        assert pipeline.graph_sizes == ()


def test_the_largest_batches_of_many_are_captured(make, cuda) -> None:
    (image,) = pictures(1)
    with make(largest=20, max_batch=20) as pose:
        pose.warmup((80, 100))
        assert pose._pipeline.graph_sizes == tuple(range(5, 21))
        assert "16 batch sizes are captured" in str(pose._pipeline.no_graphs)
        cuda.clear_log()
        pose(image, [BOX] * 20)
        assert cuda.log().count("cuGraphLaunch") == 1
    with make(largest=18, max_batch=18) as pose:  # not warmed up: the largest comes last
        for count in range(1, 19):
            pose(image, [BOX] * count)
        assert pose._pipeline.graph_sizes == (*range(1, 17), 18)
    with make() as pose:
        pose.warmup((80, 100))
        assert pose._pipeline.no_graphs is None


def test_a_call_inside_the_loop_over_a_stream(make, cuda) -> None:
    images = list(pictures(30))
    with make() as pose:
        wanted = [pose(image, [BOX]) for image in images]
        for index, found in enumerate(pose.stream(images, [[BOX]] * 30)):
            np.testing.assert_allclose(found[0], wanted[index][0], atol=1e-3)
            np.testing.assert_array_equal(pose(images[-index], [BOX])[0], wanted[-index][0])


def test_threads_share_an_estimator(make, cuda) -> None:
    images = list(pictures(8))
    found: dict[int, list[np.ndarray]] = {}
    with make(flip_test=True) as pose:
        wanted = [pose(image, [BOX] * 3)[0] for image in images]

        def work(index: int) -> None:
            found[index] = [pose(images[index], [BOX] * 3)[0] for _ in range(10)]

        threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for index, expected in enumerate(wanted):
            np.testing.assert_array_equal(found[index], [expected] * 10)


def test_the_next_image_goes_up_while_the_network_runs(make, cuda) -> None:
    """The network ends only after the next image's upload: one batch at a time would wait for ever."""
    copies = cuda.calls("cuMemcpyHtoDAsync")
    first = 1 + 8 + 1  # the decoder's constants, the images of a batch, its records
    with make(until_copies=copies + first + 1) as pose:
        assert len(list(pose.stream(pictures(16), [[BOX]] * 16))) == 16


def test_a_stream_that_is_left_early_leaves_the_estimator_usable(make, cuda) -> None:
    def endless() -> Iterator[np.ndarray]:
        while True:
            yield from pictures(8)

    boxes = iter(lambda: [BOX] * 3, None)
    with make(largest=2) as pose:
        (image,) = pictures(1)
        wanted = pose(image, [BOX])
        for _ in range(3):
            with closing(pose.stream(endless(), boxes)) as results:
                next(results)
        np.testing.assert_array_equal(pose(image, [BOX])[0], wanted[0])


def test_what_ends_early_waits_for_the_device(make, cuda) -> None:
    """Else the next user's images would be written over those that the device still reads."""
    (image,) = pictures(1)
    with make() as pose:
        pose.warmup((80, 100), [1])
        for work in (lambda: pose(image, [BOX]), lambda: list(pose.stream([image] * 32, [[BOX]] * 32))):
            waits = cuda.calls("cuStreamSynchronize")
            work()
            assert cuda.calls("cuStreamSynchronize") == waits
            cuda.fail("cuEventSynchronize", 1, 1)
            with pytest.raises(DeviceError, match="CUDA_ERROR_INVALID_VALUE"):
                work()
            assert cuda.calls("cuStreamSynchronize") == waits + 2  # uploads, and the work on them


def test_closing_under_a_running_stream_ends_it(make, cuda) -> None:
    pose = make()
    results = pose.stream((image for _ in range(1000) for image in pictures(8)), iter(lambda: [BOX], None))
    next(results)
    pose.close()
    with pytest.raises(SessionError, match="this PoseEstimator is closed"):
        list(results)
    assert not any(cuda.live().values())
    with pytest.raises(SessionError, match="this PoseEstimator is closed"):
        pose(next(pictures(1)), [BOX])


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), None])
def test_a_malformed_image_harms_nothing(make, cuda, bad: object) -> None:
    good = list(pictures(3))
    with make() as pose:
        wanted = [pose(image, [BOX]) for image in good]
        for _ in range(3):  # more often than there are buffers
            with pytest.raises(DataError, match="images are uint8"):
                pose(bad, [BOX])
            results = pose.stream([good[0], bad, good[1]], [[BOX]] * 3)
            np.testing.assert_allclose(next(results)[0], wanted[0][0], atol=1e-3)
            with pytest.raises(DataError, match=r"image 1: .*images are uint8"):
                next(results)
        np.testing.assert_array_equal(pose(good[2], [BOX])[0], wanted[2][0])


def test_an_image_without_room_on_the_device(make, cuda) -> None:
    (image,) = pictures(1)
    with make() as pose:
        wanted = pose(image, [BOX])
        pose(image, [BOX])
        cuda.limit(cuda.used + (3 << 20))
        (large,) = pictures(1, 2000, 2000)
        with pytest.raises(DeviceError, match=r"12,582,912 bytes were asked for, [\d,]+ of [\d,]+ are free"):
            pose(large, [BOX])
        np.testing.assert_array_equal(pose(image, [BOX])[0], wanted[0])


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("call", ["cuMemAlloc", "cuMemHostAlloc"])
def test_no_room_for_an_estimator_leaves_nothing(
    engine: Callable[..., bytes], small_spec: ModelSpec, call: str, nth: int, cuda
) -> None:
    with TensorRTSession(engine(), small_spec, graphs=0) as session:
        before = cuda.live()
        cuda.fail(call, nth, 2)
        if call == "cuMemAlloc":
            with pytest.raises(DeviceError, match="CUDA_ERROR_OUT_OF_MEMORY"):
                PoseEstimator.from_session(session)
            assert cuda.live() == before
            return
        with PoseEstimator.from_session(session) as pose:
            (image,) = pictures(1)
            with pytest.raises(DeviceError, match=r"bytes of page-locked memory: CUDA_ERROR_OUT_OF_MEMORY"):
                pose(image, [BOX])
            assert pose(image, [BOX])[0].shape == (1, 17, 2)  # it goes on once there is room


def test_closing_the_session_closes_the_estimator(make, cuda) -> None:
    """In any order: what the estimator has on the device goes with the session's context."""
    pose = make()
    pose(next(pictures(1)), [BOX])
    pose._pipeline._session.close()
    with pytest.raises(SessionError, match="closed"):
        pose(next(pictures(1)), [BOX])
    pose.close()


def test_a_lost_device_closes_the_estimator(make, cuda) -> None:
    (image,) = pictures(1)
    pose = make()
    pose(image, [BOX])
    cuda.lost = True
    cuda.fail("cuEventSynchronize", 1, 700)
    with pytest.raises(DeviceError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        pose(image, [BOX])
    with pytest.raises(DeviceError, match=r"PoseEstimator is closed: the device was lost \(CUDA_ERROR_ILL"):
        pose(image, [BOX])
    pose.close()


def test_the_stages_of_an_image(make, cuda) -> None:
    (image,) = pictures(1)
    with make(flip_test=True) as pose:
        found = pose.profile(image, [BOX] * 5, rounds=2)
        assert list(found) == ["upload", "warp", "network", "decode", "download"]
        assert all(time > 0 for time in found.values())
        pose.profile(image, [BOX] * 5, rounds=2)
        living = cuda.live()
        pose.profile(image, [BOX] * 5, rounds=2)
        assert cuda.live() == living
        with pytest.raises(DataError, match="rounds is 0"):
            pose.profile(image, [BOX], rounds=0)


def test_a_forked_worker_is_told_to_be_spawned(make, cuda) -> None:
    (image,) = pictures(1)
    with make() as pose:
        wanted = pose(image, [BOX])
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                pose(image, [BOX])
            except DeviceError as error:
                pose.close()  # frees nothing of the parent's
                os.write(write, str(error).encode())
            finally:
                os._exit(0)
        os.close(write)
        with open(read) as said:
            assert "get_context('spawn')" in said.read()
        os.waitpid(child, 0)
        np.testing.assert_array_equal(pose(image, [BOX])[0], wanted[0])
