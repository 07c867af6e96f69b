"""The way of a batch on the CPU: crops by OpenCV or numpy, a session, decoding by numpy."""

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from ..errors import SessionError
from .heatmaps import Poses
from .host_images import host_array
from .joints import find_joints
from .preprocess import Crops, Preprocessor
from .sessions import Outputs, Session
from .spec import ModelSpec

CLOSED = "this PoseEstimator is closed. Open the bundle again."


@dataclass(frozen=True)
class HostImage:
    """An image that was checked: uint8 (height, width, 3), BGR."""

    array: NDArray[np.uint8]

    @property
    def wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.array.shape[1], self.array.shape[0]


@dataclass(frozen=True)
class Ran:
    """What the network made of a batch, as it is and mirrored."""

    crops: Crops
    outputs: Outputs
    mirrored: Outputs | None


class HostPipeline:
    """``Pipeline`` on a session that takes and gives arrays of the host."""

    device = "cpu"
    largest = None
    leaks = False
    lost = None

    def __init__(self, session: Session, flip_test: bool) -> None:
        self._session: Session | None = session
        self.spec: ModelSpec = session.spec
        self.flip_test = flip_test
        self.preprocess = Preprocessor(session.spec)

    @property
    def session(self) -> Session:
        """The session. Raises SessionError once the pipeline is closed."""
        if self._session is None:
            raise SessionError(CLOSED)
        return self._session

    def warmed_up(self) -> None:
        """Nothing is kept."""

    @contextmanager
    def lane(self) -> Iterator["HostLane"]:
        """A lane; it owns nothing that must be given back."""
        yield HostLane(self)

    def close(self) -> None:
        """Free the model. A second call does nothing."""
        session, self._session = self._session, None
        if session is not None:
            session.close()


class HostLane:
    """``Lane`` of the CPU."""

    def __init__(self, pipeline: HostPipeline) -> None:
        self._pipeline = pipeline
        self._waiting: list[Crops] = []
        self._times: dict[str, float] | None = None
        self._lock = threading.Lock()

    def look(self, image: object) -> HostImage:
        """Check an image. Raises DataError."""
        return HostImage(host_array(image))

    def add(self, image: HostImage, boxes: NDArray[np.float32], last: bool) -> None:
        """Cut the persons out of the image."""
        with self._stage("warp"):
            self._waiting.append(self._pipeline.preprocess(image.array, boxes))

    def cut(self) -> Crops:
        """The persons that wait, as one batch."""
        parts, self._waiting = self._waiting, []
        return _join(parts)

    def run(self, batch: Crops) -> Ran:
        """Run the network."""
        session = self._pipeline.session
        with self._stage("network"):
            mirrored = None
            if self._pipeline.flip_test:
                mirrored = session.run(self._pipeline.preprocess.mirror(batch.batch))
            return Ran(batch, session.run(batch.batch), mirrored)

    def finish(self, ran: Ran) -> Poses:
        """Decode what the network said."""
        with self._stage("decode"):
            spec, crops = self._pipeline.spec, ran.crops
            keypoints, scores = find_joints(ran.outputs, ran.mirrored, spec, crops.centre, crops.scale)
            scores = np.clip(np.nan_to_num(scores, nan=0.0, posinf=0.0, neginf=0.0), 0, 1)
        return keypoints, scores

    def stop(self) -> None:
        """Nobody waits here."""

    def time_stages(self) -> None:
        """Measure by the host's clock from now on."""
        self._times = defaultdict(float)

    def times(self) -> dict[str, float]:
        """Milliseconds of "warp", "network" and "decode"."""
        return dict(self._times or {})

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = perf_counter()
        yield
        if self._times is not None:
            with self._lock:
                self._times[name] += 1e3 * (perf_counter() - start)


def _join(crops: list[Crops]) -> Crops:
    if len(crops) == 1:
        return crops[0]
    return Crops(
        np.concatenate([part.batch for part in crops]),
        np.concatenate([part.centre for part in crops]),
        np.concatenate([part.scale for part in crops]),
    )
