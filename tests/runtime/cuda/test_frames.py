"""Images that are on the GPU already: read where they are, whatever their pitch, and given back."""

import ctypes
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from posedge.errors import DataError
from posedge.runtime.cuda.context import Context
from posedge.runtime.cuda.frames import Nv12Frame
from posedge.runtime.cuda.memory import DeviceBuffer
from posedge.runtime.cuda.streams import Stream
from posedge.runtime.pose import PoseEstimator
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.sessions.tensorrt import TensorRTSession
from posedge.runtime.spec import ModelSpec

pytestmark = [pytest.mark.stand_in, pytest.mark.usefixtures("kernel_cache")]

BOXES = [(4.0, 4.0, 60.0, 90.0), (-10.0, 20.0, 40.0, 120.0)]
HEIGHT, WIDTH, PITCH = 100, 79, 256
CUDA = 2  # kDLCUDA


@pytest.fixture
def pose(engine: Callable[..., bytes], small_spec: ModelSpec, cuda) -> Iterator[PoseEstimator | None]:
    if cuda is None:
        yield None
        return
    session = TensorRTSession(engine(), small_spec, graphs=0)
    with PoseEstimator.from_session(session) as estimator:
        yield estimator


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture
def frame(cuda) -> Iterator[Callable[..., SimpleNamespace] | None]:
    """Puts an array on the device, rows PITCH bytes apart, as another library would hold it."""
    if cuda is None:
        yield None
        return
    with Context() as context, Stream(context) as stream:

        def put(array: np.ndarray, **interface: object) -> SimpleNamespace:
            rows = np.zeros((len(array), PITCH), np.uint8)
            rows[:, : array[0].size] = array.reshape(len(array), -1)
            buffer = DeviceBuffer(context, rows.nbytes)
            buffer.upload(rows, stream=stream)
            stream.synchronize()
            described = {
                "shape": array.shape,
                "typestr": "|u1",
                "data": (buffer.address, False),
                "version": 3,
                "strides": (PITCH, *array.strides[1:]),
                "stream": stream.handle,
            }
            return SimpleNamespace(__cuda_array_interface__={**described, **interface})

        yield put


class Dlpack:
    """A producer of DLPack capsules for memory on the device, as libraries are in C."""

    def __init__(self, frame: SimpleNamespace, *, device: int = 0, bits: int = 8) -> None:
        described = frame.__cuda_array_interface__
        shape, strides = described["shape"], described["strides"]
        self._shape = (ctypes.c_int64 * len(shape))(*shape)
        self._strides = (ctypes.c_int64 * len(strides))(*strides)
        self.device, self.bits, self.address = device, bits, described["data"][0]
        self.streams: list[int] = []
        self.given_back = 0
        self._kept: list[object] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.device

    def __dlpack__(self, *, stream: int) -> object:
        self.streams.append(stream)

        class Managed(ctypes.Structure):
            _fields_ = (
                ("data", ctypes.c_void_p),
                ("device", ctypes.c_int32 * 2),
                ("ndim", ctypes.c_int32),
                ("type", ctypes.c_uint8 * 4),
                ("shape", ctypes.c_void_p),
                ("strides", ctypes.c_void_p),
                ("offset", ctypes.c_uint64),
                ("manager", ctypes.c_void_p),
                ("deleter", ctypes.c_void_p),
            )

        def delete(_: int) -> None:
            self.given_back += 1

        deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(delete)
        managed = Managed(
            self.address - 8,
            (ctypes.c_int32 * 2)(CUDA, self.device),
            len(self._shape),
            (ctypes.c_uint8 * 4)(1, self.bits, 1, 0),
            ctypes.addressof(self._shape),
            ctypes.addressof(self._strides),
            8,
            None,
            ctypes.cast(deleter, ctypes.c_void_p),
        )
        self._kept += [managed, deleter]
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(managed), b"dltensor", None)


def test_a_frame_on_the_gpu_is_read_where_it_is(pose, frame, image: np.ndarray, cuda) -> None:
    wanted = pose(image, BOXES)
    on_gpu = frame(image)
    copied = cuda.calls("cuMemcpyHtoDAsync")
    found = pose(on_gpu, BOXES)
    assert cuda.calls("cuMemcpyHtoDAsync") == copied + 1  # the records
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_on_either_binding(
    context, engine: Callable[..., bytes], small_spec: ModelSpec, frame, image: np.ndarray
) -> None:
    session = TensorRTSession(engine(), small_spec, context=context, graphs=0)
    with PoseEstimator.from_session(session, flip_test=True) as pose:
        wanted = pose(image, BOXES)
        for found in pose.stream([image, frame(image)] * 10, [BOXES] * 20):
            np.testing.assert_allclose(found[0], wanted[0], atol=1e-3)
        assert pose._pipeline.graph_sizes == (2, 4)
    assert not context.closed  # it is the caller's


def test_a_frame_by_dlpack_is_given_back(pose, frame, image: np.ndarray, cuda) -> None:
    wanted = pose(image, BOXES)
    producer = Dlpack(frame(image))
    np.testing.assert_array_equal(pose(producer, BOXES)[0], wanted[0])
    assert producer.given_back == 1
    for found in pose.stream([producer] * 20, [BOXES] * 20):
        np.testing.assert_allclose(found[0], wanted[0], atol=1e-3)
    assert producer.given_back == 21
    # it was told on which stream its memory is read, and it is not the one that is captured
    assert set(producer.streams) == {pose._pipeline.uploads.handle}


