"""Build again what once crashed: ``python -m posedge.engines.reproduce ENGINE.reproducer``."""

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from ..errors import BuildError, PosedgeError
from .child import run_worker
from .messages import decode_request
from .reproducer import GRAPH, REQUEST

_TIME_LIMIT_S = 600.0


def repeat(directory: Path) -> str:
    """Build the graph of a reproducer again. Returns what came of it; the engine is thrown away.

    Raises what the build raises, and BuildError for a directory that is no reproducer.
    """
    try:
        request = decode_request((directory / REQUEST).read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{directory}: this is no reproducer of a build ({error})") from error
    with tempfile.TemporaryDirectory() as scratch:
        again = replace(
            request,
            graph=str((directory / GRAPH).absolute()),
            output=os.path.join(scratch, "model.engine"),
            parent=os.getpid(),
        )
        built = run_worker(again, _TIME_LIMIT_S).built
    return f"{built.flavour} {built.version} built this graph in {built.seconds:.1f} s: the fault is gone."


def main(arguments: list[str]) -> int:
    """Print what came of it; returns 1 when the build failed again."""
    try:
        print(repeat(Path(*arguments[:1])))
    except (PosedgeError, OSError) as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
