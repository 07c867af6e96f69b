"""From a float32 graph and crops to an INT8 graph: the order in which the parts of calibration work.

Statistics of one pass over the crops; factors that equalise the channels; ranges; levels of the weights and
corrected biases, learned further if that is wanted; Q/DQ at the placement. Read ``calibrate`` first.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ..errors import CalibrationError
from ..export.graphs import load_graph, opset_of, quantised_operator, save_graph
from ..export.passes.fold_bias import FoldBias
from ..files import sha256_file
from ..progress import SILENT, Progress
from .bias import bias_corrections, correct_biases
from .equalize import equalize
from .factors import Factors, channel_factors, reader_influence
from .observers import Batch, Observation, few_crops_note, observe
from .patches import PatchMoments, patch_observers
from .placement import Placement, plan
from .qdq import insert_qdq
from .ranges import choose_ranges
from .recipe import DEFAULT, Recipe
from .rounding import NOT_ROUNDED, RoundedLayers, round_layers
from .shortcuts import rectified_shortcuts
from .statistics import TensorStatistics
from .table import CalibrationTable, TensorRange
from .targets import DEFAULT_TARGET
from .topology import Topology

# per-channel scales came with this version of QuantizeLinear
OLDEST_OPSET = 13

_NAMED_TENSORS = 3


@dataclass(frozen=True, eq=False)
class Calibration:
    """All that the INT8 form of one graph needs.

    table: ranges and factors, and corrections for weights at their nearest levels, as they are saved.
    model: the float32 graph with biases folded and channels scaled.
    rounded: levels of weights that are not at their nearest, with the corrections that go with them.
    """

    table: CalibrationTable
    model: onnx.ModelProto
    rounded: RoundedLayers = NOT_ROUNDED

    def placement(self, keep_float: Collection[str] = ()) -> Placement:
        """Where Q/DQ goes. keep_float: layers, by their first output, that stay in float besides those of the
        table. Raises CalibrationError at a layer that does not exist."""
        kept = {*self.table.float_layers, *keep_float}
        return plan(self.model, self.table.target, kept).without(self.table.excluded)

    def corrections(self) -> dict[str, NDArray[np.float64]]:
        """What is added to the bias (C,) of each layer when it is in INT8, by its first output."""
        added = {layer: np.array(change) for layer, change in self.table.bias_corrections.items()}
        return {**added, **self.rounded.bias_changes}

    def keeping_float(self, layers: Collection[str]) -> "Calibration":
        """The same with ``layers`` noted in its table as those that stay in float."""
        kept = tuple(dict.fromkeys((*self.table.float_layers, *layers)))
        return replace(self, table=replace(self.table, float_layers=kept))

    def quantized(self, keep_float: Collection[str] = ()) -> onnx.ModelProto:
        """The INT8 graph; equal inputs give equal bytes."""
        placement = self.placement(keep_float)
        corrections = self.corrections()
        in_int8 = {site.node for site in placement.weights}
        model = correct_biases(
            self.model, {layer: added for layer, added in corrections.items() if layer in in_int8}
        )
        return insert_qdq(model, self.table, placement, self.rounded.weights)


def quantize(
    graph: Path,
    batches: Iterable[Batch],
    output: Path,
    recipe: Recipe = DEFAULT,
    images_sha256: str | None = None,
    progress: Progress = SILENT,
    crops: int | None = None,
) -> CalibrationTable:
    """Calibrate the float32 graph with ``batches``, write its INT8 form to ``output``, return the table.

    Arguments and errors are those of ``calibrate``, and OutputError when ``output`` cannot be written.
    """
    found = calibrate(graph, batches, recipe, images_sha256, progress, crops)
    save_graph(found.quantized(), output)
    return found.table


def calibrate(
    graph: Path,
    batches: Iterable[Batch],
    recipe: Recipe = DEFAULT,
    images_sha256: str | None = None,
    progress: Progress = SILENT,
    crops: int | None = None,
) -> Calibration:
    """Find the INT8 form of the float32 graph by what ``batches`` show. Nothing is written.

    batches: float32 (N, 3, H, W) each, as the model is fed, or ``datasets.batches(...)``.
    images_sha256: ``CocoPersons.image_list_sha256`` of the crops, noted in the table.
    crops: how many crops will come, for the progress display.

    Raises GraphError when ``graph`` is no usable ONNX file, and CalibrationError when it cannot be quantised
    or the crops do not fit it. A recipe that learns needs torch, and raises what ``learning.learn`` does.
    """
    model = _folded(graph)
    placement = plan_quantization(model, graph, recipe.target)
    layers = (weight.node for weight in placement.weights) if recipe.rounded else ()
    watched = patch_observers(Topology(model), layers)
    kept: list[NDArray[np.float32]] = []
    if recipe.learned:
        # torch takes seconds to load, so only who learns does; what it cannot run is found before the pass
        from .learning import kept_crops, learn, require_torch_graph

        require_torch_graph(model)
        batches = kept_crops(batches, kept)
    branches = rectified_shortcuts(model, placement)
    seen = observe(model, batches, placement.activations, progress, crops, watched, branches)
    if note := few_crops_note(seen.crops):
        progress.note(note)
    constants = _constants(seen)
    if note := _unchanged_note(seen):
        progress.note(note)
    statistics: Mapping[str, TensorStatistics] = seen.tensors
    factors: dict[str, Factors] = {}
    if recipe.equalized:
        factors = channel_factors(model, placement, statistics)
        model = equalize(model, factors)
        statistics = {tensor: found.scaled(factors[tensor]) for tensor, found in statistics.items()}
    placement = plan(model, recipe.target)  # with the names that constants have now
    ranges = choose_ranges(recipe.method, statistics, lambda: reader_influence(model, placement, statistics))
    excluded = {**ranges.excluded, **constants}
    amax = {tensor: limit for tensor, limit in ranges.amax.items() if tensor not in excluded}
    if not amax:
        tensor, reason = next(iter(excluded.items()))
        raise CalibrationError(
            f"{graph}: no tensor of it can be calibrated ({tensor!r}: {reason}). Are the images blank? "
            "Check them, and the spec's mean and std."
        )
    placement = placement.without(excluded)
    corrections = bias_corrections(model, placement, statistics) if recipe.corrected else {}
    rounded = round_layers(model, placement, _scaled_moments(seen, factors), progress)
    if not recipe.corrected:
        rounded = replace(rounded, bias_changes={})
    table = CalibrationTable(
        sha256_file(graph),
        images_sha256,
        ranges.method,
        seen.crops,
        {tensor: _tensor_range(statistics[tensor], limit) for tensor, limit in amax.items()},
        excluded,
        _as_tuples(factors),
        recipe.target,
        _as_tuples(corrections),
    )
    found = Calibration(table, model, rounded)
    return learn(found, kept, progress) if recipe.learned else found


def write_quantized(graph: Path, table: CalibrationTable, output: Path) -> Placement:
    """Write the INT8 form of ``graph`` by ``table`` alone, which has no levels: each weight goes to its
    nearest. Returns what was quantised.

    Raises CalibrationError when the table belongs to another graph.
    """
    model = equalized_graph(graph, table)
    found = Calibration(table, model)
    save_graph(found.quantized(), output)
    return found.placement()


def equalized_graph(graph: Path, table: CalibrationTable) -> onnx.ModelProto:
    """The float32 graph whose ranges ``table`` holds, biases folded and channels scaled.

    Raises CalibrationError when the table belongs to another graph.
    """
    table.require_graph(graph)
    model = _folded(graph)
    plan_quantization(model, graph, table.target)
    if not table.channel_factors:
        return model
    factors = {tensor: np.array(channels) for tensor, channels in table.channel_factors.items()}
    return equalize(model, factors)


def plan_quantization(model: onnx.ModelProto, graph: Path, target: str = DEFAULT_TARGET) -> Placement:
    """``placement.plan`` for a graph that can be quantised at all; CalibrationError says why it cannot."""
    if quantised_operator(model):
        raise CalibrationError(f"{graph}: the graph is quantised already; give its float32 form")
    opset = opset_of(model)
    if opset < OLDEST_OPSET:
        raise CalibrationError(
            f"{graph}: its opset is {opset}; scales for each channel need {OLDEST_OPSET} or later. "
            "Export it again, or convert it with onnx.version_converter."
        )
    placement = plan(model, target)
    if not placement.inputs:
        reasons = "; ".join(f"{layer.node}: {layer.reason}" for layer in placement.float_layers[:3])
        raise CalibrationError(f"{graph}: no layer of it can be quantised ({reasons or 'it has none'})")
    return placement


def _folded(graph: Path) -> onnx.ModelProto:
    """The same function with every bias in its layer, not in an Add behind it, which INT8 could not use."""
    return FoldBias().edit(load_graph(graph))


def _constants(seen: Observation) -> dict[str, str]:
    """The tensors that held one value other than zero on all crops, each with the reason to leave it out.

    INT8 would represent that value without an error and whatever other images bring hardly at all. One crop
    shows no constants: behind a global pooling each of its tensors is one.
    """
    if seen.crops < 2:
        return {}
    values = {tensor: found.constant for tensor, found in seen.tensors.items()}
    return {
        tensor: f"it was {value:.3g} everywhere on every crop, from {seen.first} on"
        for tensor, value in values.items()
        if value is not None and value != 0
    }


def _unchanged_note(seen: Observation) -> str | None:
    """What to say of tensors whose channels differ but never changed; None where there are none.

    They keep their ranges. Layers that were pruned to their biases make such tensors in a sound model, and
    then the values are all that will ever come.
    """
    found = [
        tensor
        for tensor, statistics in seen.tensors.items()
        if statistics.channels_constant and statistics.constant is None
    ]
    if seen.crops < 2 or not found:
        return None
    named = ", ".join(map(repr, found[:_NAMED_TENSORS])) + (", ..." if len(found) > _NAMED_TENSORS else "")
    count = "1 tensor" if len(found) == 1 else f"{len(found)} tensors"
    return (
        f"{count} had the same value in each channel on every crop, from {seen.first} on: {named}. "
        "Nothing of the images reaches the layers behind; unless that is meant, check the checkpoint and the "
        "images"
    )


def _scaled_moments(seen: Observation, factors: Mapping[str, Factors]) -> dict[str, PatchMoments]:
    return {
        layer: found.moments.scaled(factors[found.tensor]) if factors else found.moments
        for layer, found in seen.patches.items()
    }


def _tensor_range(seen: TensorStatistics, amax: float) -> TensorRange:
    return TensorRange(float(seen.minimum.min()), float(seen.maximum.max()), amax)


def _as_tuples(arrays: Mapping[str, NDArray[np.float64]]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(map(float, array)) for name, array in arrays.items()}
