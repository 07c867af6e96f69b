"""`posedge export` and `posedge spec init`: what is done with one model file, without data."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import count
from .errors import OutputError

if TYPE_CHECKING:
    from .export.graph_options import GraphOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be typed after `posedge export`."""
    parser.set_defaults(run=run_export)
    add_source(parser)
    parser.add_argument("-o", "--output", type=Path, help="ONNX file to write (default: NAME.onnx)")
    add_graph_options(parser)


def add_spec_init_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be typed after `posedge spec init`."""
    parser.set_defaults(run=run_spec_init)
    parser.add_argument("model", type=Path, help="an ONNX file")
    parser.add_argument("-o", "--output", type=Path, help="spec file to write (default: MODEL.json)")


def add_source(parser: argparse.ArgumentParser) -> None:
    """The model, as every command takes it that starts from one."""
    parser.add_argument("model", help="a name of the zoo (posedge zoo), or an ONNX file with --spec")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="weights of a zoo model (.pth, .safetensors; default: fetch the official)",
    )
    parser.add_argument("--spec", type=Path, help="how the ONNX file is fed and read (JSON)")


def add_graph_options(parser: argparse.ArgumentParser) -> None:
    """The rewrites of ``graph_options``."""
    graph = parser.add_argument_group("graph", "rewrites that keep what the model computes")
    graph.add_argument(
        "--pad-channels", action="store_true", help="pad channels with zeros to multiples of 32"
    )
    graph.add_argument(
        "--dla-friendly", action="store_true", help="crop behind transposed convolutions, not pad in them"
    )
    graph.add_argument(
        "--merge-groups", type=count, metavar="N", help="merge convolutions of more groups into N"
    )


def graph_options(options: argparse.Namespace) -> "GraphOptions":
    """What was typed for ``add_graph_options``."""
    from .export.graph_options import GraphOptions

    return GraphOptions(options.pad_channels, options.dla_friendly, options.merge_groups)


def run_export(options: argparse.Namespace) -> int:
    """Checkpoint to a verified ONNX file."""
    from .export.source import open_source
    from .progress import for_terminal

    source = open_source(options.model, options.checkpoint, options.spec, graph_options(options))
    output = options.output or Path(f"{source.spec.name}.onnx")
    _check_output(output, (Path(options.model), options.checkpoint))
    with for_terminal() as progress:
        source.fetch(progress)
        source.export(output, None, progress)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, verified on random input")
    return 0


def run_spec_init(options: argparse.Namespace) -> int:
    """A first spec of an ONNX file, with gaps where the graph does not tell."""
    from .extras import GRAPHS, require_all
    from .files import write_text

    require_all(GRAPHS)
    from .export.draft_spec import draft_spec

    path = options.output or options.model.with_suffix(".json")
    if path.exists():
        raise OutputError(f"{path} is there already and may have been filled in; name another with -o FILE")
    draft = draft_spec(options.model)
    write_text(path, draft.to_json())
    print(f"{path} is written.")
    for title, lines in (
        ("To fill in, null in the file:", [f"{key}: {hint}" for key, hint in draft.unknown.items()]),
        ("Assumed, to be corrected where it is wrong:", draft.assumed),
    ):
        if lines:
            print("\n  ".join([title, *lines]))
    return 0


def _check_output(output: Path, inputs: Sequence[Path | None]) -> None:
    """Refuse before the work what could not be written after it."""
    if output.is_dir():
        raise OutputError(f"{output} is a directory; name a file in it with -o")
    for path in inputs:
        if path is not None and path.exists() and output.exists() and output.samefile(path):
            raise OutputError(f"{output}: the result would replace {path}; name another file with -o")
