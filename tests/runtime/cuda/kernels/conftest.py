"""The kernels of ``kernels.cu`` on a CPU: the same source, compiled by g++ through ``shim.cpp``."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import posedge.runtime.cuda
from posedge.runtime.cuda.crops import FORMATS, DeviceImage, crop_records
from posedge.runtime.cuda.decode import Decoder
from posedge.runtime.cuda.warp import warp_launch

SOURCES = Path(posedge.runtime.cuda.__file__).parent
SHIM = Path(__file__).parent.parent / "shim.cpp"
# without contraction, as NVRTC's --fmad=false
OPTIONS = ("-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")


def compile_shim(library: Path, *options: str) -> Path:
    """Build the shared library; without g++ the test is skipped, under CI it fails."""
    if shutil.which("g++") is None:
        reason = "g++ is not installed, so the kernels cannot run on this CPU"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    command = ["g++", *OPTIONS, *options, f"-I{SOURCES}", str(SHIM), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return library


class CpuKernels:
    """Launches run on arrays of this process: their addresses are the device's."""

    def __init__(self, library):
        self.library = ctypes.CDLL(str(library))

    def run(self, launches):
        for launch in launches:
            assert all(side > 0 for side in launch.grid), "CUDA refuses an empty grid"
            grid, block = ((ctypes.c_uint * 3)(*sides) for sides in (launch.grid, launch.block))
            arguments = (ctypes.c_void_p * 1)(ctypes.addressof(launch.arguments))
            assert self.library.posedge_launch(launch.kernel.encode(), grid, block, arguments) == 0

    def warp(self, spec, image, centre, scale, *, half=False, mirror=False, chroma=None, **options):
        """The batch (N, 3, H, W), and the mirrored one where asked for, of a uint8 image (a view is fine).

        options: ``format`` of the image, and what warp_launch takes.
        """
        frame = DeviceImage(
            image.ctypes.data,
            image.shape[1],
            image.shape[0],
            image.strides[0],
            options.pop("format", "bgr"),
            chroma.ctypes.data if chroma is not None else 0,
            chroma.strides[0] if chroma is not None else 0,
        )
        records = crop_records(frame, centre, scale, spec.input_wh)
        shape = (len(records), 3, *spec.input_wh[::-1])
        batch = np.full(shape, np.inf, np.float16 if half else np.float32)
        mirrored = np.full_like(batch, np.inf)
        self.run(
            warp_launch(
                spec,
                len(records),
                records.ctypes.data,
                batch.ctypes.data,
                mirrored.ctypes.data if mirror else 0,
                half=half,
                **options,
            )
        )
        return (batch, mirrored) if mirror else batch

    def decode(self, spec, outputs, centre, scale, mirrored=(), clip=False, max_batch=None):
        """Keypoints (N, K, 2) in image pixels and scores (N, K) of a network's outputs."""
        count = len(outputs[0])
        frame = DeviceImage(1, 1, 1, FORMATS["bgr"])
        records = crop_records(frame, centre, scale, spec.input_wh)
        half = outputs[0].dtype == np.float16
        decoder = Decoder(
            spec, count if max_batch is None else max_batch, flip_test=bool(mirrored), half=half
        )
        workspace = np.full(decoder.workspace_bytes, 255, np.uint8)  # NaN where nothing is written
        workspace[: len(decoder.constants)] = np.frombuffer(decoder.constants, np.uint8)
        keypoints = np.full((count, spec.num_joints, 3), np.inf, np.float32)
        held = [[np.ascontiguousarray(array) for array in arrays] for arrays in (outputs, mirrored)]
        addresses = [[array.ctypes.data for array in arrays] for arrays in held]
        self.run(
            decoder.launches(
                count,
                *addresses,
                records.ctypes.data,
                keypoints.ctypes.data,
                workspace.ctypes.data,
                clip=clip,
            )
        )
        return keypoints[..., :2], keypoints[..., 2]


@pytest.fixture(scope="session")
def shim_compiler():
    return compile_shim


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    return CpuKernels(compile_shim(tmp_path_factory.mktemp("shim") / "kernels.so"))
