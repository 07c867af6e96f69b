"""`posedge build`: engines of a bundle built anew for what is here."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from . import build_options

if TYPE_CHECKING:
    from .rebuild import Rebuilt

_INTERRUPTED = (
    "The bundle is valid: engines that were finished are in it, the others are as they were. "
    "--variant builds those alone."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be typed after `posedge build`."""
    parser.set_defaults(run=run, interrupted=_INTERRUPTED)
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--variant", action="append", default=[], help="fp32, fp16 or int8, several times (default: all)"
    )
    parser.add_argument(
        "--flavour",
        choices=("tensorrt", "tensorrt_rtx"),
        help="the library that builds (default: TensorRT where it is installed, else TensorRT-RTX)",
    )
    build_options.add_arguments(
        parser, "that of the engine that is replaced", "those of the engine that is replaced"
    )


def run(options: argparse.Namespace) -> int:
    """Build, seal, and say what was built for what."""
    from .progress import for_terminal
    from .rebuild import rebuild

    lines = []
    try:
        with for_terminal() as progress:
            for built in rebuild(
                options.bundle,
                options.variant,
                flavour=options.flavour,
                options=partial(build_options.from_options, options),
                time_limit_s=options.build_timeout,
                memory_limit_bytes=options.build_memory,
                progress=progress,
            ):
                lines.append(_line(options.bundle, built))
    finally:  # what was finished before a failure or Ctrl-C is sealed
        for line in lines:
            print(line)
    return 0


def _line(bundle: Path, built: "Rebuilt") -> str:
    size, profile = built.result.engine_bytes / 1e6, ",".join(map(str, built.build.profile))
    return (
        f"{bundle / built.engine}: {size:.2f} MB, built in {built.result.seconds:.1f} s for "
        f"{built.build.target}, batches {profile}"
    )
