"""Run the kernels on bad and odd input: a program for test_sanitizers.py, not a test.

python sanitized.py LIBRARY [overrun]: LIBRARY is the shim compiled with sanitizers, which end the process at
the first fault. Every buffer is exactly as large as it must be. With "overrun" one is too small by one value,
which must be noticed.
"""

import importlib.util
import sys
import warnings
from pathlib import Path

import numpy as np

from posedge.runtime.cuda.crops import DeviceImage, crop_records
from posedge.runtime.cuda.warp import warp_launch
from posedge.runtime.spec import ModelSpec

BOXES = np.array(
    [
        [5, 6, 30, 40],
        [-300, -300, -100, -100],
        [900, 10, 1000, 90],
        [-50, -50, 500, 900],
        [10, 10, 10, 10],
        [60, 30, 20, 10],
        [np.nan, 10, 60, 90],
        [10, -np.inf, 60, np.inf],
        [1e30, 1e30, 2e30, 2e30],
        [-1.6e7, -1.6e7, 1.6e7, 1.6e7],
        [0, 0, 1, 1],
        [0.5, 0.5, 0.5001, 0.5001],
    ],
    np.float32,
)
SPEC = ModelSpec("odd", input_wh=(37, 51))


def load(name):
    """A module of this folder by its path, since tests are no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pitched(height, row, pitch):
    """A plane (height, row) whose last row ends with its buffer."""
    plane = np.random.default_rng(0).integers(0, 256, (height - 1) * pitch + row, np.uint8)
    return np.lib.stride_tricks.as_strided(plane, (height, row), (pitch, 1))


def warps(kernels):
    centre, scale = (BOXES[:, :2] + BOXES[:, 2:]) / 2, (BOXES[:, 2:] - BOXES[:, :2])
    for height, width in ((1, 1), (1, 7), (9, 1), (60, 45)):
        for spare in (0, 1, 13):
            chroma_row = (width + 1) // 2 * 2
            chroma = pitched((height + 1) // 2, chroma_row, chroma_row + spare)
            for form, channels in (("bgr", 3), ("rgb", 3), ("grey", 1), ("nv12", 1)):
                plane = pitched(height, width * channels, width * channels + spare)
                image = np.lib.stride_tricks.as_strided(
                    plane, (height, width, channels), (plane.strides[0], channels, 1)
                )
                for half in (False, True):
                    for levels in (False, True):
                        batch, mirrored = kernels.warp(
                            SPEC,
                            image,
                            centre,
                            scale,
                            chroma=chroma,
                            format=form,
                            half=half,
                            mirror=True,
                            whole_levels=levels,
                        )
                        assert np.isfinite(batch).all()
                        assert np.isfinite(mirrored).all()
                kernels.warp(SPEC, image, centre[:0], scale[:0], chroma=chroma, format=form)


def decodes(kernels):
    decoding = load("test_decode_kernels")
    for width, height in decoding.SIZES:
        for dtype in decoding.TYPES:
            maps = decoding.odd_maps(width, height).astype(dtype)[None]
            if width > 10:
                maps = maps[:, ::5]  # a sanitizer is slow
            for codec in decoding.CODECS:
                for shift in (False, True):
                    spec = decoding.heatmap_spec(codec, (width, height), maps.shape[1], ((0, 1),), shift)
                    rectangle = decoding.grid_rectangle(1, spec)
                    for mirrored in ((), [maps]):
                        kernels.decode(spec, [maps], *rectangle, mirrored)
                        kernels.decode(
                            spec, [maps[:0]], *decoding.grid_rectangle(0, spec), [m[:0] for m in mirrored]
                        )
    for input_wh, ratio in (((192, 256), 2.0), ((7, 5), 3.0), ((1, 1), 1.0)):
        spec = ModelSpec("simcc", codec="simcc", input_wh=input_wh, split_ratio=ratio)
        for dtype in decoding.TYPES:
            outputs = decoding.distributions(2, spec, 0, dtype)
            for mirrored in ((), outputs):
                kernels.decode(spec, outputs, *decoding.rectangles(2), mirrored, clip=True)


def overrun(kernels):
    image = np.zeros((4, 4, 3), np.uint8)
    records = crop_records(
        DeviceImage(image.ctypes.data, 4, 4, 12), BOXES[:1, :2], BOXES[:1, 2:] - BOXES[:1, :2], SPEC.input_wh
    )
    batch = np.zeros(3 * 37 * 51 - 1, np.float32)
    kernels.run(warp_launch(SPEC, 1, records.ctypes.data, batch.ctypes.data))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    kernels = load("conftest").CpuKernels(sys.argv[1])
    if sys.argv[2:] == ["overrun"]:
        overrun(kernels)
    else:
        warps(kernels)
        decodes(kernels)
    print("finished")
