"""As many layers in INT8 as an accuracy budget allows, or the fastest variant, by trials of whole variants.

Layers go to float in the order of what their INT8 does to the outputs for each multiply-accumulate that it
saves. Levels of that order are tried on one part of the images, coarse ones: between closer ones the accuracy
of a few hundred images shows nothing but noise. The choice is confirmed on the other part, which it has not
seen.

INT8 is not always faster: reformatting may cost more than it saves. Where latencies of the device are there,
a level that another with more layers in float outruns, or equals, is not tried. The levels that are left get
slower the more is in float, so the first of them that keeps the budget is the fastest that does.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ..errors import CalibrationError
from .sensitivity import LayerSensitivity

# shares of the convolutions' work that are left in float, from all INT8 on
LEVELS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)

# a layer with less of all layers' error than this stays in INT8 whatever the level
_HARMLESS = 1e-3

# each try on the confirming images makes them a little less unseen
_CONFIRMATIONS = 3


@dataclass(frozen=True)
class Drop:
    """A drop of AP or top-1, and the ends of its 95 % interval over images; positive is worse."""

    drop: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.drop:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


@dataclass(frozen=True)
class Trial:
    """One placement: its layers in float, what INT8 does of the convolutions' work (0 to 1), its drop, and
    its latency in milliseconds where that is known."""

    float_layers: tuple[str, ...]
    int8_share: float
    measured: Drop
    latency_ms: float | None = None

    def __str__(self) -> str:
        latency = "" if self.latency_ms is None else f"{self.latency_ms:.3f} ms, "
        return latency + (
            f"{100 * self.int8_share:.1f} % of the convolutions' MACs in INT8, "
            f"{len(self.float_layers)} layers in float: drop {self.measured}"
        )


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    budget: the largest drop that was accepted.
    trials: those on the searched images, from the most INT8 to the least: the curve. Where latencies are
        known, from the fastest to the slowest too.
    confirmations: those on the other images, in the order in which they were made.
    chosen: the last one of ``trials`` that was confirmed; where none was, the one with the least drop.
    met: whether it keeps the budget on both parts.
    """

    budget: float
    trials: tuple[Trial, ...]
    confirmations: tuple[Trial, ...]
    chosen: Trial
    met: bool

    @property
    def curve(self) -> tuple[str, ...]:
        """INT8 share against drop with its interval on the searched images, a line for each trial."""
        return tuple(
            f"{100 * trial.int8_share:.1f} % of the convolutions' MACs in INT8: drop {trial.measured}"
            for trial in self.trials
        )

    @property
    def verdict(self) -> str:
        """One sentence for people."""
        if self.met:
            return f"the budget of {self.budget:g} holds on images that the search did not see: {self.chosen}"
        if self.confirmations:
            return (
                f"the budget of {self.budget:g} held on the searched images and not on others: {self.chosen}"
                ". Measure on more images, or accept more"
            )
        return f"the budget of {self.budget:g} cannot be met; the closest is {self.chosen}"


def share_in_int8(
    layers: Sequence[LayerSensitivity], macs: Mapping[str, int], kept: Collection[str]
) -> float:
    """What INT8 does of the work ``macs``, 0 to 1, when all of ``layers`` but ``kept`` are in it."""
    total = sum(macs.values())
    quantised = {layer.node for layer in layers} - set(kept)
    return sum(macs.get(node, 0) for node in quantised) / total if total else 0.0


Measure = Callable[[tuple[str, ...]], Drop]
"""The drop of the variant with these layers in float."""

Latency = Callable[[tuple[str, ...]], float]
"""Milliseconds that the device takes for the variant with these layers in float."""


def search_placement(
    layers: Sequence[LayerSensitivity],
    macs: Mapping[str, int],
    budget: float,
    measure: Measure,
    confirm: Measure,
    latency: Latency | None = None,
) -> SearchResult:
    """The variant with the most INT8 whose drop stays within ``budget``; with ``latency``, the fastest one.

    layers: those that can be in INT8. macs: of all convolutions of the graph by their first output, those
        in float for other reasons too.
    measure, confirm: the drop on the searched and on the other images.
    latency: asked once for each level, before any drop is measured.

    At most log2 of the number of levels and a few more trials are made. It stops at once when the level with
    the least INT8 does not keep the budget either. Raises CalibrationError for a latency that is no positive
    number.
    """
    return _Search(layers, macs, budget, measure, confirm, latency).run()


