"""What repeats a crash (see reproduce.py): the graph and the request, in a directory beside the engine."""

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..errors import PosedgeError
from ..files import output_errors, write_text
from .child import WorkerCrash
from .messages import BuildRequest, encode_request

GRAPH, REQUEST = "graph.onnx", "request.json"
_LOG = "log.txt"


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
            shutil.copyfile(graph, directory / GRAPH)
        write_text(directory / _LOG, "".join(f"{line}\n" for line in (str(crash), *crash.log)))
        kept = replace(request, graph=GRAPH, output="")
        write_text(directory / REQUEST, encode_request(kept))
    except (PosedgeError, OSError) as error:
        return f"What repeats this could not be kept: {error}"
    return (
        f"What repeats this is kept in {directory}: "
        f"{Path(sys.executable).name} -m {__package__}.reproduce {directory}"
    )


def discard_reproducer(engine: Path) -> None:
    """Delete what an earlier crash of this engine left; a directory of that name with other content stays."""
    directory = _directory(engine)
    if (directory / REQUEST).is_file() and not directory.is_symlink():
        shutil.rmtree(directory, ignore_errors=True)


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
