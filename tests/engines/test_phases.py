"""The builder's nested phases as one fraction."""

from hypothesis import given
from hypothesis import strategies as st

from posedge.engines.phases import PhaseFraction


def test_an_inner_phase_fills_the_step_under_way():
    phases = PhaseFraction()
    assert phases.start("build", None, 4) == 0
    assert phases.step("build", 0) == 0.25
    assert phases.start("optimise", "build", 2) == 0.25
    assert phases.step("optimise", 0) == 0.375
    assert phases.finish("optimise") == 0.5
    assert phases.step("build", 1) == 0.5
    assert phases.finish("build") == 1


def test_a_phase_may_end_before_its_last_step():
    phases = PhaseFraction()
    phases.start("build", None, 6)
    phases.step("build", 4)
    assert phases.finish("build") == 1


def test_steps_of_an_unknown_phase_are_ignored():
    assert PhaseFraction().step("never started", 3) == 0


NAMES = st.sampled_from(["a", "b", "c"])
CALLS = st.one_of(
    st.tuples(st.just("start"), NAMES, st.sampled_from([None, "a", "b", "c"]), st.integers(0, 5)),
    st.tuples(st.just("step"), NAMES, st.integers(0, 9)),
    st.tuples(st.just("finish"), NAMES),
)


@given(st.lists(CALLS, max_size=30))
def test_it_stays_between_0_and_1_and_never_falls(calls):
    phases = PhaseFraction()
    seen = [getattr(phases, name)(*arguments) for name, *arguments in calls]
    assert seen == sorted(seen)
    assert all(0 <= fraction <= 1 for fraction in seen)
