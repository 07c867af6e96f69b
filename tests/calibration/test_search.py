"""The search for the most INT8 within a budget, on layers whose drops are known exactly."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from posedge.calibration.search import LEVELS, Drop, SearchResult, search_placement
from posedge.calibration.sensitivity import LayerSensitivity
from posedge.errors import CalibrationError

# 100 layers of equal work, of which the first is the worst; together they cost 0.1
COSTS = {f"conv{index}": 0.05 * 0.5**index for index in range(100)}
MACS = dict.fromkeys(COSTS, 1000)


def layer(name: str, error: float, macs: int = 1000) -> LayerSensitivity:
    return LayerSensitivity(name, "Conv", f"{name}_in", macs, 1.0, error, 0.0, 0.0, error)


LAYERS = tuple(layer(name, cost) for name, cost in COSTS.items())


def drop_of(kept: tuple[str, ...]) -> Drop:
    drop = sum(cost for name, cost in COSTS.items() if name not in kept)
    return Drop(drop, drop - 1e-4, drop + 1e-4, 200)


class Counted:
    """Calls a measurement and keeps what it was asked for."""

    def __init__(self, measure: Callable[[tuple[str, ...]], Drop] = drop_of) -> None:
        self.measure = measure
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, kept: tuple[str, ...]) -> Drop:
        self.asked.append(kept)
        return self.measure(kept)


def search(
    budget: float, confirm: Callable[[tuple[str, ...]], Drop] = drop_of
) -> tuple[SearchResult, Counted, Counted]:
    measuring, confirming = Counted(), Counted(confirm)
    return search_placement(LAYERS, MACS, budget, measuring, confirming), measuring, confirming


def test_all_of_int8_is_kept_where_it_fits() -> None:
    result, measuring, confirming = search(0.2)
    assert result.met
    assert result.chosen.int8_share == 1
    assert measuring.asked == confirming.asked == [()]


@pytest.mark.parametrize("budget", [0.06, 0.03, 0.01, 0.004])
def test_the_most_int8_that_keeps_the_budget(budget: float) -> None:
    result, measuring, _ = search(budget)
    assert result.met
    assert result.chosen.measured.drop <= budget
    # with 100 equal layers a level of 1 % is one layer: the levels below the choice do not keep the budget
    fitting = [level for level in LEVELS if drop_of(tuple(list(COSTS)[: round(100 * level)])).drop <= budget]
    assert result.chosen.int8_share == pytest.approx(1 - min(fitting))
    assert list(result.chosen.float_layers) == list(COSTS)[: len(result.chosen.float_layers)]
    assert len(measuring.asked) <= 6
    assert [line.split(" %")[0] for line in result.curve] == [
        f"{100 * trial.int8_share:.1f}" for trial in result.trials
    ]
    assert all(str(trial.measured) in line for trial, line in zip(result.trials, result.curve, strict=True))
    assert "  " not in result.verdict
    shares = [trial.int8_share for trial in result.trials]
    assert shares == sorted(shares, reverse=True)


def test_a_budget_that_cannot_be_met_ends_after_two_trials() -> None:
    layers = (*LAYERS, layer("heavy", 1.0, macs=200_000))

    def measure(kept: tuple[str, ...]) -> Drop:
        return Drop(0.1, 0.05, 0.2, 200) if "heavy" not in kept else Drop(0.0, 0.0, 0.0, 200)

    measuring, confirming = Counted(measure), Counted(measure)
    macs = {**MACS, "heavy": 200_000}
    result = search_placement(layers, macs, 0.01, measuring, confirming)
    assert not result.met
    assert len(measuring.asked) == 2
    assert not confirming.asked
    assert "the budget of 0.01 does not hold even with the least INT8; the closest is" in result.verdict
    assert "drop +0.1000" in result.verdict


def test_what_unseen_images_refuse_is_not_chosen() -> None:
    def stricter(kept: tuple[str, ...]) -> Drop:
        drop = drop_of(kept).drop * 3
        return Drop(drop, drop, drop, 200)

    result, _, confirming = search(0.03, stricter)
    assert result.met
    assert result.chosen.measured.drop <= 0.03
    assert result.chosen == result.confirmations[-1]
    assert len(confirming.asked) > 1


def test_a_choice_that_no_unseen_images_confirm_is_no_success() -> None:
    result, _, confirming = search(0.03, lambda _kept: Drop(0.5, 0.4, 0.6, 200))
    assert not result.met
    assert len(confirming.asked) == 3
    assert "the budget of 0.03 does not hold on 200 images that the search did not see" in result.verdict


def test_layers_that_do_no_harm_stay_in_int8() -> None:
    layers = (layer("bad", 1.0), *(layer(f"good{index}", 1e-6) for index in range(99)))
    macs = dict.fromkeys((found.node for found in layers), 1000)

    def measure(kept: tuple[str, ...]) -> Drop:
        return Drop(0.0, 0.0, 0.0, 200) if "bad" in kept else Drop(0.1, 0.05, 0.15, 200)

    result = search_placement(layers, macs, 0.01, measure, measure)
    assert result.chosen.float_layers == ("bad",)


def test_a_budget_that_few_images_cannot_show_is_called_undecided() -> None:
    """The drop is within the budget, and so may be by chance one of twice that."""
    measuring = Counted(lambda _kept: Drop(0.0035, -0.027, 0.040, 20))
    result = search_placement(LAYERS, MACS, 0.01, measuring, measuring)
    assert result.chosen.int8_share == 1
    assert measuring.asked == [(), ()], "searched and confirmed, and no other level tried"
    assert (result.outcome, result.met) == ("undecided", False)
    assert "cannot be told from the budget of 0.01 on 20 images" in result.verdict
    assert result.curve[0].endswith(
        "drop +0.0035 (-0.0270 to +0.0400), which 20 images cannot tell from the budget"
    )


def test_a_drop_above_the_budget_is_not_taken_however_wide_its_interval() -> None:
    def measure(kept: tuple[str, ...]) -> Drop:
        drop = drop_of(kept).drop
        return Drop(drop, drop - 0.02, drop + 0.02, 100)

    result = search_placement(LAYERS, MACS, 0.01, measure, measure)
    assert result.chosen.measured.drop <= 0.01


@pytest.mark.parametrize(
    ("drop", "outcome"),
    [
        (Drop(0.0092, -0.003, 0.019, 73), "holds"),
        (Drop(0.0129, -0.023, 0.055, 20), "undecided"),  # within 0.02, and so may 0.055 be
        (Drop(0.012, 0.011, 0.013, 900), "fails"),
        (Drop(0.011, 0.009, 0.013, 900), "undecided"),
    ],
)
def test_a_verdict_has_three_forms(drop: Drop, outcome: str) -> None:
    budget = 0.02 if drop.drop == 0.0129 else 0.01
    assert drop.outcome(budget) == outcome
    result = search_placement(LAYERS, MACS, budget, drop_of, lambda _kept: drop)
    assert result.outcome == outcome
    said = {
        "holds": "the budget of 0.01 holds on 73 images",
        "undecided": f"the drop cannot be told from the budget of {budget:g} on {drop.images} images",
        "fails": "the budget of 0.01 does not hold on 900 images",
    }
    assert result.verdict.startswith(said[outcome])


def test_each_level_contains_the_one_before() -> None:
    """The first layer fits only into a late level, and leaves less room there for those after it."""
    sizes = (30, 3, 7, 2, 9, 1, 14, 4, 5, 25)
    layers = [layer(f"n{index}", size * 0.5**index, size) for index, size in enumerate(sizes)]
    tried = []

    def latency(kept: tuple[str, ...]) -> float:
        tried.append(set(kept))
        return 1.0 + len(kept)

    macs = {found.node: found.macs for found in layers}
    search_placement(layers, macs, 1.0, drop_of, drop_of, latency)
    assert len(tried) > 4
    assert all(before < after for before, after in pairwise(tried))


def test_with_latencies_the_fastest_that_keeps_the_budget_is_chosen() -> None:
    """The first layers that go to float make it faster, as where INT8 costs more than it saves."""

    def latency(kept: tuple[str, ...]) -> float:
        return 10.0 - len(kept) if len(kept) <= 5 else 5.0 + 0.01 * len(kept)

    measuring, confirming = Counted(), Counted()
    result = search_placement(LAYERS, MACS, 0.2, measuring, confirming, latency)
    assert result.met
    assert len(result.chosen.float_layers) == 5, "all INT8 keeps the budget too, and is twice as slow"
    assert result.chosen.latency_ms == 5.0
    assert "5.000 ms" in result.verdict
    assert measuring.asked == [result.chosen.float_layers]

    tight = search_placement(LAYERS, MACS, 0.002, Counted(), Counted(), latency)
    assert len(tight.chosen.float_layers) > 5, "five layers in float drop 0.003"
    assert tight.chosen.measured.drop <= 0.002
    times = [trial.latency_ms or 0.0 for trial in tight.trials]
    assert times == sorted(times)


def test_a_variant_with_more_in_float_that_is_no_slower_is_preferred() -> None:
    result = search_placement(LAYERS, MACS, 0.2, drop_of, drop_of, lambda _kept: 3.0)
    assert result.chosen.int8_share < 1
    assert len(result.trials) == 1, "all other levels have less in float and are no faster"


@pytest.mark.parametrize("latency", [0.0, -1.0, float("nan"), float("inf")])
def test_a_latency_that_is_none_is_refused(latency: float) -> None:
    measuring = Counted()
    with pytest.raises(CalibrationError, match=r"the latency of the variant with \d+ layers in float is"):
        search_placement(LAYERS, MACS, 0.2, measuring, measuring, lambda _kept: latency)
    assert not measuring.asked
