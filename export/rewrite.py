"""The rewrites that suit one accelerator and not another, made to a graph when they are asked for."""

from collections.abc import Iterator

from onnx import ModelProto

from .graph_cost import cost_of
from .graph_options import GraphOptions
from .passes.base import GraphPass, Report, unheard
from .passes.merge_groups import MergeGroups
from .passes.pad_channels import PadChannels
from .passes.split_transposed import SplitTransposed


def rewrites(options: GraphOptions, report: Report = unheard) -> list[GraphPass]:
    """The passes that ``options`` ask for, in their order; none for PLAIN.

    ``report`` hears what each did, what it left alone and why, and what that costs.
    """
    return [_Costed(step, report) for step in _passes(options, report)]


class _Costed(GraphPass):
    """A pass that says what the graph costs before and after it."""

    def __init__(self, step: GraphPass, report: Report) -> None:
        self._step = step
        self._report = report

    @property
    def name(self) -> str:
        return self._step.name

    def edit(self, model: ModelProto) -> ModelProto:
        before = cost_of(model)
        edited = self._step.edit(model)
        self._report(f"{self.name}: {before} before; {cost_of(edited)} after")
        return edited


def _passes(options: GraphOptions, note: Report) -> Iterator[GraphPass]:
    """Groups first: what is merged into one group can be padded."""

    def labelled(name: str) -> Report:
        return lambda line: note(f"{name}: {line}")

    if options.merge_groups is not None:
        yield MergeGroups(options.merge_groups, labelled("MergeGroups"))
    if options.pad_channels:
        yield PadChannels(report=labelled("PadChannels"))
    if options.dla_friendly:
        yield SplitTransposed(labelled("SplitTransposed"))
