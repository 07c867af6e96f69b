"""As many layers in INT8 as an accuracy budget allows, or the fastest variant, by trials of whole variants.

Layers go to float in the order of what their INT8 does to the outputs for each multiply-accumulate that it
saves. Levels of that order are tried on one part of the images, coarse ones: between closer ones the accuracy
of a few hundred images shows nothing but noise. Each level's layers in float contain those of the level
before. The choice is confirmed on the other part, which it has not seen.

A level is taken when its drop is within the budget, on either part. The interval of that drop over images
says what this is worth: a budget that it cannot tell from its double is met by chance, and called undecided.

INT8 is not always faster: reformatting may cost more than it saves. Where latencies of the device are there,
a level that another with more layers in float outruns, or equals, is not tried. The levels that are left get
slower the more is in float, so the first of them that is within the budget is the fastest that is.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import CalibrationError
from .sensitivity import LayerSensitivity

# shares of the convolutions' work that are left in float, from all INT8 on
LEVELS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)

# a layer with less of all layers' error than this stays in INT8 whatever the level
_HARMLESS = 1e-3

# each try on the confirming images makes them a little less unseen
_CONFIRMATIONS = 3

# a drop holds a budget when its interval ends within this many budgets
_CLEARLY_MORE = 2

Outcome = Literal["holds", "undecided", "fails"]
"""What images say of a drop and a budget."""


@dataclass(frozen=True)
class Drop:
    """A drop of AP or top-1, the ends of its 95 % interval over images, and how many; positive is worse."""

    drop: float
    low: float
    high: float
    images: int

    def outcome(self, budget: float) -> Outcome:
        """Whether the drop keeps ``budget``.

        fails: the whole interval is above the budget. holds: the drop is within the budget, and its interval
        within twice the budget, so that the images exclude clearly more. undecided: they show neither.
        """
        if self.low > budget:
            return "fails"
        if self.drop <= budget and self.high <= _CLEARLY_MORE * budget:
            return "holds"
        return "undecided"

    def against(self, budget: float) -> str:
        """The drop and what it says of the budget, for people."""
        words = {
            "fails": "over the budget",
            "undecided": f"which {self.images} images cannot tell from the budget",
            "holds": "within the budget",
        }
        return f"drop {self}, {words[self.outcome(budget)]}"

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
    chosen: the last one of ``confirmations``; where all of them are over the budget, the one with the least
        drop, and where there are none, that of ``trials``.
    outcome: whether it keeps the budget on the images on which it was measured.
    """

    budget: float
    trials: tuple[Trial, ...]
    confirmations: tuple[Trial, ...]
    chosen: Trial
    outcome: Outcome

    @property
    def met(self) -> bool:
        """Whether images that the search did not see show that the budget holds."""
        return self.outcome == "holds"

    @property
    def curve(self) -> tuple[str, ...]:
        """INT8 share against drop with its interval on the searched images, a line for each trial."""
        return tuple(
            f"{100 * trial.int8_share:.1f} % of the convolutions' MACs in INT8: "
            f"{trial.measured.against(self.budget)}"
            for trial in self.trials
        )

    @property
    def verdict(self) -> str:
        """One sentence for people."""
        budget, images = f"the budget of {self.budget:g}", self.chosen.measured.images
        if not self.confirmations:
            return f"{budget} does not hold even with the least INT8; the closest is {self.chosen}"
        if self.outcome == "holds":
            return f"{budget} holds on {images} images that the search did not see: {self.chosen}"
        if self.outcome == "undecided":
            return (
                f"the drop cannot be told from {budget} on {images} images that the search did not see: "
                f"{self.chosen}. Measure on more images"
            )
        unseen = f"{images} images that the search did not see"
        return f"{budget} does not hold on {unseen}: {self.chosen}. Accept more"


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
    """The variant with the most INT8 that drops at most ``budget``; with ``latency``, the fastest one.

    layers: those that can be in INT8. macs: of all convolutions of the graph by their first output, those
        in float for other reasons too.
    measure, confirm: the drop on the searched and on the other images.
    latency: asked once for each level, before any drop is measured.

    At most log2 of the number of levels and a few more trials are made. It stops at once when the level with
    the least INT8 is over the budget too. Raises CalibrationError for a latency that is no positive
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
                return self._result(min(self._trials.values(), key=lambda trial: trial.measured.drop))
            passing = self._bisect(0, last)
        for level in range(passing, last + 1):
            if not self._keeps(level):
                continue
            chosen = self._trial(level, self._confirm)
            self._confirmations.append(chosen)
            if chosen.measured.drop <= self._budget:
                return self._result(chosen)
            if len(self._confirmations) == _CONFIRMATIONS:
                break
        return self._result(min(self._confirmations, key=lambda trial: trial.measured.drop))

    def _bisect(self, failing: int, passing: int) -> int:
        """The first level that is within the budget, between one that is not and one that is."""
        while passing - failing > 1:
            middle = (failing + passing) // 2
            if self._keeps(middle):
                passing = middle
            else:
                failing = middle
        return passing

    def _keeps(self, level: int) -> bool:
        """Whether the level is within the budget on the searched images."""
        if level not in self._trials:
            self._trials[level] = self._trial(level, self._measure)
        return self._trials[level].measured.drop <= self._budget

    def _trial(self, level: int, measure: Measure) -> Trial:
        placement = self._placements[level]
        share = share_in_int8(self._layers, self._macs, placement)
        return Trial(placement, share, measure(placement), self._latencies.get(placement))

    def _result(self, chosen: Trial) -> SearchResult:
        trials = tuple(self._trials[level] for level in sorted(self._trials))
        outcome = chosen.measured.outcome(self._budget)
        return SearchResult(self._budget, trials, tuple(self._confirmations), chosen, outcome)


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
    """The layers in float at each of LEVELS, the costliest for their work first, each with those of the level
    before: what a layer costs and a level allows could else put it in one level and not in the next."""
    total = sum(macs.values())

    def cost(layer: LayerSensitivity) -> float:
        # an Add has no MACs, but each of its values moves: a thousandth of the work stands for that
        return layer.error / (layer.macs + total / 1000)

    harmful = sum(layer.error for layer in layers) * _HARMLESS
    ordered = sorted((layer for layer in layers if layer.error > harmful), key=cost, reverse=True)
    placements: list[tuple[str, ...]] = []
    kept: list[str] = []
    work = 0
    for share in LEVELS:
        for layer in ordered:
            if share and layer.node not in kept and work + layer.macs <= share * total:
                kept.append(layer.node)
                work += layer.macs
        placements.append(tuple(kept))
    return placements
