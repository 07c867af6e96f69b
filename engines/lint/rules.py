"""The rules in the order in which they are applied."""

import stat
from collections.abc import Iterator
from pathlib import Path

import onnx

from .data_types import empty_tensors, non_finite_weights, wide_tensors
from .findings import EXPORT, Finding, first_line, unmendable
from .graph_view import GraphView
from .operators import integer_operators, other_domains
from .quantisation import quantisation
from .structure import structure


def lint_file(path: Path) -> list[Finding]:
    """The findings of an ONNX file, in the order of the graph; a file that is no graph is a finding too."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return [Finding("not-onnx", "", "it is not a regular file", "Name an ONNX file")]
        if status.st_size == 0:
            return [Finding("empty-file", "", "the file is empty", EXPORT)]
        model = onnx.load(path)
    # protobuf, onnx and the system each have their own for a file they cannot read
    except Exception as error:
        message = f"the file is not a readable ONNX model ({first_line(error)})"
        return [Finding("not-onnx", "", message, EXPORT)]
    return lint(model)


def lint(model: onnx.ModelProto) -> list[Finding]:
    """The findings of a model, in the order of the graph. An empty list means that it may be built.

    The rules on types, weights and quantisation are applied only to a graph that is sound as a structure.
    Graphs inside nodes (of If, Loop, Scan) are looked at after the one around them.
    """
    unsound = structure(model)
    if unsound:
        return unsound
    graph = GraphView(model)
    return [*_of(graph), *(unmendable(finding) for inner in graph.inner() for finding in _of(inner))]


def _of(graph: GraphView) -> Iterator[Finding]:
    yield from non_finite_weights(graph)
    yield from empty_tensors(graph)
    yield from wide_tensors(graph)
    yield from integer_operators(graph)
    yield from other_domains(graph)
    yield from quantisation(graph)
