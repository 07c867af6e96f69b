"""What the timing functions promise. No figure is compared with a clock."""

from dataclasses import replace

import numpy as np
import pytest

from posedge.benchmarks.place import backend_description, device_description
from posedge.benchmarks.speed import (
    NotMeasured,
    Percentiles,
    Picture,
    Speed,
    measure_pipeline,
    measure_session,
    percentiles,
    sample_pictures,
)
from posedge.calibration.datasets import CocoPersons
from posedge.errors import DataError
from posedge.runtime.sessions import Outputs
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.spec import ModelSpec


class Counting(OnnxRuntimeSession):
    """A session that notes the size of each batch."""

    def __init__(self, network: bytes, spec: ModelSpec) -> None:
        super().__init__(network, spec, threads=1)
        self.sizes: list[int] = []

    def run(self, batch: np.ndarray) -> Outputs:
        self.sizes.append(len(batch))
        return super().run(batch)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([3.0, 1.0, 2.0], Percentiles(2.0, None, None)),
        (list(range(1, 10)), Percentiles(5.0, None, None)),
        (list(range(1, 12)), Percentiles(6.0, 10.0, None)),  # between ranks: linear
        (list(range(1, 100)), Percentiles(50.0, 89.2, None)),
        (list(range(101)), Percentiles(50.0, 90.0, 99.0)),
    ],
)
def test_percentiles(samples: list[float], expected: Percentiles) -> None:
    result = percentiles(samples)
    assert (result.p90 is None, result.p99 is None) == (expected.p90 is None, expected.p99 is None)
    measured = [value for value in vars(result).values() if value is not None]
    assert measured == pytest.approx([value for value in vars(expected).values() if value is not None])


def check(speeds: tuple[Speed, ...] | NotMeasured, batch_sizes: tuple[int, ...]) -> None:
    assert isinstance(speeds, tuple)
    assert tuple(speed.batch for speed in speeds) == batch_sizes
    for speed in speeds:
        assert speed.samples >= 5
        assert speed.persons_per_second > 0
        known = [value for value in vars(speed.latency_ms).values() if value is not None]
        assert known == sorted(known)
        assert (speed.latency_ms.p99 is not None) == (speed.samples >= 100)


def test_the_session_alone(dot_network: bytes, dot_spec: ModelSpec) -> None:
    with Counting(dot_network, dot_spec) as session:
        speeds = measure_session(session, (1, 3), seconds=0.01)
        check(speeds, (1, 3))
        assert isinstance(speeds, tuple)
        # three calls to warm up, then those that count
        assert [session.sizes.count(batch) for batch in (1, 3)] == [speed.samples + 3 for speed in speeds]


def test_throughput_of_the_session_is_that_of_its_calls(dot_session: OnnxRuntimeSession) -> None:
    (speed,) = measure_session(dot_session, (4,), seconds=0.02)  # type: ignore[misc]
    # at least half of the calls take the median or longer
    assert speed.persons_per_second <= 2 * 4 * 1000 / speed.latency_ms.p50


def test_the_whole_pipeline(dot_network: bytes, dot_spec: ModelSpec, dots: CocoPersons) -> None:
    pictures = sample_pictures(dots, 2)
    assert [len(picture.boxes_xyxy) for picture in pictures] == [1, 2]
    with Counting(dot_network, dot_spec) as session:
        check(measure_pipeline(session, pictures, (1, 4), seconds=0.01), (1, 4))
        assert set(session.sizes) <= {1, 2, 3, 4}
        assert session.sizes.count(4) > 8
        single = len(session.sizes)
        check(measure_pipeline(session, pictures, (2,), flip_test=True, seconds=0.01), (2,))
        assert len(session.sizes) > single  # and it is still open


def test_a_simulated_session_has_no_speed(dot_network: bytes, dot_spec: ModelSpec, dots: CocoPersons) -> None:
    with OnnxRuntimeSession(dot_network, dot_spec, threads=1, simulate_int8=True) as session:
        for speeds in (measure_session(session), measure_pipeline(session, sample_pictures(dots))):
            assert isinstance(speeds, NotMeasured)
            assert "simulated" in speeds.reason


def test_what_cannot_be_timed_is_refused(dot_session: OnnxRuntimeSession, dots: CocoPersons) -> None:
    for sizes in ((), (1, 0)):
        with pytest.raises(DataError, match="batch sizes"):
            measure_session(dot_session, sizes, seconds=0)
    empty = Picture(np.zeros((20, 20, 3), np.uint8), np.zeros((0, 4), np.float32))
    with pytest.raises(DataError, match="no picture has a box"):
        measure_pipeline(dot_session, [empty])
    outside = replace(empty, boxes_xyxy=np.array([[100, 100, 200, 200]], np.float32))
    with pytest.raises(DataError, match="outside"):
        measure_pipeline(dot_session, [outside], seconds=0)


def test_descriptions_name_processor_cores_and_backend(dot_session: OnnxRuntimeSession) -> None:
    import onnxruntime

    device = device_description()
    assert device.endswith(("core", "cores"))
    assert len(device.rsplit(",", 1)[0]) > 2
    assert backend_description(dot_session) == f"onnxruntime {onnxruntime.__version__} on {device}"
