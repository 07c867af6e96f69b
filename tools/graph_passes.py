"""What the optional graph passes do to a graph, as a table: sizes, arithmetic, difference, engines.

    python tools/graph_passes.py                              docs/graph_passes.md again: three zoo networks
    python tools/graph_passes.py out/NAME/fp32.onnx -o table.md        a graph that posedge has written
    python tools/graph_passes.py rsn_50_256x192 --merge-groups 1 -o table.md

A name of the zoo is exported with random weights. Every form is built by TensorRT-RTX as FP32, FP16 and INT8
engine, which needs no GPU; activation ranges are those of random input, and the sizes do not depend on them.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from posedge.calibration.calibrate import quantize
from posedge.calibration.half import write_float16
from posedge.calibration.recipe import Recipe
from posedge.engines import BatchProfile, build_engine
from posedge.errors import PosedgeError
from posedge.export.graph_cost import cost_of
from posedge.export.graph_options import PLAIN, GraphOptions
from posedge.export.graphs import load_graph, random_batch, run_graph, save_graph, spec_of
from posedge.export.onnx_export import export_onnx
from posedge.export.passes.base import apply_passes, relative_difference
from posedge.export.rewrite import rewrites
from posedge.export.zoo import ZOO, build_model
from posedge.files import write_text
from posedge.progress import LineProgress

MODELS = ("rsn_18_256x192", "pose_resnext_50_256x192", "pose_resnest_50_256x192")
_DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "graph_passes.md"
_PROFILE = BatchProfile(1, 8, 32)


def table(model: ModelProto, groups: Sequence[int]) -> str:
    """One line for each form of ``model``; a form that changes nothing has no figures of its own."""
    spec = spec_of(model)
    batch = random_batch(spec, 2, seed=1)
    expected = _outputs(model, batch)
    lines = [f"| {' | '.join(_COLUMNS)} |", "|-" * len(_COLUMNS) + "|"]
    for form, options in _forms(groups):
        result = apply_passes(model, rewrites(options, LineProgress(sys.stderr).note), batch)
        if options != PLAIN and result.graph.node == model.graph.node and _weights(result) == _weights(model):
            cells = ["changes nothing", *[""] * (len(_COLUMNS) - 2)]
        else:
            cells = _figures(result, batch, expected)
        lines.append(f"| {form} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def _forms(groups: Sequence[int]) -> Iterator[tuple[str, GraphOptions]]:
    yield "as exported", PLAIN
    yield "`--pad-channels`", GraphOptions(pad_channels=True)
    yield "`--dla-friendly`", GraphOptions(dla_friendly=True)
    for count in groups:
        yield f"`--merge-groups {count}`", GraphOptions(merge_groups=count)
    yield f"all three, groups {groups[0]}", GraphOptions(True, True, groups[0])


def _weights(model: ModelProto) -> dict[str, bytes]:
    return {tensor.name: tensor.SerializeToString(deterministic=True) for tensor in model.graph.initializer}


def _outputs(model: ModelProto, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Without onnxruntime's optimisations and with them, which choose other kernels."""
    name = spec_of(model).output_name
    return [run_graph(model, batch, [name], optimise=optimise)[name] for optimise in (False, True)]


def _figures(model: ModelProto, batch: NDArray[np.float32], expected: list[NDArray[np.float32]]) -> list[str]:
    cost = cost_of(model)
    difference = max(map(relative_difference, expected, _outputs(model, batch)))
    cells = [f"{cost.nodes}", f"{cost.parameters / 1e6:.2f}"]
    cells.append("unknown" if cost.macs is None else f"{cost.macs / 1e9:.2f}")
    cells.append(f"{difference:.1e}" if difference else "none")
    with tempfile.TemporaryDirectory() as folder:
        cells += [f"{size / 1e6:.1f}" for size in _engine_sizes(model, Path(folder))]
    return cells


def _engine_sizes(model: ModelProto, folder: Path) -> Iterator[int]:
    """Bytes of the FP32, FP16 and INT8 engines."""
    graph, half, int8 = (folder / f"{name}.onnx" for name in ("fp32", "fp16", "int8"))
    save_graph(model, graph)
    write_float16(graph, half)
    quantize(graph, (random_batch(spec_of(model), 1, seed) for seed in range(2)), int8, Recipe("minmax"))
    for path in (graph, half, int8):
        engine = path.with_suffix(".engine")
        yield build_engine(path, engine, _PROFILE, flavour="tensorrt_rtx", time_limit_s=1800).engine_bytes


def _graph(name: str) -> ModelProto:
    """The ONNX file of that name, or the zoo's network with random weights, exported."""
    if name not in ZOO:
        return load_graph(Path(name))
    from random_weights import set_random_weights

    network = build_model(name)
    set_random_weights(network)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fp32.onnx"
        export_onnx(network, ZOO[name].spec, path)
        return load_graph(path)


_COLUMNS = (
    "form",
    "nodes",
    "parameters, M",
    "MACs, G",
    "largest difference",
    *(f"{variant} engine, MB" for variant in ("FP32", "FP16", "INT8")),
)

_NOTES = """\
Written by `tools/graph_passes.py`: networks of the zoo with random weights, TensorRT-RTX {rtx}, onnxruntime
{onnxruntime}, on a machine without a GPU.

- nodes, parameters: of the float32 graph; zeros that a pass added are counted.
- MACs: multiply-accumulates of one image.
- largest difference: of the outputs, from those of the graph as exported, as a part of the largest output;
  the larger one of onnxruntime with and without its optimisations. None: every bit is the same.
- engine: file size for batches of {profile.min} to {profile.max}, before a GPU has seen it.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="a name of the zoo, or an ONNX file")
    parser.add_argument("--merge-groups", type=int, nargs="+", default=(1, 8), metavar="N")
    parser.add_argument("-o", "--output", type=Path, default=_DOCUMENT)
    options = parser.parse_args()
    try:
        notes = _NOTES.format(
            rtx=version("tensorrt-rtx-cu13"), onnxruntime=version("onnxruntime"), profile=_PROFILE
        )
        parts = [notes]
        for name in options.models or MODELS:
            parts.append(f"### {name}\n\n{table(_graph(name), options.merge_groups)}\n")
        write_text(options.output, _with_tables(options.output, "\n".join(parts)))
    except PosedgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _with_tables(path: Path, tables: str) -> str:
    """What is in the file already up to its heading of measurements, and the tables behind it."""
    before = path.read_text("utf-8").split(_HEADING)[0] if path.is_file() else ""
    return f"{before}{_HEADING}\n{tables}"


_HEADING = "## Measured\n"

if __name__ == "__main__":
    sys.exit(main())
