"""`posedge build`: engines of a bundle built anew for what is here."""

import argparse
from pathlib import Path

from .arguments import seconds
from .deploy_command import batch_profile


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
    parser.add_argument(
        "--batch-profile",
        type=batch_profile,
        help="MIN,OPT,MAX of the engines (default: those of the engine that is replaced)",
    )
    parser.add_argument("--build-timeout", type=seconds, default=1800, help="seconds an engine may take")


def run(options: argparse.Namespace) -> int:
    """Build, seal, and say what was built for what."""
    from .engines import BatchProfile
    from .progress import for_terminal
    from .rebuild import rebuild

    lines = []
    with for_terminal() as progress:
        for built in rebuild(
            options.bundle,
            options.variant,
            flavour=options.flavour,
            profile=None if options.batch_profile is None else BatchProfile(*options.batch_profile),
            time_limit_s=options.build_timeout,
            progress=progress,
        ):
            size, profile = built.result.engine_bytes / 1e6, ",".join(map(str, built.build.profile))
            lines.append(
                f"{options.bundle / built.engine}: {size:.2f} MB, built in {built.result.seconds:.1f} s for "
                f"{built.build.target}, batches {profile}"
            )
    print("\n".join(lines))
    return 0
