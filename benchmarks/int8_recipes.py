"""What each step of INT8 calibration is worth: the AP of one model under every recipe, on real images.

    python -m posedge.benchmarks.int8_recipes --model model.onnx --spec model.json --images DIR \\
        --annotations val.json --calibration-annotations train.json

Every recipe is calibrated on the same crops and measured on the same persons, with int8 kernels of
onnxruntime.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ..calibration.calibrate import quantize
from ..calibration.datasets import CocoPersons, batches
from ..calibration.ranges import METHOD_NAMES
from ..calibration.recipe import Recipe
from ..errors import PosedgeError
from ..runtime.preprocess import Preprocessor
from ..runtime.sessions.onnxruntime import OnnxRuntimeSession
from ..runtime.spec import read_spec
from .accuracy import evaluate
from .place import device_description

_CALIBRATION_BATCH = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; 1 after an error that was printed."""
    options = _parser().parse_args(arguments)
    try:
        _measure(options)
    except PosedgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(options: argparse.Namespace) -> None:
    spec = read_spec(options.spec)
    persons = CocoPersons.load(options.annotations, options.images, limit=options.persons)
    calibration = CocoPersons.load(options.calibration_annotations, options.images, limit=options.crops)
    print(f"device  {device_description()}")
    print(f"data    {len(persons.persons)} persons; calibration: {len(calibration.persons)} persons\n")

    def ap(graph: Path) -> float:
        with OnnxRuntimeSession(graph, spec) as session:
            return evaluate(session, persons).figures.ap

    reference = ap(options.model)
    print(f"{'recipe':30}    AP    drop  calibration s\n{'float32':30} {reference:.3f}")
    with tempfile.TemporaryDirectory() as directory:
        for equalized, rounded in ((False, False), (True, False), (False, True), (True, True)):
            for method in METHOD_NAMES:
                graph = Path(directory) / "int8.onnx"
                begin = time.perf_counter()
                crops = batches(calibration, Preprocessor(spec), _CALIBRATION_BATCH)
                quantize(options.model, crops, graph, Recipe(method, equalized, rounded))
                took = time.perf_counter() - begin
                found = ap(graph)
                name = method + ", equalised" * equalized + ", rounded" * rounded
                print(f"{name:30} {found:.3f}  {reference - found:+.3f}  {took:13.1f}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="int8_recipes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for flag in ("--model", "--spec", "--images", "--annotations", "--calibration-annotations"):
        parser.add_argument(flag, type=Path, required=True)
    parser.add_argument("--persons", type=int, help="measure on so many persons only")
    parser.add_argument("--crops", type=int, default=128, help="calibrate on so many (default: 128)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