class _Search:
    def __init__(
        self,
        layers: Sequence[LayerSensitivity],
        macs: Mapping[str, int],
        budget: float,
        measure: Measure,
        confirm: Measure,
        latency: Latency | None,
    ) -> None:
        self._macs = macs
        self._layers = layers
        self._budget = budget
        self._measure = measure
        self._confirm = confirm
        self._placements = tuple(dict.fromkeys(_levels(layers, macs)))
        self._latencies: dict[tuple[str, ...], float] = {}
        if latency is not None:
            self._latencies = _not_outrun(self._placements, latency)
            self._placements = tuple(self._latencies)
        self._trials: dict[int, Trial] = {}
        self._confirmations: list[Trial] = []

    def run(self) -> SearchResult:
        last = len(self._placements) - 1
        passing = 0
        if not self._keeps(0):
            if not self._keeps(last):
                return self._result(min(self._trials.values(), key=lambda trial: trial.measured.drop), False)
            passing = self._bisect(0, last)
        for level in range(passing, last + 1):
            if not self._keeps(level):
                continue
            chosen = self._trial(level, self._confirm)
            self._confirmations.append(chosen)
            if chosen.measured.drop <= self._budget:
                return self._result(chosen, True)
            if len(self._confirmations) == _CONFIRMATIONS:
                break
        return self._result(min(self._confirmations, key=lambda trial: trial.measured.drop), False)

    def _bisect(self, failing: int, passing: int) -> int:
        """The first level that keeps the budget, between one that does not and one that does."""
        while passing - failing > 1:
            middle = (failing + passing) // 2
            if self._keeps(middle):
                passing = middle
            else:
                failing = middle
        return passing

    def _keeps(self, level: int) -> bool:
        if level not in self._trials:
            self._trials[level] = self._trial(level, self._measure)
        return self._trials[level].measured.drop <= self._budget

    def _trial(self, level: int, measure: Measure) -> Trial:
        placement = self._placements[level]
        share = share_in_int8(self._layers, self._macs, placement)
        return Trial(placement, share, measure(placement), self._latencies.get(placement))

    def _result(self, chosen: Trial, met: bool) -> SearchResult:
        trials = tuple(self._trials[level] for level in sorted(self._trials))
        return SearchResult(self._budget, trials, tuple(self._confirmations), chosen, met)


def _not_outrun(placements: Sequence[tuple[str, ...]], latency: Latency) -> dict[tuple[str, ...], float]:
    """The latencies of those placements that are faster than all after them, which have more in float."""
    found = {placement: latency(placement) for placement in placements}
    kept: dict[tuple[str, ...], float] = {}
    for placement, milliseconds in reversed(found.items()):
        if not (math.isfinite(milliseconds) and milliseconds > 0):
            raise CalibrationError(
                f"the latency of the variant with {len(placement)} layers in float is {milliseconds} ms; a "
                "positive number is needed. Measure it again"
            )
        if milliseconds < min(kept.values(), default=math.inf):
            kept[placement] = milliseconds
    return dict(reversed(kept.items()))


def _levels(layers: Sequence[LayerSensitivity], macs: Mapping[str, int]) -> list[tuple[str, ...]]:
    """The layers in float at each of LEVELS, the costliest for their work first."""
    total = sum(macs.values())

    def cost(layer: LayerSensitivity) -> float:
        # an Add has no MACs, but each of its values moves: a thousandth of the work stands for that
        return layer.error / (layer.macs + total / 1000)

    harmful = sum(layer.error for layer in layers) * _HARMLESS
    ordered = sorted((layer for layer in layers if layer.error > harmful), key=cost, reverse=True)
    placements = []
    for share in LEVELS:
        kept: list[str] = []
        work = 0
        for layer in ordered:
            if share and work + layer.macs <= share * total:
                kept.append(layer.node)
                work += layer.macs
        placements.append(tuple(kept))
    return placements
