"""The kernels on a device against numpy, with every option."""

from contextlib import ExitStack

import numpy as np
import pytest

from posedge.benchmarks.gpu.scenes import crops_of, draw_frame, draw_outputs, exact_batch
from posedge.runtime.cuda.context import Context
from posedge.runtime.cuda.crops import DeviceImage, crop_records
from posedge.runtime.cuda.decode import Decoder
from posedge.runtime.cuda.loaded import LoadedKernels
from posedge.runtime.cuda.memory import DeviceBuffer
from posedge.runtime.cuda.streams import Stream
from posedge.runtime.cuda.warp import warp_launch
from posedge.runtime.joints import find_joints
from posedge.runtime.spec import ModelSpec
from posedge.runtime.yuv import yuv_factors

SPEC = ModelSpec("small", input_wh=(50, 66), heatmap_wh=(13, 17))
INSIDE, ACROSS, OUTSIDE, TINY = [20, 10, 90, 80], [-40, -30, 300, 150], [500, 500, 600, 700], [5, 5, 6, 6.5]


class OnDevice:
    """Arrays on the device for the length of a test."""

    def __init__(self, context: Context, stream: Stream, made: ExitStack) -> None:
        self.context, self.stream, self._made = context, stream, made

    def room(self, size: int) -> DeviceBuffer:
        return self._made.enter_context(DeviceBuffer(self.context, size))

    def put(self, array: np.ndarray) -> DeviceBuffer:
        buffer = self.room(array.nbytes)
        buffer.upload(np.ascontiguousarray(array), stream=self.stream)
        self.stream.synchronize()
        return buffer

    def get(self, buffer: DeviceBuffer, shape: tuple[int, ...], kind: type) -> np.ndarray:
        array = np.empty(shape, kind)
        buffer.download(array, stream=self.stream)
        self.stream.synchronize()
        return array


@pytest.fixture
def memory(context: Context | None, stream: Stream | None):
    if context is None:
        yield None
        return
    with ExitStack() as made:
        yield OnDevice(context, stream, made)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("colours", ["bgr", "rgb", "grey"])
def test_warp(memory: OnDevice, kernels: LoadedKernels, colours: str, half: bool) -> None:
    """Boxes inside, across the border and outside; rows with an odd number of bytes to spare."""
    frame = draw_frame((161, 90))
    if colours == "grey":
        frame = np.repeat(frame[..., :1], 3, axis=2)
    centre, scale = crops_of(np.array([INSIDE, ACROSS, OUTSIDE, TINY], np.float32), SPEC)
    expected = exact_batch(frame, centre, scale, SPEC)
    kept = {"bgr": frame, "rgb": frame[..., ::-1], "grey": frame[..., :1]}[colours]
    rows = kept.reshape(90, -1)
    pitched = np.full((90, rows.shape[1] + 7), 255, np.uint8)
    pitched[:, : rows.shape[1]] = rows
    image = DeviceImage(memory.put(pitched).address, 161, 90, pitched.shape[1], colours)
    records = memory.put(crop_records(image, centre, scale, SPEC.input_wh))
    kind = np.float16 if half else np.float32
    batch, mirrored = (memory.room(expected.size * np.dtype(kind).itemsize) for _ in range(2))
    for levels, allowed in ((False, 1e-3), (True, 0.6 / min(SPEC.std))):
        addresses = (records.address, batch.address, mirrored.address)
        kernels.launch(warp_launch(SPEC, 4, *addresses, half=half, whole_levels=levels), stream=memory.stream)
        for buffer, step in ((batch, 1), (mirrored, -1)):
            found = memory.get(buffer, expected.shape, kind)[..., ::step]
            np.testing.assert_allclose(found, expected, rtol=2**-11 if half else 0, atol=allowed)


