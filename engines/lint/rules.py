"""The rules in the order in which they are applied."""

import stat
from pathlib import Path

import onnx

from .data_types import empty_tensors, non_finite_weights, wide_tensors
from .findings import EXPORT, Finding, first_line
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
    """
    unsound = structure(model)
    if unsound:
        return unsound
    graph = GraphView(model)
    return [
        *non_finite_weights(graph),
        *empty_tensors(graph),
        *wide_tensors(graph),
        *integer_operators(graph),
        *other_domains(graph),
        *quantisation(graph),
    ]
