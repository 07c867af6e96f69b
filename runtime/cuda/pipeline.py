"""The way of a batch on a GPU: the image goes up once, N x K x 3 numbers come back."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from ...errors import OutputError, SessionError
from ..host_pipeline import CLOSED
from ..sessions.tensorrt import TensorRTSession
from ..spec import ModelSpec
from .batch_work import BatchWork
from .lane import DeviceLane
from .loaded import LoadedKernels
from .slots import Slot
from .stage_timer import StageTimer
from .streams import Stream


class Gate:
    """Keeps what is freed at the end from those who are at work with it: ``close`` waits for them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self.closed = False

    def check(self) -> None:
        """Raise SessionError once the gate is closed."""
        if self.closed:
            raise SessionError(CLOSED)

    def close(self) -> bool:
        """Let nobody in any more, and wait until nobody is. False where that was done before."""
        with self._changed:
            if self.closed:
                return False
            self.closed = True
            self._changed.wait_for(lambda: self._inside == 0)
            return True

    def __enter__(self) -> None:
        with self._changed:
            self.check()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()


class DevicePipeline:
    """``Pipeline`` on a TensorRT session and posedge's kernels.

    session: closed with the pipeline. flip_test: average with the mirrored crops. yuv: the colour standard of
    NV12 frames. cache: where compiled kernels are kept; None takes posedge's cache directory.

    Images are uploaded on a stream of their own, while the session's stream works on the batch before. Each
    call or stream takes a lane with two sets of buffers; lanes are kept and used again, so device and pinned
    memory stay as they are after the first batches, and are bounded: at most 32 MiB pinned for images in a
    set.

    Closing the session's context closes the pipeline. Raises what LoadedKernels and BatchWork raise.
    """

    def __init__(
        self, session: TensorRTSession, flip_test: bool, *, yuv: str = "bt601", cache: Path | None = None
    ) -> None:
        self.spec: ModelSpec = session.spec
        self.context = session.context
        self.stream = session.stream
        self.gate = Gate()
        self._session = session
        self._idle: list[DeviceLane] = []
        self._slots: list[Slot] = []
        self._lock = threading.Lock()  # of the lists of lanes and slots
        self._turn = threading.Lock()  # of the stream: one batch's work after another's
        with ExitStack() as made:
            kernels = made.enter_context(LoadedKernels(self.context, cache))
            self._work = BatchWork(session, kernels, flip_test, yuv)
            made.callback(self._work.close)
            self.uploads = made.enter_context(Stream(self.context))
            self._made = made.pop_all()
        self.context.adopt(self)

    @property
    def device(self) -> str:
        """The GPU's name."""
        return self.context.device.name

    @property
    def largest(self) -> int:
        """The most persons of one batch."""
        return self._work.largest

    @property
    def leaks(self) -> bool:
        """Whether it is open, on a device that works, in the process that opened it."""
        return not self.gate.closed and self.context.is_usable

    @property
    def lost(self) -> str | None:
        """CUDA's name for what broke the device for this process, None while it works."""
        return self.context.lost

    @property
    def graph_sizes(self) -> tuple[int, ...]:
        """Batch sizes that are replayed as CUDA graphs."""
        return self._work.graph_sizes

    @property
    def no_graphs(self) -> str | None:
        """Why a batch size runs without a CUDA graph; None where none does."""
        return self._work.no_graphs

    def warmed_up(self) -> None:
        """Let TensorRT-RTX keep what it has compiled on this device."""
        if self._session.captures_itself:
            with self.gate, suppress(OutputError):  # without a cache it compiles again
                self._session.warmup([self._session.max_batch])  # which writes its cache

    @contextmanager
    def lane(self) -> Iterator[DeviceLane]:
        """A lane for one call or stream."""
        with self._lock:
            lane = self._idle.pop() if self._idle else DeviceLane(self)
        try:
            yield lane
        finally:
            if lane.end():
                with self._lock:
                    self._idle.append(lane)

    def new_slot(self) -> Slot:
        """A slot that lives as long as the pipeline."""
        slot = Slot(self.context, self.largest, self.spec.num_joints)
        with self._lock:
            self._slots.append(slot)
        return slot

    def put(self, slot: Slot, timer: StageTimer | None) -> None:
        """Put a slot's batch on the stream, behind its images, up to the download of its results."""
        stream, work = self.stream, self._work
        with self._turn, self.context.current("estimate poses"):
            stream.wait(slot.uploaded)
            with nullcontext() if timer is None else timer.stage("upload", stream):
                work.records.upload(slot.records, stream=stream)
            if timer is None:
                work.put(slot.count)
            else:
                work.put_timed(slot.count, timer)
            with nullcontext() if timer is None else timer.stage("download", stream):
                work.keypoints.download(slot.results, stream=stream)
            slot.done.record(stream)

    def close(self) -> None:
        """Free all that it holds, and the session. A second call does nothing."""
        if not self.gate.close():
            return
        self.context.disown(self)
        try:
            with self.context.releasing("close an estimator") as driver:
                if driver is not None and not self.stream.closed:  # a closed session has waited
                    self.uploads.synchronize()
                    self.stream.synchronize()  # nothing is freed under running work
        finally:
            for slot in self._slots:
                slot.close()
            self._slots.clear()
            self._made.close()
            self._session.close()
