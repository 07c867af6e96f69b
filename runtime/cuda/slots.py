"""The memory of one batch under way: its images on the device, what they are uploaded from, records, results.

Two slots a stream are what double buffering needs: one is filled while the other one's batch runs.
"""

from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from .context import Context
from .crops import CROP, DeviceImage
from .frames import Frame
from .memory import DeviceBuffer, PinnedBuffer
from .streams import Event, Stream

# page-locked memory that a slot takes for images at most; larger ones are uploaded in pieces of this size
STAGING_BYTES = 32 << 20
_STEP = 1 << 20  # sizes are rounded up to this, so that images of varying sizes soon find room


class Slot:
    """Room for one batch of up to ``largest`` persons and as many images.

    holds: how many reasons there are to keep it: its batch, and later batches that read an image in it. Its
    lane counts them.
    """

    def __init__(self, context: Context, largest: int, joints: int) -> None:
        self._context = context
        self._buffers: list[DeviceBuffer] = []  # the n-th image of a batch is in the n-th of them
        self._used = 0
        self._staging: PinnedBuffer | None = None
        self._filled = 0
        self.holds = 0
        self.count = 0
        self.frames: list[Frame] = []
        with ExitStack() as made:
            self._records = made.enter_context(PinnedBuffer(context, (largest,), CROP))
            self._results = made.enter_context(PinnedBuffer(context, (largest, joints, 3), np.float32))
            self.uploaded = made.enter_context(Event(context))
            self.done = made.enter_context(Event(context))
            self._made = made.pop_all()

    @property
    def records(self) -> NDArray[np.void]:
        """The records of the batch's persons (count,), to be uploaded with it."""
        return self._records.array[: self.count]

    @property
    def results(self) -> NDArray[np.float32]:
        """x, y and score (count, K, 3) once ``done`` has passed."""
        return self._results.array[: self.count]

    def begin(self) -> None:
        """Empty it for another batch."""
        self._used = self._filled = self.count = 0
        self.frames.clear()

    def put(self, frame: Frame, records: NDArray[np.void]) -> None:
        """Add persons of an image to the batch."""
        self._records.array[self.count : self.count + len(records)] = records
        self.count += len(records)
        self.frames.append(frame)

    def upload(self, frame: Frame, stream: Stream) -> DeviceImage:
        """Copy an image of the host to the device, behind what is on the stream.

        The caller's array is free when this returns. It waits where the image does not fit into the pinned
        memory beside those before it. Raises DeviceError, with what is asked for and free, without room.
        """
        sizes = [plane.size for plane in frame.planes]
        rows = [plane[0].size for plane in frame.planes]
        buffer = self._buffer(sum(sizes))
        staging = self._room(min(STAGING_BYTES, sum(sizes)), max(rows), stream)
        offset = 0
        for plane, row in zip(frame.planes, rows, strict=True):
            self._copy(plane, row, staging, buffer, offset, stream)
            offset += plane.size
        self._used += 1
        width, height = frame.wh
        chroma = {"chroma": buffer.address + sizes[0], "chroma_pitch": rows[1]} if len(rows) == 2 else {}
        return DeviceImage(buffer.address, width, height, rows[0], frame.format, **chroma)

    def _copy(
        self,
        plane: NDArray[np.uint8],
        row: int,
        staging: PinnedBuffer,
        buffer: DeviceBuffer,
        offset: int,
        stream: Stream,
    ) -> None:
        """A plane, by way of the pinned memory, in as many pieces as it takes."""
        start = 0
        while start < len(plane):
            room = (staging.size - self._filled) // row
            if room == 0:
                stream.synchronize()  # what is in the pinned memory has been copied then
                self._filled = 0
                continue
            part = plane[start : start + room]
            piece = staging.array[self._filled : self._filled + part.size]
            np.copyto(piece.reshape(part.shape), part)
            buffer.upload(piece, stream=stream, offset=offset + start * row)
            self._filled += part.size
            start += len(part)

    def _buffer(self, size: int) -> DeviceBuffer:
        """The device memory of the next image of the batch, made larger where it is too small."""
        if self._used < len(self._buffers) and self._buffers[self._used].size >= size:
            return self._buffers[self._used]
        if self._used < len(self._buffers):
            self._buffers.pop(self._used).close()
        made = DeviceBuffer(self._context, _rounded(size))
        self._buffers.insert(self._used, made)
        return made

    def _room(self, size: int, row: int, stream: Stream) -> PinnedBuffer:
        """The pinned memory, at least of this size and of one row."""
        size = max(size, row)
        if self._staging is None or self._staging.size < size:
            if self._staging is not None:
                stream.synchronize()
                self._staging.close()
                self._staging = None
            self._staging = PinnedBuffer(self._context, (_rounded(size),), np.uint8)
            self._filled = 0
        return self._staging

    def close(self) -> None:
        """Free it. A second call does nothing."""
        self.frames.clear()
        for buffer in self._buffers:
            buffer.close()
        self._buffers.clear()
        if self._staging is not None:
            self._staging.close()
            self._staging = None
        self._made.close()


def _rounded(size: int) -> int:
    return -(-size // _STEP) * _STEP
