"""What each step of INT8 calibration is worth: the AP of one model under every recipe, on real images.

    python -m posedge.benchmarks.int8_recipes --model model.onnx --spec model.json --images DIR \\
        --annotations val.json --calibration-annotations train.json

Every recipe is calibrated on the same crops and measured on the same persons with onnxruntime, which rounds
where the graph's Q/DQ nodes say.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..calibration.calibrate import quantize
from ..calibration.datasets import CocoPersons, batches
from ..calibration.ranges import METHOD_NAMES
from ..calibration.recipe import Recipe
from ..errors import PosedgeError
from ..runtime.preprocess import Preprocessor
from ..runtime.sessions.onnxruntime import OnnxRuntimeSession
from ..runtime.spec import read_spec
from .accuracy import evaluate, match
from .bootstrap import Matches, paired_drop
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

    def found(graph: Path) -> Matches:
        with OnnxRuntimeSession(graph, spec) as session:
            return match(persons, evaluate(session, persons).predictions, spec)

    reference = found(options.model)
    print(f"{'recipe':42}    AP    drop  95 % interval     calibration s")
    print(f"{'float32':42} {reference.ap():.3f}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        graph = Path(directory) / "int8.onnx"
        for name, recipe in _recipes(options.methods, options.learned):
            begin = time.perf_counter()
            crops = batches(calibration, Preprocessor(spec), _CALIBRATION_BATCH)
            quantize(options.model, crops, graph, recipe)
            took = time.perf_counter() - begin
            int8 = found(graph)
            drop = paired_drop(reference, int8)
            interval = f"{drop.low:+.3f} to {drop.high:+.3f}"
            print(f"{name:42} {int8.ap():.3f}  {drop.drop:+.3f}  {interval}  {took:12.1f}", flush=True)


def _recipes(methods: Sequence[str], learned: bool) -> Iterator[tuple[str, Recipe]]:
    """Every range method by itself, then with one step more at a time."""
    steps = {"": (False, False, False), "equalised": (True, False, False)}
    steps |= {
        "equalised, corrected": (True, False, True),
        "equalised, corrected, rounded": (True, True, True),
    }
    for step, (equalized, rounded, corrected) in steps.items():
        for method in methods:
            name = f"{method}, {step}" if step else method
            yield name, Recipe(method, equalized, rounded, corrected)
    if learned:
        yield "the default recipe, learned", Recipe(learned=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="int8_recipes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for flag in ("--model", "--spec", "--images", "--annotations", "--calibration-annotations"):
        parser.add_argument(flag, type=Path, required=True)
    parser.add_argument("--persons", type=int, help="measure on so many persons only")
    parser.add_argument("--crops", type=int, default=128, help="calibrate on so many (default: 128)")
    parser.add_argument("--methods", nargs="+", choices=METHOD_NAMES, default=METHOD_NAMES)
    parser.add_argument("--learned", action="store_true", help="learning too, which takes minutes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
