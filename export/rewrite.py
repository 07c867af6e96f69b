"""The rewrites that suit one accelerator and not another, made to a graph when they are asked for."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from ..progress import SILENT, Progress
from .graph_cost import cost_of
from .graph_options import GraphOptions
from .passes.base import GraphPass, Report, apply_passes
from .passes.merge_groups import MergeGroups
from .passes.pad_channels import PadChannels
from .passes.split_transposed import SplitTransposed


def rewrite(
    model: ModelProto, options: GraphOptions, batch: NDArray[np.float32], progress: Progress = SILENT
) -> ModelProto:
    """``model`` with the rewrites of ``options``, proven to compute the same for ``batch`` (N, 3, H, W).

    ``progress`` hears what each did, what it left alone and why, and what that costs. Raises GraphError
    that names the rewrite at fault.
    """
    current = model
    for step in _passes(options, progress.note):
        before = cost_of(current)
        current = apply_passes(current, [step], batch)
        progress.note(f"{step.name}: {before} before; {cost_of(current)} after")
    return current


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