def test_frames_and_host_images_in_one_stream(pose, frame, image: np.ndarray, cuda) -> None:
    wanted = pose(image, BOXES)
    images = [image, frame(image), image, Dlpack(frame(image))] * 4
    for found in pose.stream(images, [BOXES] * 16):
        np.testing.assert_allclose(found[0], wanted[0], atol=1e-3)


def test_the_stream_of_a_frame_is_waited_for(pose, frame, image: np.ndarray, cuda) -> None:
    ready, waiting = frame(image, stream=None), frame(image)
    pose(ready, BOXES)
    waits = cuda.calls("cuStreamSynchronize")
    pose(ready, BOXES)
    assert cuda.calls("cuStreamSynchronize") == waits
    pose(waiting, BOXES)
    assert cuda.calls("cuStreamSynchronize") == waits + 1


def test_nv12_from_the_host_and_on_the_gpu(pose, frame, image: np.ndarray, cuda) -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(1)
    luma = rng.integers(0, 256, (HEIGHT, WIDTH + 1), np.uint8)
    chroma = rng.integers(100, 156, (HEIGHT // 2, WIDTH + 1), np.uint8)
    bgr = cv2.cvtColorTwoPlane(luma, chroma.reshape(HEIGHT // 2, -1, 2), cv2.COLOR_YUV2BGR_NV12)
    wanted = pose(bgr, BOXES)
    pairs = chroma.reshape(HEIGHT // 2, -1, 2)
    for planes in ((luma, chroma), (luma, pairs), (frame(luma), frame(chroma)), (frame(luma), frame(pairs))):
        keypoints, scores = pose(Nv12Frame(*planes), BOXES)
        np.testing.assert_allclose(scores, wanted[1], atol=0.02)
        near = np.abs(keypoints - wanted[0]).max(axis=-1) < 1
        assert near.mean() > 0.9  # colours are rounded once less, and a maximum of noise may move


def test_an_array_of_another_library_on_the_host(
    pose, image: np.ndarray, small_pose, small_spec: ModelSpec, cuda
) -> None:
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(pose(torch.from_numpy(image), BOXES)[0], pose(image, BOXES)[0])
    with PoseEstimator.from_session(OnnxRuntimeSession(small_pose, small_spec, 1)) as on_cpu:
        np.testing.assert_array_equal(on_cpu(torch.from_numpy(image), BOXES)[0], on_cpu(image, BOXES)[0])
        with pytest.raises(DataError, match="dtype float32"):
            on_cpu(torch.zeros(4, 4, 3), BOXES)
        with pytest.raises(DataError, match="cannot be borrowed by DLPack"):
            on_cpu(torch.zeros(4, 4, 3, device="meta"), BOXES)
        with pytest.raises(DataError, match="in the memory of a GPU"):
            on_cpu(SimpleNamespace(__cuda_array_interface__={}), BOXES)


def test_what_cannot_be_read_is_refused_and_given_back(pose, frame, image: np.ndarray, cuda) -> None:
    good = frame(image)
    described = good.__cuda_array_interface__
    for changed, said in (
        ({"typestr": "<f4"}, "type '<f4'; images are uint8"),
        ({"shape": (HEIGHT, WIDTH)}, "has shape"),
        ({"shape": (0, WIDTH, 3)}, "has shape"),
        ({"strides": (1, PITCH, 3)}, "side by side"),
        ({"strides": (-PITCH, 3, 1)}, "pitch"),
        ({"strides": (WIDTH, 3, 1)}, "pitch"),
        ({"data": None}, "not understood"),
        ({"stream": "s"}, "not understood"),
        ({"data": (0, False)}, "a null pointer"),
        ({"strides": (PITCH, 3)}, "and strides"),
    ):
        with pytest.raises(DataError, match=said):
            pose(SimpleNamespace(__cuda_array_interface__={**described, **changed}), BOXES)
    wide = Dlpack(good, bits=16)
    with pytest.raises(DataError, match="values of 16 bits"):
        pose(wide, BOXES)
    assert wide.given_back == 1
    with pytest.raises(DataError, match="on CUDA device 3, and the estimator on 0"):
        pose(Dlpack(good, device=3), BOXES)
    with pytest.raises(DataError, match="not understood"):
        pose(SimpleNamespace(__cuda_array_interface__=None), BOXES)
    with pytest.raises(DataError, match="has a mask"):
        pose(SimpleNamespace(__cuda_array_interface__={**described, "mask": object()}), BOXES)
    pose(SimpleNamespace(__cuda_array_interface__={**described, "mask": None}), BOXES)
    plane = image[..., 0]
    for luma, chroma, said in (
        (plane, frame(plane[:50]), "one plane is on the GPU"),
        (plane, plane, "the planes have shapes"),
        (plane.astype(np.float32), plane, "float32"),
        (None, plane, "NoneType"),
    ):
        with pytest.raises(DataError, match=said):
            pose(Nv12Frame(luma, chroma), BOXES)
    assert pose(good, BOXES)[0].shape == (2, 17, 2)
