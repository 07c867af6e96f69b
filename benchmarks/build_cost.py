"""What building an engine costs: time on the wall and memory, lint and child process included.

    python -m posedge.benchmarks.build_cost GRAPH.onnx [--flavour tensorrt_rtx] [--repeats 3] [--batch 1 8 32]

Each build is made in a process of its own: the graph is linted there, as for every build, and built in
a child of that process. Memory is the sum of the largest resident memory of the two, which is more than they
had at one time. The engines are thrown away.
"""

import argparse
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..arguments import count
from ..engines import BatchProfile, build_engine
from ..errors import PosedgeError
from .place import device_description
from .watched import Finished, add_limits, limits_of, watched

_MB = 1e6


@dataclass(frozen=True)
class Cost:
    """One build.

    wall_s: from the call to the finished engine file. build_s: of it, parsing and building.
    child_bytes: largest resident memory of the process that builds.
    """

    wall_s: float
    build_s: float
    child_bytes: int
    engine_bytes: int
    library: str


def build_once(graph: Path, flavour: str | None, batch: tuple[int, int, int], time_limit_s: float) -> Cost:
    """Build an engine and throw it away."""
    with tempfile.TemporaryDirectory(prefix="posedge-build-") as directory:
        begin = time.perf_counter()
        built = build_engine(
            graph,
            Path(directory) / "engine",
            BatchProfile(*batch),
            flavour=flavour,
            time_limit_s=time_limit_s,
        )
        wall = time.perf_counter() - begin
    return Cost(
        wall, built.seconds, built.peak_memory_bytes, built.engine_bytes, f"{built.flavour} {built.version}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; 1 after an error that was printed."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given)
    print(f"command  python -m posedge.benchmarks.build_cost {shlex.join(given)}")
    try:
        return _measure(options)
    except PosedgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _measure(options: argparse.Namespace) -> int:
    limits = limits_of(options)
    print(f"device   {device_description()}")
    walls, peaks = [], []
    for number in range(options.repeats):
        work = (options.graph, options.flavour, tuple(options.batch), limits.seconds)
        result = watched(limits, build_once, *work)
        if not isinstance(result, Finished):
            print(f"no figures: {result.reason}")
            return 1
        cost: Cost = result.value
        if number == 0:
            print(f"library  {cost.library}; engine {cost.engine_bytes / _MB:.1f} MB")
            print(f"{'wall s':>8}  {'build s':>8}  {'child MB':>8}  {'parent MB':>9}  {'sum MB':>8}")
        walls.append(cost.wall_s)
        peaks.append(cost.child_bytes + result.peak_bytes)
        print(
            f"{cost.wall_s:8.1f}  {cost.build_s:8.1f}  {cost.child_bytes / _MB:8.0f}  "
            f"{result.peak_bytes / _MB:9.0f}  {peaks[-1] / _MB:8.0f}",
            flush=True,
        )
    print(f"median wall {statistics.median(walls):.1f} s, largest sum {max(peaks) / _MB:.0f} MB")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build_cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("graph", type=Path)
    parser.add_argument("--flavour", help="default: the best one installed")
    parser.add_argument("--repeats", type=count, default=3, help="builds, each from the start (default: 3)")
    parser.add_argument(
        "--batch", type=count, nargs=3, default=[1, 8, 32], metavar=("MIN", "OPT", "MAX"), help="1 8 32"
    )
    add_limits(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
