"""Export, verify and build every model of the zoo with random weights, and write the table of docs/zoo.md.

    python tools/zoo_table.py --work DIR                 all 22, one after another
    python tools/zoo_table.py --work DIR rsn_18_256x192  these only; the others keep what DIR has of them
    python tools/zoo_table.py --work DIR --table-only    write the table from what DIR has

Each model runs in a process of its own, whose time and largest memory are part of the result. What is in DIR
already is not measured again; what is in neither is "not measured" in the table.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedge.calibration.calibrate import quantize
from posedge.calibration.half import write_float16
from posedge.engines.build import BatchProfile, build_engine
from posedge.errors import PosedgeError
from posedge.export.graphs import load_graph, random_batch
from posedge.export.zoo import ZOO, ZooEntry, find_entry
from posedge.files import write_text
from posedge.runtime.spec import ModelSpec

Figures = dict[str, Any]

_DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "zoo.md"
_VARIANTS = ("fp32", "fp16", "int8")
_CALIBRATION_BATCHES = 2
_UNKNOWN = "not measured"


def measure_export(entry: ZooEntry, directory: Path) -> Figures:
    """Export and verify one model; the graph stays in ``directory``."""
    import torch
    from random_weights import set_random_weights

    from posedge.export.macs import count_cost
    from posedge.export.onnx_export import export_onnx
    from posedge.export.verify import verify_export
    from posedge.export.zoo import build_model

    begin = time.monotonic()
    model = build_model(entry.name)
    set_random_weights(model)
    graph = directory / "fp32.onnx"
    export_onnx(model, entry.spec, graph)
    exported = time.monotonic()
    report = verify_export(model, graph, entry.spec)
    verified = time.monotonic()
    with torch.device("meta"):
        cost = count_cost(build_model(entry.name), entry.spec.input_wh)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    operators = Counter(node.op_type for node in load_graph(graph).graph.node)
    return {
        "parameters": cost.parameters,
        "macs": cost.macs,
        "deployed_macs": cost.deployed_macs,
        "nodes": sum(operators.values()),
        "operators": dict(sorted(operators.items())),
        "largest_difference": report.largest,
        "export_s": exported - begin,
        "verify_s": verified - exported,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def measure_engines(entry: ZooEntry, directory: Path) -> Figures:
    """Build the three variants of the graph in ``directory``; the sizes of their engines in bytes."""
    source = directory / "fp32.onnx"
    write_float16(source, directory / "fp16.onnx")
    quantize(source, _noise(entry.spec), directory / "int8.onnx")
    figures: Figures = {}
    for variant in _VARIANTS:
        built = build_engine(
            directory / f"{variant}.onnx",
            directory / f"{variant}.engine",
            BatchProfile(1, 8, 32),
            flavour="tensorrt_rtx",
            time_limit_s=1800,
        )
        figures[variant] = {
            "engine_bytes": built.engine_bytes,
            "seconds": built.seconds,
            "peak_bytes": built.peak_memory_bytes,
            "version": built.version,
        }
    return {"engines": figures}


def _noise(spec: ModelSpec) -> Iterator[NDArray[np.float32]]:
    """Sizes of engines do not depend on the ranges, so noise will do for them."""
    for seed in range(_CALIBRATION_BATCHES):
        yield random_batch(spec, 1, seed)


def run_model(name: str, work: Path) -> None:
    """Measure what ``work`` does not have yet, each step in a process, and keep the result."""
    directory = work / name
    directory.mkdir(parents=True, exist_ok=True)
    for step in ("export", "engines"):
        if (directory / f"{step}.json").is_file():
            continue
        command = [sys.executable, __file__, "--work", str(work), "--step", step, name]
        done = subprocess.run(command, env=os.environ, check=False)
        print(f"{name}: {step} {'finished' if done.returncode == 0 else 'failed'}", flush=True)
        if done.returncode != 0:
            return
    for file in [*directory.glob("*.onnx"), *directory.glob("*.engine")]:
        file.unlink()


def run_step(name: str, step: str, work: Path) -> None:
    entry, directory = find_entry(name), work / name
    measure = {"export": measure_export, "engines": measure_engines}[step]
    write_text(directory / f"{step}.json", json.dumps(measure(entry, directory), indent=1))


def table(work: Path) -> str:
    """docs/zoo.md from the results in ``work``."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|-" * len(_COLUMNS) + "|"]
    lines += [_row(entry, _figures(work / entry.name)) for entry in ZOO.values()]
    return "\n".join([_HEADER, *lines, "", _footer(work)])


