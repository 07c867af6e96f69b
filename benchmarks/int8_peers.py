"""posedge's INT8 calibration beside others': one model, the same crops, persons and evaluation, in one run.

    python -m posedge.benchmarks.int8_peers --model model.onnx --spec model.json --images DIR \\
        --annotations val.json --calibration-annotations train.json [-o peers.json]

Each calibrator works in a process of its own, which is ended at a limit of memory and time; a row then says
so. AP is measured with int8 kernels of onnxruntime. MACs are those of convolutions, transposed ones included.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..arguments import count
from ..calibration.datasets import CocoPersons
from ..calibration.macs import int8_share
from ..errors import PosedgeError
from ..export.graphs import load_graph
from ..files import write_text
from ..runtime.sessions.onnxruntime import OnnxRuntimeSession
from ..runtime.spec import read_spec
from .accuracy import evaluate
from .peer_calibrators import PEERS, RECIPES, Job, Peer
from .place import device_description, library_versions
from .watched import GIB, Ended, Limits, add_limits, limits_of, watched

_MIB = 1 << 20


@dataclass(frozen=True)
class Row:
    """What was measured of one graph; None where it was not, and ``note`` says why.

    int8_share: of the multiply-accumulates of convolutions, 0 to 1.
    seconds, peak_bytes: of the calibration, from reading the first image to the graph's file.
    """

    name: str
    ap: float | None = None
    drop: float | None = None
    int8_share: float | None = None
    seconds: float | None = None
    peak_bytes: int | None = None
    note: str = ""

    def __str__(self) -> str:
        figures = [
            _cell(self.ap, ".3f"),
            _cell(self.drop, "+.3f"),
            _cell(self.int8_share, ".1%"),
            _cell(self.seconds, ".1f"),
            _cell(None if self.peak_bytes is None else self.peak_bytes / _MIB, ".0f"),
        ]
        return _LINE.format(self.name, *figures, self.note).rstrip()


_LINE = "{:26} {:>6} {:>7} {:>9} {:>8} {:>9}  {}"
_HEADER = _LINE.format("calibrator", "AP", "drop", "INT8 MACs", "seconds", "peak MiB", "")


def _cell(figure: float | None, form: str) -> str:
    return "-" if figure is None else format(figure, form)


@dataclass(frozen=True, eq=False)
class _Data:
    """The files of a run; every process reads them itself."""

    model: Path
    spec: Path
    images: Path
    annotations: Path
    calibration_annotations: Path
    persons: int | None
    crops: int

    def measured(self) -> CocoPersons:
        return CocoPersons.load(self.annotations, self.images, limit=self.persons)

    def calibration(self) -> CocoPersons:
        return CocoPersons.load(self.calibration_annotations, self.images, limit=self.crops)


def _calibrate(peer: Peer, data: _Data, output: Path) -> float:
    """Do the peer's calibration; the seconds that it took."""
    job = Job(data.model, read_spec(data.spec), data.calibration(), output)
    begin = time.perf_counter()
    peer.calibrate(job)
    return time.perf_counter() - begin


def _evaluate(data: _Data, graph: Path) -> tuple[float, float]:
    """AP of a graph and its share of INT8."""
    with OnnxRuntimeSession(graph, read_spec(data.spec)) as session:
        ap = evaluate(session, data.measured()).figures.ap
    return ap, int8_share(load_graph(graph))


def _rows(data: _Data, peers: Sequence[Peer], limits: Limits) -> Iterator[Row]:
    reference = watched(limits, _evaluate, data, data.model)
    if isinstance(reference, Ended):
        yield Row("float32", note=reference.reason)
        return
    ap = reference.value[0]
    yield Row("float32", ap, 0.0, reference.value[1])
    with tempfile.TemporaryDirectory() as directory:
        for index, peer in enumerate(peers):
            yield _row(peer, data, limits, Path(directory) / f"{index}.onnx", ap)


def _row(peer: Peer, data: _Data, limits: Limits, graph: Path, reference: float) -> Row:
    if not peer.installed:
        return Row(peer.label, note="not installed")
    calibrated = watched(limits, _calibrate, peer, data, graph)
    if isinstance(calibrated, Ended):
        return Row(peer.label, note=calibrated.reason)
    seconds, peak = calibrated.value, calibrated.peak_bytes
    found = watched(limits, _evaluate, data, graph)
    if isinstance(found, Ended):
        return Row(peer.label, seconds=seconds, peak_bytes=peak, note=f"evaluation: {found.reason}")
    ap, share = found.value
    return Row(peer.label, ap, reference - ap, share, seconds, peak)


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
    data = _Data(
        options.model,
        options.spec,
        options.images,
        options.annotations,
        options.calibration_annotations,
        options.persons,
        options.crops,
    )
    limits = limits_of(options)
    persons, crops = len(data.measured().persons), len(data.calibration().persons)
    place = {
        "device": device_description(),
        "data": f"{persons} persons, calibrated on {crops} crops",
        "limits": f"{limits.memory_bytes / GIB:.1f} GiB and {limits.seconds:.0f} s for each process",
    }
    for name, text in place.items():
        print(f"{name:7} {text}")
    print(f"\n{_HEADER}", flush=True)
    rows = []
    for row in _rows(
        data, [RECIPES[name] for name in options.recipes] + [PEERS[name] for name in options.peers], limits
    ):
        print(row, flush=True)
        rows.append(row)
    if options.output is not None:
        document = {**place, "versions": library_versions(), "rows": [asdict(row) for row in rows]}
        write_text(options.output, json.dumps(document, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="int8_peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for flag in ("--model", "--spec", "--images", "--annotations", "--calibration-annotations"):
        parser.add_argument(flag, type=Path, required=True)
    parser.add_argument("--persons", type=count, help="measure on so many persons only")
    parser.add_argument("--crops", type=count, default=128, help="calibrate on so many (default: 128)")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="default: all of them")
    parser.add_argument(
        "--recipes", nargs="*", choices=RECIPES, default=list(RECIPES), help="posedge's own (default: all)"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="write the figures here too")
    add_limits(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
