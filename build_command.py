"""`posedge build`: engines of a bundle built anew for what is here."""

import argparse
from functools import partial
from pathlib import Path

from . import build_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be typed after `posedge build`."""
    parser.set_defaults(run=run)
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--variant", action="append", default=[], help="fp32, fp16 or int8, several times (default: all)"
    )
    parser.add_argument(
        "--flavour",
        choices=("tensorrt", "tensorrt_rtx"),
        help="the library that builds (default: TensorRT where it is installed, else TensorRT-RTX)",
    )
    build_options.add_arguments(parser, "that of the engine that is replaced")


def run(options: argparse.Namespace) -> int:
    """Build, seal, and say what was built for what."""
    from .progress import for_terminal
    from .rebuild import rebuild

    lines = []
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
            size, profile = built.result.engine_bytes / 1e6, ",".join(map(str, built.build.profile))
            lines.append(
                f"{options.bundle / built.engine}: {size:.2f} MB, built in {built.result.seconds:.1f} s for "
                f"{built.build.target}, batches {profile}"
            )
    print("\n".join(lines))
    return 0
