"""What repeats a crash of a library: the graph and the request, in a directory beside the engine.

    python -m posedge.engines.reproducer DIR

builds the graph of such a directory again, in a child process as before, and prints what came of it.
"""

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..errors import PosedgeError
from ..files import output_errors, write_text
from .child import WorkerCrash, run_worker
from .messages import BuildRequest, decode_request, encode_request

_GRAPH, _LOG, _REQUEST = "graph.onnx", "log.txt", "request.json"
_TIME_LIMIT_S = 600.0


def keep_reproducer(request: BuildRequest, engine: Path, crash: WorkerCrash) -> str:
    """Copy what led to a crash to ENGINE.reproducer/; returns a line that says where, or why not.

    graph.onnx has the graph, with the files of its external weights beside it; log.txt the last lines of the
    log; request.json the request, which is written last.
    """
    directory = _directory(engine)
    graph = Path(request.graph)
    try:
        with output_errors(directory):
            discard_reproducer(engine)
            directory.mkdir(parents=True, exist_ok=True)
            for weights in _external_weights(graph):
                (directory / weights).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(graph.parent / weights, directory / weights)
            shutil.copyfile(graph, directory / _GRAPH)
        write_text(directory / _LOG, "".join(f"{line}\n" for line in (str(crash), *crash.log)))
        kept = replace(request, graph=_GRAPH, output="")
        write_text(directory / _REQUEST, encode_request(kept))
    except (PosedgeError, OSError) as error:
        return f"What repeats this could not be kept: {error}"
    return (
        f"What repeats this is kept in {directory}: "
        f"{Path(sys.executable).name} -m {__package__}.reproducer {directory}"
    )


def discard_reproducer(engine: Path) -> None:
    """Delete what an earlier crash of this engine left; a directory of that name with other content stays."""
    directory = _directory(engine)
    if (directory / _REQUEST).is_file() and not directory.is_symlink():
        shutil.rmtree(directory, ignore_errors=True)


def repeat(directory: Path) -> str:
    """Build the graph of a reproducer again. Returns what came of it; the engine is thrown away."""
    request = decode_request((directory / _REQUEST).read_text("utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        again = replace(
            request,
            graph=str((directory / _GRAPH).absolute()),
            output=os.path.join(scratch, "model.engine"),
            parent=os.getpid(),
        )
        built = run_worker(again, _TIME_LIMIT_S).built
    return f"{built.flavour} {built.version} built this graph in {built.seconds:.1f} s: the fault is gone."


def _directory(engine: Path) -> Path:
    return engine.with_name(f"{engine.name}.reproducer")


def _external_weights(graph: Path) -> Iterator[str]:
    """Where a graph's weights lie that are not in its file, relative to it; none outside its directory."""
    if importlib.util.find_spec("onnx") is None:
        return
    import onnx

    try:
        model = onnx.load(graph, load_external_data=False)
    except Exception:  # not even onnx can read it; then the file itself is the matter
        return
    places = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for place in sorted(places):
        path = graph.parent / place
        if path.is_file() and path.resolve().is_relative_to(graph.parent.resolve()):
            yield place


def main(arguments: list[str]) -> int:
    """Print what came of building a reproducer again; 1 when it failed."""
    try:
        print(repeat(Path(arguments[0])))
    except (PosedgeError, OSError) as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
