"""A program: what the work around the network costs on one thread of this machine.

    python benchmarks/host_kernels.py [--persons 8] [--repeats 200]

Prints the median CPU milliseconds per person of preprocessing (warp, pack, normalise; the image is decoded
already), of each decoder and of the flip test, at 256x192 and 384x288. The image and the heatmaps are drawn
from a seed; the time of none of these steps depends on what they show.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

# numpy's BLAS reads these when it is imported
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np
from numpy.typing import NDArray

from posedge.runtime import heatmaps
from posedge.runtime.preprocess import Preprocessor
from posedge.runtime.spec import COCO_FLIP_PAIRS, ModelSpec

IMAGE_WH = (640, 480)
# spec and side of the unbiased decoder's blur
SIZES = {
    "256x192": (ModelSpec("256x192"), 11),
    "384x288": (ModelSpec("384x288", input_wh=(288, 384), heatmap_wh=(72, 96)), 17),
}


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of this thread's CPU time in a call, after a tenth of the repeats as warm-up.

    The work never waits, so on an idle machine this is the time on the wall; on a busy one it still says what
    the work costs.
    """
    times = []
    for _ in range(repeats // 10 + repeats):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return 1e3 * float(np.median(times[repeats // 10 :]))


def draw_boxes(persons: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """xyxy boxes (N, 4) of upright persons, 100 to 400 pixels high, inside the image."""
    high = rng.uniform(100, 400, persons)
    wide = high * rng.uniform(0.3, 0.7, persons)
    left = rng.uniform(0, IMAGE_WH[0] - wide)
    top = rng.uniform(0, IMAGE_WH[1] - high)
    return np.stack([left, top, left + wide, top + high], axis=1, dtype=np.float32)


def draw_heatmaps(persons: int, spec: ModelSpec, rng: np.random.Generator) -> NDArray[np.float32]:
    """Gaussian maps (N, K, h, w) of sigma 2 with a little noise, as a trained network makes them."""
    width, height = spec.heatmap_wh
    x, y = rng.uniform(0, [[[width]], [[height]]], (2, persons, spec.num_joints))[..., None, None]
    rows, columns = np.mgrid[:height, :width]
    maps = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    return np.asarray(maps + rng.normal(0, 0.005, maps.shape), np.float32)


def measure(spec: ModelSpec, blur_kernel: int, persons: int, repeats: int) -> dict[str, float]:
    """Milliseconds per person of each step."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (IMAGE_WH[1], IMAGE_WH[0], 3), np.uint8)
    boxes = draw_boxes(persons, rng)
    maps = draw_heatmaps(persons, spec, rng)
    maps255 = maps * np.float32(255)
    preprocessor = Preprocessor(spec)
    steps: dict[str, Callable[[], object]] = {
        "preprocess": lambda: preprocessor(image, boxes),
        "decode msra": lambda: heatmaps.decode_msra(maps),
        "decode unbiased": lambda: heatmaps.decode_unbiased(maps, blur_kernel),
        "decode megvii": lambda: heatmaps.decode_megvii(maps255),
        "merge flip": lambda: heatmaps.merge_flip(maps, maps, COCO_FLIP_PAIRS, True),
    }
    return {step: median_ms(work, repeats) / persons for step, work in steps.items()}


def cpu_name() -> str:
    """What the kernel calls this processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text("utf-8", "replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def one_thread_of_opencv() -> str:
    """Hold OpenCV to one thread, and say which library warps."""
    try:
        import cv2
    except ImportError:
        return "numpy warps (OpenCV is not installed)"
    cv2.setNumThreads(1)
    return f"OpenCV {cv2.__version__} warps"


def main() -> None:
    parser = argparse.ArgumentParser(description="What the work around the network costs on one thread.")
    parser.add_argument("--persons", type=int, default=8, help="persons in one call (default 8)")
    parser.add_argument("--repeats", type=int, default=200, help="calls to take the median of (default 200)")
    options = parser.parse_args()
    if options.persons < 1 or options.repeats < 10:
        parser.error("--persons must be at least 1 and --repeats at least 10")
    warps = one_thread_of_opencv()
    print(f"{cpu_name()}, one thread; Python {platform.python_version()}, numpy {np.__version__}, {warps}")
    print(f"CPU ms per person, {options.persons} persons a call, median of {options.repeats} calls")
    columns = [measure(*size, options.persons, options.repeats) for size in SIZES.values()]
    print(f"{'':18}" + "".join(f"{size:>10}" for size in SIZES))
    for step in columns[0]:
        print(f"{step:18}" + "".join(f"{column[step]:10.4f}" for column in columns))


if __name__ == "__main__":
    main()
