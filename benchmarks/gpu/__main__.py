"""How fast posedge is on the CUDA device that is here, as ratios of figures of one run.

    python -m posedge.benchmarks.gpu [--bundle DIR [--variant NAME]] [--out FILE.json] [--frames 10000]

Each kernel is first compared with numpy on the device; a mismatch ends the run. Then:

    warp_normalize  its time over the time that its bytes take in a copy on the device: at most 1.5
    decode          the same for each decoder: at most 2
    throughput      persons per second of the whole pipeline over the engine alone, batches of 8: at least 0.9
    latency         p99 over p50 of a frame, over 2,000 frames: at most 1.2
    the usual way   time of OpenCV on the CPU, copies, numpy, one person at a time, over posedge's: at least 5
    memory          allocations after warm-up, and bytes of device memory lost after it, over all frames: 0

Kernels are timed by CUDA events. ``--bundle`` runs its engine; without one, a stack of convolutions in torch
of the cost of RSN-18 stands in for the network, and without torch only the kernels are measured; the report
says which. The program ends with 0 when all was measured that can be, whether or not targets are met, and
with 1 on an error. ``--out`` is written after each part; ``not_reached`` names those that are not in it.
"""

import argparse
import json
import platform
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ... import __version__
from ...errors import OutputError, PosedgeError, SessionError
from ...files import write_text
from ...runtime.cuda.gpu import require_gpu
from .bench import FULL, QUICK, Bench
from .decoding import check_decoders, decode_figures
from .figures import Check, Figure, check_record, figure_record, table
from .networks import open_network
from .pipeline import pipeline_figures
from .warp import check_warp, warp_figures

_VERSIONS_OF = (
    *("numpy", "cuda-bindings", "nvidia-cuda-nvrtc", "pycuda", "torch"),
    *("tensorrt", "tensorrt-rtx-cu13", "opencv-python-headless", "opencv-python"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 0, or 1 on an error."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.frames < 1:
        parser.error("--frames must be at least 1")
    try:
        if options.out:
            _check_out(options.out)
        require_gpu(options.device)
        with Bench(QUICK if options.quick else FULL, options.device) as bench:
            _run(bench, options, sys.argv[1:] if arguments is None else arguments)
    except PosedgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(bench: Bench, options: argparse.Namespace, arguments: Sequence[str]) -> None:
    device = bench.context.device
    print(f"{device.name}, compute capability {'.'.join(map(str, device.capability))}", flush=True)
    checks = _checked(bench)
    network, said = open_network(bench, options.bundle, options.variant)
    print(f"network: {'; '.join(said)}", flush=True)
    bandwidth = bench.copy_bandwidth()
    parts: dict[str, Callable[[], Sequence[Figure]]] = {
        "warp": lambda: warp_figures(bench, bandwidth),
        "decode": lambda: decode_figures(bench, bandwidth),
        "pipeline": lambda: pipeline_figures(bench, network, options.frames),
    }
    meaningless = _meaningless(bench, options.quick)
    figures: list[Figure] = []
    left = list(parts)
    for part, measure in parts.items():
        figures += measure()
        left.remove(part)
        if options.out:  # after each part, so that a run that is cut off leaves what it measured
            record = _record(bench, arguments, bandwidth, checks, figures, meaningless)
            record |= {"network": said, "not_reached": left}
            write_text(options.out, json.dumps(record, indent=1) + "\n")
    print(f"copy on the device: {bandwidth / 1000:.1f} GB/s, read and written\n")
    print(table(checks, figures, meaningless))
    if options.out:
        print(f"\nwritten to {options.out}")


def _check_out(path: Path) -> None:
    """Refuse a path that cannot be written before hours of work. Raises OutputError."""
    try:
        if path.is_dir():
            raise OutputError(f"--out {path}: this is a directory. Give the path of a file.")
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise OutputError(
            f"--out {path}: cannot be written ({error.strerror}). Give another path."
        ) from error


def _checked(bench: Bench) -> list[Check]:
    """The comparisons with numpy. Raises SessionError for a kernel that is wrong on this device."""
    checks = [*check_warp(bench), *check_decoders(bench)]
    for check in checks:
        if not check.passed:
            raise SessionError(
                f"{check.name}: {check.largest:g} {check.unit} from numpy's result, {check.allowed:g} "
                "allowed. The kernel is wrong on this device, so nothing was timed; please report it."
            )
    return checks


def _meaningless(bench: Bench, quick: bool) -> str | None:
    if bench.is_stand_in:
        return "of a stand-in for a device: they measure nothing"
    return "of a quick run: too few samples to count" if quick else None


def _record(
    bench: Bench,
    arguments: Sequence[str],
    bandwidth: float,
    checks: Sequence[Check],
    figures: Sequence[Figure],
    meaningless: str | None,
) -> dict[str, object]:
    device, driver = bench.context.device, bench.context.driver
    return {
        "command": shlex.join(["python", "-m", "posedge.benchmarks.gpu", *arguments]),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "device": {
            "name": device.name,
            "compute_capability": ".".join(map(str, device.capability)),
            "memory_bytes": device.memory,
            "stand_in": bench.is_stand_in,
        },
        "figures_do_not_count": meaningless,
        "versions": {
            "python": platform.python_version(),
            "binding": driver.name,
            "cuda_driver_serves": ".".join(map(str, driver.driver_version())),
            **_versions(),
        },
        "copy_bandwidth_bytes_per_us": bandwidth,
        "largest_differences": [check_record(check) for check in checks],
        "figures": [figure_record(figure, meaningless) for figure in figures],
    }


def _versions() -> dict[str, str]:
    found = {"posedge": __version__}  # also where it is run without being installed
    for package in _VERSIONS_OF:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m posedge.benchmarks.gpu",
        description="How fast posedge is on the CUDA device that is here, as ratios of figures of one run.",
    )
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="a bundle with an engine for this device")
    parser.add_argument("--variant", help="which of its variants (default: the bundle's own default)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where to write the results")
    parser.add_argument("--frames", type=int, default=10_000, help="frames for memory (default 10000)")
    parser.add_argument("--device", type=int, default=0, help="number of the CUDA device (default 0)")
    parser.add_argument("--quick", action="store_true", help="tiny counts: whether it runs, not how fast")
    return parser


if __name__ == "__main__":
    sys.exit(main())
