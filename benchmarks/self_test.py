"""Does a session do what it should, whatever its accuracy? Three checks on random inputs, without any data.

Rows: the same input in every row of a batch gives the same output in every row, bit for bit; anything else is
a fault of a kernel or of the batch's bookkeeping. Batch: an input alone gives what it gives in a batch;
TensorRT may choose other kernels for another batch size, so that this holds within a tolerance. Rebuilds: the
session made anew gives the same outputs within that tolerance, and about the same latency; on a device, where
the caller builds the engine anew and TensorRT times kernels for that, this shows how far builds spread.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import SessionError
from ..progress import SILENT, Progress
from ..runtime.sessions import Outputs, Session

BATCH = 4
REBUILDS = 3
SEED = 0
# share of the output's largest value; roundings of float16 and steps of int8 that fall the other way add up
TOLERANCES = {"fp32": 1e-3, "fp16": 1e-2}
_TOLERANCE_INT8 = 5e-2

_WARM_UP = 2
_TIMED_CALLS = 20


@dataclass(frozen=True)
class SelfTest:
    """What a self test found. Differences are the largest one as a share of the largest output.

    sha256: of the file that was tested, graph or engine. batch: rows of the batch.
    row_difference: between the rows of a batch of one input. batch_difference: between an input alone and in
    a batch. rebuild_difference: between sessions that were made anew; tolerance: what the last two may reach.
    latency_ms: median time of a call with one input, one for each rebuild; () where the session simulates its
    number type. A difference is None where outputs are not finite.
    """

    sha256: str
    batch: int
    row_difference: float | None
    batch_difference: float | None
    rebuild_difference: float | None
    tolerance: float
    latency_ms: tuple[float, ...]
    measured_on: str

    @property
    def latency_spread(self) -> float | None:
        """The slowest rebuild's latency above the fastest's, as a share of the fastest's."""
        return max(self.latency_ms) / min(self.latency_ms) - 1 if self.latency_ms else None

    @property
    def failures(self) -> tuple[str, ...]:
        """One clause for each check that failed."""
        checks = (
            ("identical rows of a batch give outputs that differ", self.row_difference, 0.0),
            ("one input gives another output alone than in a batch", self.batch_difference, self.tolerance),
            ("a session made anew gives other outputs", self.rebuild_difference, self.tolerance),
        )
        if None in (self.row_difference, self.batch_difference, self.rebuild_difference):
            return ("outputs are not finite",)
        return tuple(
            f"{clause} by {difference:.1e} of the largest, where {limit:.0e} is allowed"
            for clause, difference, limit in checks
            if difference is not None and difference > limit
        )


def tolerance_of(variant: str) -> float:
    """What the outputs of a variant may differ by, as a share of the largest."""
    return TOLERANCES.get(variant, _TOLERANCE_INT8)


def self_test(
    open_session: Callable[[], Session],
    sha256: str,
    tolerance: float,
    measured_on: Callable[[Session], str],
    *,
    batch: int = BATCH,
    rebuilds: int = REBUILDS,
    progress: Progress = SILENT,
) -> SelfTest:
    """Test what ``open_session`` opens, ``rebuilds`` times in all. The inputs are the same in every run.

    Rows and batches are checked on the first session; each is closed before the next is opened.
    Raises SessionError for fewer than two rows or rebuilds, and what the session raises.
    """
    if batch < 2 or rebuilds < 2:
        raise SessionError(
            f"a self test compares: give at least 2 rows and 2 rebuilds, not {batch}, {rebuilds}"
        )
    found: list[Outputs] = []
    latencies: list[float] = []
    with progress.task("testing", float(rebuilds)) as task:
        for index in range(rebuilds):
            with open_session() as session:
                inputs = _inputs(session, batch)
                found.append(session.run(inputs))
                if not session.simulated:
                    latencies.append(_latency_ms(session, inputs[:1]))
                if index == 0:
                    same = session.run(np.repeat(inputs[:1], batch, axis=0))
                    alone = [session.run(row[None]) for row in inputs]
                    place = measured_on(session)
            task.update(index + 1.0)
    first = found[0]
    return SelfTest(
        sha256=sha256,
        batch=batch,
        row_difference=_largest(same, [value[:1] for value in same]),
        batch_difference=_largest(first, [np.concatenate(rows) for rows in zip(*alone, strict=True)]),
        rebuild_difference=_worst([_largest(first, other) for other in found[1:]]),
        tolerance=tolerance,
        latency_ms=tuple(latencies),
        measured_on=place,
    )


def _inputs(session: Session, batch: int) -> NDArray[np.float32]:
    """What crops look like to the network after normalisation: about mean 0 and deviation 1."""
    width, height = session.spec.input_wh
    return np.random.default_rng(SEED).standard_normal((batch, 3, height, width), np.float32)


def _latency_ms(session: Session, inputs: NDArray[np.float32]) -> float:
    samples = []
    for _ in range(_WARM_UP + _TIMED_CALLS):
        start = time.perf_counter()
        session.run(inputs)
        samples.append(1000 * (time.perf_counter() - start))
    return float(np.median(samples[_WARM_UP:]))


def _largest(ones: Sequence[NDArray[np.float32]], others: Sequence[NDArray[np.float32]]) -> float | None:
    """The largest difference as a share of the largest value; None where one of them is not finite."""
    worst = 0.0
    for one, other in zip(ones, others, strict=True):
        if not (np.isfinite(one).all() and np.isfinite(other).all()):
            return None
        difference = float(np.max(np.abs(one.astype(np.float64) - other)))
        scale = float(np.max(np.abs(one)))
        worst = max(worst, difference / scale if scale else difference)
    return worst


def _worst(differences: Sequence[float | None]) -> float | None:
    known = [value for value in differences if value is not None]
    return max(known) if len(known) == len(differences) else None
