"""The way of one call's or one stream's batches over the device: upload, run, download, in two slots."""

import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import DeviceError, SessionError
from ..boxes import boxes_to_centre_scale
from ..heatmaps import Poses
from .crops import DeviceImage, crop_records
from .frames import Frame, look_at
from .slots import Slot
from .stage_timer import StageTimer

if TYPE_CHECKING:
    from .pipeline import DevicePipeline

_SLOTS = 2


@dataclass(frozen=True)
class DeviceBatch:
    """A batch in its slot. kept: the slots that it needs, its own first; none for a batch of nobody."""

    slot: Slot | None
    kept: tuple[Slot, ...] = ()


class DeviceLane:
    """``Lane`` of a GPU.

    An image is uploaded once, into the slot of the first batch that has persons of it. That slot is kept
    until the last batch that reads the image has passed; whoever needs a slot waits. Two are enough: when a
    batch is cut, no more than the slot of the image in hand outlives it.
    """

    def __init__(self, pipeline: "DevicePipeline") -> None:
        self._pipeline = pipeline
        self._slots: list[Slot] = []
        self._changed = threading.Condition()
        self._stopped = False
        self._slot: Slot | None = None  # of the batch that waits
        self._read: list[Slot] = []  # others that the batch that waits reads
        self._timer: StageTimer | None = None

    def look(self, image: object) -> Frame:
        """Check an image. Raises DataError."""
        with self._pipeline.gate:
            return look_at(image, self._pipeline.context.device.ordinal, self._pipeline.uploads)

    def add(self, image: Frame, boxes: NDArray[np.float32], last: bool) -> None:
        """Upload the image if it is not there yet, and note its persons."""
        if len(boxes) == 0:
            return  # of an image without persons nothing is needed
        slot = self._begun()
        pipeline = self._pipeline
        with pipeline.gate:
            placed = image.image
            if placed is None:
                image.image = placed = self._upload(image, slot)
                image.slot, image.planes = slot, ()  # the caller's array is not kept
                self._hold(slot)  # as long as the image has persons that are in no batch yet
            elif image.slot not in (None, slot, *self._read):
                self._read.append(image.slot)
                self._hold(image.slot)
            spec = pipeline.spec
            centre, scale = boxes_to_centre_scale(boxes, spec.input_wh, spec.box_padding)
            slot.put(image, crop_records(placed, centre, scale, spec.input_wh))
            if last and image.slot is not None:
                self._release(image.slot)

    def cut(self) -> DeviceBatch:
        """The batch that waits, its images on their way to the device."""
        slot, read = self._slot, self._read
        self._slot, self._read = None, []
        if slot is None:
            return DeviceBatch(None)
        with self._pipeline.gate:
            slot.uploaded.record(self._pipeline.uploads)
        return DeviceBatch(slot, (slot, *read))

    def run(self, batch: DeviceBatch) -> DeviceBatch:
        """Put the batch on the device's stream."""
        if batch.slot is not None and batch.slot.count:
            with self._pipeline.gate:
                self._pipeline.put(batch.slot, self._timer)
        return batch

    def finish(self, ran: DeviceBatch) -> Poses:
        """Wait for the batch, and give its slots back."""
        slot, pipeline = ran.slot, self._pipeline
        joints = pipeline.spec.num_joints
        if slot is None or slot.count == 0:
            found = np.zeros((0, joints, 3), np.float32)
        else:
            with pipeline.gate:
                slot.done.synchronize()
                found = slot.results.copy()
            slot.frames.clear()  # their owners may have them back
        for kept in ran.kept:
            self._release(kept)
        return np.ascontiguousarray(found[..., :2]), np.ascontiguousarray(found[..., 2])

    def stop(self) -> None:
        """Let nobody wait for a slot any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def time_stages(self) -> None:
        """Measure by events from now on, without CUDA graphs."""
        self._timer = StageTimer(self._pipeline.context)

    def times(self) -> dict[str, float]:
        """Milliseconds of "upload", "warp", "network", "decode" and "download"."""
        if self._timer is None:
            return {}
        with self._pipeline.gate:
            return self._timer.read()

    def end(self) -> bool:
        """Wait for what is still under way, and be as new. False where the device cannot be used again."""
        usable = not self._pipeline.gate.closed
        if usable and any(slot.holds for slot in self._slots):
            # an error or an early end: nothing may be overwritten that the device still reads
            with suppress(SessionError), self._pipeline.gate:
                self._pipeline.uploads.synchronize()
                self._pipeline.stream.synchronize()
        if self._timer is not None:
            with suppress(DeviceError):
                self._timer.close()
            self._timer = None
        for slot in self._slots:
            slot.frames.clear()
            slot.holds = 0
        self._slot, self._read, self._stopped = None, [], False
        return usable

    def _upload(self, image: Frame, slot: Slot) -> DeviceImage:
        if self._timer is None:
            return slot.upload(image, self._pipeline.uploads)
        with self._timer.stage("upload", self._pipeline.uploads):
            return slot.upload(image, self._pipeline.uploads)

    def _begun(self) -> Slot:
        """The slot of the batch that waits; a free one is waited for where there is none."""
        if self._slot is not None:
            return self._slot
        while True:
            with self._changed:
                free = next((slot for slot in self._slots if slot.holds == 0), None)
                if len(self._slots) < _SLOTS:
                    free = None
                elif free is None:
                    self._changed.wait(0.5)  # not for ever: the pipeline may be closed meanwhile
                    if self._stopped:
                        raise SessionError("the stream has ended.")
            if len(self._slots) < _SLOTS:
                with self._pipeline.gate:
                    free = self._pipeline.new_slot()
                self._slots.append(free)
            if free is not None:
                self._slots.remove(free)
                self._slots.append(free)  # in turn, so that both soon have the memory that they need
                free.begin()
                self._hold(free)
                self._slot = free
                return free
            self._pipeline.gate.check()

    def _hold(self, slot: Slot) -> None:
        with self._changed:
            slot.holds += 1

    def _release(self, slot: Slot) -> None:
        with self._changed:
            slot.holds -= 1
            self._changed.notify_all()
