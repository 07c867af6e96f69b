"""A CUDA device in use: the primary context, shared with whoever else is in the process."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from ...errors import DeviceError
from .driver import Driver, Handle, open_driver
from .failures import INVALID_DEVICE, NO_DEVICE, OUT_OF_MEMORY, STICKY, CudaFailure, device_error


@dataclass(frozen=True)
class DeviceInfo:
    """A CUDA device. capability: compute capability, such as (8, 7); memory: bytes."""

    ordinal: int
    name: str
    capability: tuple[int, int]
    memory: int


class Closable(Protocol):
    """What a context owns."""

    def close(self) -> None: ...


class Context:
    """The primary context of a device: the one that the CUDA runtime, and so torch and others, use too.

    It is retained, never reset, and current only inside ``current()``: the caller's own context is as it was
    after every call. Any thread may use it. ``close`` frees what was made in it and is still open.

    ordinal: number of the device, as CUDA_VISIBLE_DEVICES leaves them. driver: None takes the binding that is
    installed.

    Raises DeviceError, with CUDA's name for it, when there is no such device or it cannot be used;
    MissingExtraError without a binding.
    """

    def __init__(self, ordinal: int = 0, driver: Driver | None = None) -> None:
        self.driver = open_driver() if driver is None else driver
        self._lost: str | None = None
        self._handle: Handle | None = None
        self._process = os.getpid()
        self.depth = _Depth()
        self._owned: dict[int, Closable] = {}
        self._closing = threading.RLock()
        try:
            count = self.driver.device_count()
            if not 0 <= ordinal < count:
                code = INVALID_DEVICE if count else NO_DEVICE
                name = "CUDA_ERROR_INVALID_DEVICE" if count else "CUDA_ERROR_NO_DEVICE"
                raise CudaFailure("cuDeviceGet", code, name)
            self.device = DeviceInfo(ordinal, *self.driver.describe(ordinal))
            self._handle = self.driver.retain_primary(ordinal)
        except CudaFailure as failure:
            raise device_error(failure, f"use CUDA device {ordinal}") from failure

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._handle is None

    @property
    def is_usable(self) -> bool:
        """Whether it is open, of this process, and not lost."""
        return not (self.closed or self._lost or os.getpid() != self._process)

    @property
    def lost(self) -> str | None:
        """CUDA's name for what broke the device for this process, None while it works."""
        return self._lost

    def current(self, doing: str = "use the device") -> "Current":
        """Make the context current in this thread for a ``with`` block, which gets the driver.

        doing: what the block does, in words after "cannot". Blocks may be nested; inner ones cost little.

        Raises DeviceError when the context is closed, lost, or of the process that this one was forked from,
        and for every driver call that fails inside.
        """
        return Current(self, doing)

    def mapped(self, failure: CudaFailure, doing: str) -> DeviceError:
        """The error for the user, and a note where the device is lost with it."""
        if failure.code in STICKY:
            self._lost = failure.name
        return device_error(failure, doing)

    def allocating(self, doing: str, size: int) -> str:
        """Figures for an out-of-memory message: what was asked and what is free, as far as CUDA tells."""
        with self.current(doing) as driver:
            try:
                free, total = driver.memory_info()
            except CudaFailure:
                return f"; {size:,} bytes were asked for"
        return f"; {size:,} bytes were asked for, {free:,} of {total:,} are free"

    @contextmanager
    def memory_for(self, what: str, size: int) -> Iterator[Driver]:
        """``current`` for an allocation: running out says how much was asked for and how much is free."""
        doing = f"allocate {what}"
        with self.current(doing) as driver:
            try:
                yield driver
            except CudaFailure as failure:
                if failure.code != OUT_OF_MEMORY:
                    raise
                raise device_error(failure, doing, self.allocating(doing, size)) from failure

    def memory_info(self) -> tuple[int, int]:
        """Free and total bytes of the device's memory."""
        with self.current("ask for free memory") as driver:
            return driver.memory_info()

    def adopt(self, made: Closable) -> None:
        """Close ``made`` with the context, unless it is closed before."""
        self._owned[id(made)] = made

    def disown(self, made: Closable) -> None:
        """``made`` is closed."""
        self._owned.pop(id(made), None)

    @contextmanager
    def releasing(self, doing: str) -> Iterator[Driver | None]:
        """``current`` for freeing: None, and no error, where the driver has freed it already.

        That is so after the device was lost, after the context was closed, and in a forked process, which
        owns nothing of its parent's.
        """
        if not self.is_usable:
            yield None
            return
        with self.current(doing) as driver:
            yield driver

    def close(self) -> None:
        """Free what is open in this context and let go of the device. A second call does nothing."""
        with self._closing:
            if self._handle is None:
                return
            try:
                for made in reversed(list(self._owned.values())):
                    made.close()
            finally:
                handle, self._handle = self._handle, None
                # None where something that was closed owned this context and closed it
                if handle is not None and self._lost is None and os.getpid() == self._process:
                    self._release(handle)

    def _release(self, handle: Handle) -> None:
        try:
            self.driver.release_primary(self.device.ordinal, handle)
        except CudaFailure as failure:
            raise device_error(failure, "release the device") from failure

    def usable(self, doing: str) -> Handle:
        """CUDA's handle. Raises DeviceError where the context cannot be used."""
        if self._process != os.getpid():
            raise DeviceError(
                f"cannot {doing}: the device was opened in process {self._process} and this is a fork of it, "
                "in which CUDA does not work. Open it in this process, and start workers with "
                "multiprocessing.get_context('spawn')."
            )
        if self._handle is None:
            raise DeviceError(f"cannot {doing}: the device is closed. Open it again.")
        if self._lost:
            raise DeviceError(
                f"cannot {doing}: the device was lost ({self._lost}). Close everything and start the process "
                "again; look with nvidia-smi whether the device is well.",
                self._lost,
            )
        return self._handle

    def __enter__(self) -> "Context":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Depth(threading.local):
    """How many ``current`` blocks a thread is in."""

    value = 0


class Current:
    """What ``Context.current`` gives: written out, since every call on the hot path goes through it."""

    __slots__ = ("_context", "_doing")

    def __init__(self, context: Context, doing: str) -> None:
        self._context = context
        self._doing = doing

    def __enter__(self) -> Driver:
        context = self._context
        handle = context.usable(self._doing)
        if context.depth.value == 0:
            try:
                context.driver.push(handle)
            except CudaFailure as failure:
                raise context.mapped(failure, self._doing) from failure
        context.depth.value += 1
        return context.driver

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        context = self._context
        context.depth.value -= 1
        failed = error if isinstance(error, CudaFailure) else None
        if context.depth.value == 0:
            try:
                context.driver.pop()
            except CudaFailure as failure:
                failed = failed or failure
        if failed is not None:
            raise context.mapped(failed, self._doing) from failed


class Owned:
    """Base of what lives in a context: one handle, freed once.

    Subclasses give ``_free``. Using one after ``close`` raises DeviceError.
    """

    _what = "object"  # for messages

    def __init__(self, context: Context, handle: Handle) -> None:
        self.context = context
        self._handle: Handle | None = handle
        context.adopt(self)

    @property
    def handle(self) -> Handle:
        """CUDA's handle or address."""
        if self._handle is None:
            raise DeviceError(f"the {self._what} is closed. Make another one.")
        return self._handle

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._handle is None

    def close(self) -> None:
        """Free it. A second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        self.context.disown(self)
        with self.context.releasing(f"free a {self._what}") as driver:
            if driver is not None:
                self._free(driver, handle)

    def _free(self, driver: Driver, handle: Handle) -> None:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
