"""How much memory INT8 calibration needs, by the number of crops: it must not grow with them.

    python -m posedge.benchmarks.calibration_memory --model model.onnx --spec model.json --images DIR \\
        --annotations train.json [--crops 32 1000]

Every number of crops is calibrated by the default recipe, to a finished INT8 graph, in a process of its own,
whose largest resident memory is what counts. Where there are fewer crops, the same come again.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..arguments import count
from ..calibration.calibrate import quantize
from ..calibration.datasets import CocoPersons, PersonCrops, batches
from ..errors import PosedgeError
from ..runtime.preprocess import Preprocessor
from ..runtime.spec import read_spec
from .place import device_description
from .watched import Finished, add_limits, limits_of, watched

_CALIBRATION_BATCH = 4
_MIB = 1 << 20


@dataclass(frozen=True)
class Run:
    """One calibration: ``crops`` of ``images`` images, which gave ``different`` crops; seconds it took."""

    crops: int
    different: int
    images: int
    seconds: float

    def __str__(self) -> str:
        """Such as "1000 crops of 101 images, repeated"."""
        repeated = ", repeated" if self.different < self.crops else ""
        return f"{self.crops} crops of {self.images} images{repeated}"


def calibrate_crops(model: Path, spec_file: Path, images: Path, annotations: Path, crops: int) -> Run:
    """Quantise ``model`` with exactly ``crops`` crops; what it writes is thrown away."""
    spec = read_spec(spec_file)
    dataset = CocoPersons.load(annotations, images, limit=crops)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        stream = _repeated(dataset, Preprocessor(spec), crops)
        quantize(model, stream, Path(directory) / "int8.onnx")
    took = time.perf_counter() - begin
    return Run(crops, len(dataset.persons), len(dataset.images), took)


def _repeated(dataset: CocoPersons, preprocessor: Preprocessor, crops: int) -> Iterator[PersonCrops]:
    """``crops`` crops in batches; the images are read anew in each round."""
    left = crops
    while left > 0:
        part = dataset if left >= len(dataset.persons) else dataset.take(left)
        yield from batches(part, preprocessor, _CALIBRATION_BATCH)
        left -= len(part.persons)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; 1 after an error that was printed."""
    options = _parser().parse_args(arguments)
    try:
        return _measure(options)
    except PosedgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _measure(options: argparse.Namespace) -> int:
    limits = limits_of(options)
    print(f"device  {device_description()}\n{'peak MiB':>8}  {'seconds':>7}  calibrated with")
    peaks: list[int] = []
    for crops in options.crops:
        result = watched(
            limits, calibrate_crops, options.model, options.spec, options.images, options.annotations, crops
        )
        if not isinstance(result, Finished):
            print(f"{'-':>8}  {'-':>7}  {crops} crops: {result.reason}")
            return 1
        peaks.append(result.peak_bytes)
        print(f"{result.peak_bytes / _MIB:8.0f}  {result.value.seconds:7.1f}  {result.value}", flush=True)
    print(f"\nthe largest peak is {100 * (max(peaks) / min(peaks) - 1):.1f} % above the smallest")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="calibration_memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for flag in ("--model", "--spec", "--images", "--annotations"):
        parser.add_argument(flag, type=Path, required=True)
    parser.add_argument("--crops", type=count, nargs="+", default=[32, 1000], help="default: 32 1000")
    add_limits(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
