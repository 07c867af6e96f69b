"""The command `posedge`: one function a command, each importing what it needs when it runs."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from . import (
    __version__,
    build_command,
    calibrate_command,
    deploy_command,
    doctor_command,
    export_command,
    inspect_command,
    picture,
    verify_command,
)
from .arguments import marked_numbers
from .errors import PosedgeError
from .extras import missing_extra
from .interrupts import watched_interrupts

INTERRUPTED = 130  # what a shell reports for a program stopped by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, or 1 after an error that was printed; misuse exits with 2."""
    options = _parser().parse_args(marked_numbers(sys.argv[1:] if arguments is None else arguments))
    # torch's threads spin while they wait for each other: where other work runs that made it ten times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with watched_interrupts() as interrupts:
        try:
            result: int = options.run(options)
            return result
        except KeyboardInterrupt:
            return _interrupted(options)
        except BrokenPipeError:  # `posedge zoo | head`
            sys.stderr.close()
            return 1
        except Exception as error:
            if interrupts.pressed:  # a library took the interrupt for a failure of its own
                return _interrupted(options)
            shown = missing_extra(error) if isinstance(error, ImportError) else error
            if options.debug or not isinstance(shown, PosedgeError):
                raise
            print(f"posedge: {shown}", file=sys.stderr)
            return 1


def _interrupted(options: argparse.Namespace) -> int:
    """Say what is left, which most commands keep stage by stage; a command may have words of its own."""
    usual = "Finished stages are kept; the same command goes on from there."
    print(f"posedge: interrupted. {getattr(options, 'interrupted', usual)}", file=sys.stderr)
    return INTERRUPTED


def run_demo(options: argparse.Namespace) -> int:
    """The main job on drawn pictures and the network that the package carries."""
    from .demo import NEXT, demo
    from .progress import for_terminal

    with for_terminal() as progress:
        outcome = demo(options.output, progress)
    outcome.show()
    print(NEXT)
    return 0


def run_zoo(options: argparse.Namespace) -> int:
    """What there is."""
    from .export.zoo import ZOO
    from .export.zoo_table import listing, markdown

    print(markdown(ZOO.values()) if options.markdown else listing(ZOO.values()))
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}. See {self.prog} --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="posedge", description="Vision models from checkpoint to edge engine.")
    parser.add_argument("--version", action="version", version=f"posedge {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    deploy_command.add_arguments(
        commands.add_parser("deploy", help="checkpoint or ONNX to engines, measured")
    )
    calibrate_command.add_arguments(
        commands.add_parser("calibrate", help="checkpoint or ONNX to an INT8 graph, not measured")
    )
    export_command.add_arguments(commands.add_parser("export", help="checkpoint to a verified ONNX file"))
    demo = commands.add_parser("demo", help="the main job on drawn pictures that the package carries")
    demo.add_argument("-o", "--output", type=Path, default=Path("out/demo"), help="default: out/demo")
    demo.set_defaults(run=run_demo)
    picture.add_arguments(
        commands.add_parser("run", help="keypoints of one picture, drawn into it; or its classes")
    )
    zoo = commands.add_parser("zoo", help="models known by name")
    zoo.add_argument("--markdown", action="store_true", help="the published figures as tables in Markdown")
    zoo.set_defaults(run=run_zoo)
    build_command.add_arguments(commands.add_parser("build", help="engines of a bundle, for what is here"))
    verify_command.add_arguments(
        commands.add_parser("verify", help="check every file of a bundle; with --run, run it")
    )
    inspect_command.add_arguments(
        commands.add_parser("inspect", help="what is in a graph and wrong with it, or in a bundle's engines")
    )
    doctor_command.add_arguments(
        commands.add_parser("doctor", help="what this machine has, lacks and can do, tried")
    )
    spec = commands.add_parser("spec", help="how an ONNX file is fed and read")
    export_command.add_spec_init_arguments(
        spec.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser(
            "init", help="write a first spec by looking at the graph"
        )
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