def _figures(directory: Path) -> Figures:
    figures: Figures = {}
    for step in ("export", "engines"):
        if (directory / f"{step}.json").is_file():
            figures |= json.loads((directory / f"{step}.json").read_text())
    return figures


def _row(entry: ZooEntry, figures: Figures) -> str:
    cells = [f"`{entry.name}`", str(figures.get("nodes", _UNKNOWN))]
    cells += [f"{entry.parameters / 1e6:.2f}", f"{entry.macs / 1e9:.2f}"]
    cells.append(f"{figures['deployed_macs'] / 1e9:.2f}" if figures else _UNKNOWN)
    engines = figures.get("engines", {})
    for variant in _VARIANTS:
        cells.append(f"{engines[variant]['engine_bytes'] / 1e6:.1f}" if variant in engines else _UNKNOWN)
    cells.append(f"{figures['export_s'] + figures['verify_s']:.0f}" if figures else _UNKNOWN)
    cells.append(f"{figures['peak_bytes'] / 1e9:.2f}" if figures else _UNKNOWN)
    return f"| {' | '.join(cells)} |"


def _footer(work: Path) -> str:
    measured = [figures for name in ZOO if "nodes" in (figures := _figures(work / name))]
    if not measured:
        return ""
    engines = [engine for figures in measured for engine in figures.get("engines", {}).values()]
    versions = ", ".join(sorted({engine["version"] for engine in engines})) or _UNKNOWN
    minutes = sum(figures["export_s"] + figures["verify_s"] for figures in measured) / 60
    cpu_minutes = sum(figures["cpu_s"] for figures in measured) / 60
    memory = max(figures["peak_bytes"] for figures in measured) / 1e9
    difference = max(figures["largest_difference"] for figures in measured)
    return (
        f"{len(measured)} of {len(ZOO)} models were exported and verified, in {minutes:.1f} minutes "
        f"({cpu_minutes:.1f} minutes of processor time) and at most {memory:.2f} GB of memory. The largest "
        f"difference from torch was {difference:.1e} of the largest output. TensorRT-RTX {versions}.\n"
    )


_COLUMNS = (
    "model",
    "nodes",
    "parameters, M",
    "MACs, G",
    "deployed MACs, G",
    *(f"{variant} engine, MB" for variant in _VARIANTS),
    "export and verify, s",
    "peak memory, GB",
)

_HEADER = """# The zoo in figures

Written by `tools/zoo_table.py` with random weights, on a shared machine with two cores and no GPU.

- nodes: operators of the exported float32 graph, opset 17.
- parameters, MACs: of the whole network; multiply-accumulates for one input. RSN's include heads and skips
  that only training reads; deployed MACs are those of the exported graph.
- engine: size of a TensorRT-RTX engine for batches of 1 to 32, as it is built, before a GPU has seen it.
- export and verify: wall time of both, with comparisons to torch at batches of 1 and 5. Other work ran on the
  machine at the same time.
- peak memory: of that process, torch included.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--work", type=Path, required=True, help="directory for results and graphs")
    parser.add_argument("--table-only", action="store_true")
    parser.add_argument(
        "--step", choices=("export", "engines"), help="one step of one model, in this process"
    )
    parser.add_argument("-o", "--output", type=Path, default=_DOCUMENT)
    options = parser.parse_args()
    try:
        names = [find_entry(name).name for name in options.names] or list(ZOO)
        if options.step:
            run_step(names[0], options.step, options.work)
            return 0
        for name in () if options.table_only else names:
            run_model(name, options.work)
        write_text(options.output, table(options.work))
    except PosedgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