def test_warp_of_a_camera_frame(memory: OnDevice, kernels: LoadedKernels) -> None:
    """NV12: pixels become colours as the standard says, and are interpolated then."""
    rng = np.random.default_rng(0)
    luma = rng.integers(0, 256, (90, 161), np.uint8)
    chroma = rng.integers(0, 256, (45, 162), np.uint8)
    zero, gain, red_v, green_u, green_v, blue_u = yuv_factors("bt709")
    u, v = (chroma[:, k::2].astype(float).repeat(2, 0).repeat(2, 1)[:, :161] - 128 for k in (0, 1))
    y = np.maximum(luma - zero, 0) * gain
    colours = np.stack([y + blue_u * u, y + green_u * u + green_v * v, y + red_v * v], axis=-1)
    centre, scale = crops_of(np.array([INSIDE, ACROSS], np.float32), SPEC)
    expected = exact_batch(np.clip(colours, 0, 255), centre, scale, SPEC)
    planes = memory.put(luma), memory.put(chroma)
    image = DeviceImage(planes[0].address, 161, 90, 161, "nv12", planes[1].address, 162)
    records = memory.put(crop_records(image, centre, scale, SPEC.input_wh))
    batch = memory.room(expected.size * 4)
    launches = warp_launch(SPEC, 2, records.address, batch.address, whole_levels=False, yuv="bt709")
    kernels.launch(launches, stream=memory.stream)
    found = memory.get(batch, expected.shape, np.float32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("codec", ["msra", "unbiased", "megvii", "simcc"])
def test_decoders(memory: OnDevice, kernels: LoadedKernels, codec: str, flip_test: bool, half: bool) -> None:
    spec = ModelSpec(codec, codec=codec)
    outputs, mirrored = (draw_outputs(spec, 3, half, seed) for seed in (0, 1))
    size = np.tile(np.array(spec.input_wh, np.float32), (3, 1))
    single = [tuple(array.astype(np.float32) for array in arrays) for arrays in (outputs, mirrored)]
    points, scores = find_joints(single[0], single[1] if flip_test else None, spec, size / 2, size)
    decoder = Decoder(spec, 3, flip_test=flip_test, half=half)
    workspace = memory.room(decoder.workspace_bytes)
    workspace.upload(np.frombuffer(decoder.constants, np.uint8), stream=memory.stream)
    records = memory.put(crop_records(DeviceImage(1, 1, 1, 3), size / 2, size, spec.input_wh))
    keypoints = memory.room(3 * 17 * 12)
    launches = decoder.launches(
        3,
        [memory.put(array).address for array in outputs],
        [memory.put(array).address for array in mirrored] if flip_test else [],
        records.address,
        keypoints.address,
        workspace.address,
        clip=False,
    )
    kernels.launch(launches, stream=memory.stream)
    found = memory.get(keypoints, (3, 17, 3), np.float32)
    np.testing.assert_allclose(found[..., :2], points, rtol=0, atol=0.01)
    np.testing.assert_allclose(found[..., 2], scores, rtol=0, atol=1e-4)


def test_maps_that_are_empty_or_not_finite(memory: OnDevice, kernels: LoadedKernels) -> None:
    """They are read as numpy reads them, and no kernel faults."""
    for codec in ("msra", "unbiased", "megvii"):
        spec = ModelSpec(codec, codec=codec)
        maps = draw_outputs(spec, 1, False)[0]
        maps[0, 0], maps[0, 1], maps[0, 2, 5, 5], maps[0, 3, 6, 6] = 0, -1, np.nan, np.inf
        size = np.array([spec.input_wh], np.float32)
        points, scores = find_joints((maps,), None, spec, size / 2, size)
        decoder = Decoder(spec, 1)
        workspace, keypoints = memory.room(decoder.workspace_bytes), memory.room(17 * 12)
        workspace.upload(np.frombuffer(decoder.constants, np.uint8), stream=memory.stream)
        records = memory.put(crop_records(DeviceImage(1, 1, 1, 3), size / 2, size, spec.input_wh))
        addresses = (records.address, keypoints.address, workspace.address)
        kernels.launch(
            decoder.launches(1, [memory.put(maps).address], [], *addresses, clip=False), stream=memory.stream
        )
        found = memory.get(keypoints, (1, 17, 3), np.float32)
        np.testing.assert_allclose(found[..., 2], scores, rtol=1e-5)
        for joint in (0, 1, *range(4, 17)):
            np.testing.assert_allclose(found[:, joint, :2], points[:, joint], rtol=0, atol=0.01)
