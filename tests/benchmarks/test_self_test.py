"""The self test: a session that keeps its promises passes, and each broken promise is found."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from posedge.benchmarks.place import backend_description
from posedge.benchmarks.self_test import SelfTest, self_test, tolerance_of
from posedge.errors import SessionError
from posedge.runtime.sessions import Outputs
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.spec import ModelSpec

Alter = Callable[[NDArray[np.float32], int], NDArray[np.float32]]


class Altered(OnnxRuntimeSession):
    """onnxruntime's session with its outputs altered; ``opened`` counts from 0."""

    alter: Alter
    opened: int

    def run(self, batch: NDArray[np.float32]) -> Outputs:
        return tuple(self.alter(output.copy(), self.opened) for output in super().run(batch))


def self_tested(graph: Path, spec: ModelSpec, alter: Alter) -> SelfTest:
    count = iter(range(9))

    def load() -> Altered:
        session = Altered(graph, spec, 1)
        session.alter, session.opened = alter, next(count)
        return session

    return self_test(load, "ab", 1e-3, backend_description)


def test_a_sound_session_passes(small_pose: Path, small_spec: ModelSpec) -> None:
    found = self_tested(small_pose, small_spec, lambda output, opened: output)
    assert found.failures == ()
    assert found.row_difference == 0
    assert (found.sha256, found.batch, found.tolerance) == ("ab", 4, 1e-3)
    assert len(found.latency_ms) == 3
    assert min(found.latency_ms) > 0
    assert found.latency_spread is not None
    assert found.latency_spread >= 0
    assert found.measured_on.startswith("onnxruntime")


def bumped(where: Callable[[int, int], bool], factor: float) -> Alter:
    """Outputs scaled by ``factor`` in rows and sessions for which ``where`` says so (rows, opened)."""

    def alter(output: NDArray[np.float32], opened: int) -> NDArray[np.float32]:
        if where(len(output), opened):
            output[-1] *= factor
        return output

    return alter


@pytest.mark.parametrize(
    ("alter", "clauses"),
    [
        # the last row of a batch is off by less than the tolerance: rows must be equal bit for bit
        (bumped(lambda rows, opened: rows > 1, 1.0001), ["identical rows"]),
        (bumped(lambda rows, opened: rows > 1, 1.01), ["identical rows", "alone than in a batch"]),
        (bumped(lambda rows, opened: rows == 1, 1.01), ["alone than in a batch"]),
        (bumped(lambda rows, opened: opened == 2, 1.01), ["made anew"]),
        (bumped(lambda rows, opened: opened == 2, 1.0001), []),
        (bumped(lambda rows, opened: opened == 1, float("nan")), ["not finite"]),
        (bumped(lambda rows, opened: True, float("inf")), ["not finite"]),
    ],
)
def test_each_fault_is_named(
    small_pose: Path, small_spec: ModelSpec, alter: Alter, clauses: list[str]
) -> None:
    failures = self_tested(small_pose, small_spec, alter).failures
    assert len(failures) == len(clauses)
    for failure, clause in zip(failures, clauses, strict=True):
        assert clause in failure


def test_one_row_or_one_rebuild_compares_nothing(small_pose: Path, small_spec: ModelSpec) -> None:
    for batch, rebuilds in ((1, 3), (4, 1)):
        with pytest.raises(SessionError, match="at least 2"):
            self_test(
                lambda: OnnxRuntimeSession(small_pose, small_spec),
                "ab",
                1e-3,
                backend_description,
                batch=batch,
                rebuilds=rebuilds,
            )


def test_coarser_numbers_may_differ_more() -> None:
    assert tolerance_of("fp32") < tolerance_of("fp16") < tolerance_of("int8") == tolerance_of("mixed")
