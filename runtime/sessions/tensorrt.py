"""A model as a TensorRT engine on a CUDA device: TensorRT 8.6 to 11, and TensorRT-RTX."""

import threading
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SessionError
from ..cuda.context import Context
from ..cuda.memory import DeviceBuffer, PinnedBuffer
from ..cuda.streams import Stream
from ..cuda.workspace import Workspace
from ..spec import ModelSpec
from . import Outputs
from .tensorrt_batches import PreparedBatches
from .tensorrt_engine import EngineTensor, TensorRTEngine


class TensorRTSession:
    """A loaded engine with one image input and the outputs of its spec.

    engine: the bytes of an engine that the caller trusts: loading one runs code that is in it.
    spec: how the model is fed and read.
    library: "tensorrt" or "tensorrt_rtx", the one that built it.
    context: the device; None opens device 0 for this session alone.
    stream: where the work is put; None makes one.
    workspace: memory shared with other sessions of the context; None takes memory for this one alone.
    graphs: how many batch sizes are captured as CUDA graphs at first use; 0 for none. ``warmup`` captures
        whatever it is given, unless this is 0.
    cache: a file in which TensorRT-RTX keeps what it compiles on the device.
    where: what messages call the engine.

    ``run`` takes and gives arrays. For work before and after on the device: write the batch into ``input``,
    call ``run_on_device``, read ``outputs``. These buffers stay where they are and have room for
    ``max_batch`` items. Nothing is allocated after a batch size was run once.

    Closing the context closes it too. Raises what TensorRTEngine and Context raise.
    """

    def __init__(
        self,
        engine: bytes,
        spec: ModelSpec,
        *,
        library: str = "tensorrt",
        context: Context | None = None,
        stream: Stream | None = None,
        workspace: Workspace | None = None,
        graphs: int = 8,
        cache: Path | None = None,
        where: str = "the engine",
    ) -> None:
        self.name = library
        self._spec = spec
        self._where = where
        self._lock = threading.RLock()
        self._closed = False
        self._shares_workspace = workspace is not None
        with ExitStack() as made:
            self.context = made.enter_context(Context()) if context is None else context
            self._engine = TensorRTEngine(engine, spec, self.context, library, where, cache)
            made.callback(self._engine.close)
            self.stream = made.enter_context(Stream(self.context)) if stream is None else stream
            memory = made.enter_context(Workspace(self.context)) if workspace is None else workspace
            memory.reserve(self._engine.workspace)
            tensors = (self._engine.input, *self._engine.outputs)
            buffers = [made.enter_context(self._buffer(tensor)) for tensor in tensors]
            self.input, self.outputs = buffers[0], tuple(buffers[1:])
            self._host_input = made.enter_context(self._pinned(self._engine.input))
            wanted = self._engine.outputs[: len(spec.output_names)]
            self._host_outputs = tuple(made.enter_context(self._pinned(tensor)) for tensor in wanted)
            self.input.fill(0, stream=self.stream)  # so that items which pad a batch are numbers
            self._batches = PreparedBatches(
                self._engine,
                self.stream,
                memory,
                {tensor.name: place.address for tensor, place in zip(tensors, buffers, strict=True)},
                shared=workspace is not None,
                graphs=graphs,
            )
            made.callback(self._batches.close)
            self._made = made.pop_all()
        self.context.adopt(self)  # TensorRT must let go of its memory before the device is closed

    @property
    def spec(self) -> ModelSpec:
        """How the model is fed and read."""
        return self._spec

    @property
    def simulated(self) -> bool:
        """False: the engine runs as it is deployed."""
        return False

    @property
    def library(self) -> str:
        """The library and its version, such as "tensorrt 10.3.0"."""
        return self._engine.library

    @property
    def min_batch(self) -> int:
        """The smallest batch that the engine takes; smaller ones are padded."""
        return self._engine.smallest

    @property
    def max_batch(self) -> int:
        """The largest batch that the engine takes; ``run`` cuts larger ones."""
        return self._engine.largest

    @property
    def input_tensor(self) -> EngineTensor:
        """Name, shape of an item and number type of what lies in ``input``."""
        return self._engine.input

    @property
    def output_tensors(self) -> tuple[EngineTensor, ...]:
        """The same for each of ``outputs``: those of the spec first, in its order."""
        return self._engine.outputs

    @property
    def graph_sizes(self) -> tuple[int, ...]:
        """Batch sizes that are replayed as CUDA graphs."""
        return self._batches.captured

    @property
    def no_graphs(self) -> str | None:
        """Why no CUDA graphs are captured here (any more); None where they are."""
        return self._batches.no_graphs

    @property
    def captures_itself(self) -> bool:
        """Whether the library makes CUDA graphs of its own, which no other capture can hold."""
        return self._engine.captures_itself

    @property
    def shares_workspace(self) -> bool:
        """Whether the engine works in memory that other sessions may use too."""
        return self._shares_workspace

    def warmup(self, sizes: Iterable[int] = (1,)) -> None:
        """Set up and capture batches of these sizes, so that later ones are as fast as they get.

        Raises SessionError for a size that the engine does not take, and what ``run_on_device`` raises.
        """
        with self._lock:
            self._check_open()
            for size in sizes:
                self._batches.prepare(self._padded(size), capture=True)
            self._engine.save_cache()

    def run(self, batch: NDArray[np.float32]) -> Outputs:
        """The spec's outputs, float32 (N, ...) each, of a batch (N, 3, H, W) float32; N may be 0.

        More than ``max_batch`` items run in several batches. Values that are not finite are handed on as they
        are. Raises SessionError when the session is closed, the batch does not fit or TensorRT fails, and
        DeviceError when the device does.
        """
        with self._lock:
            self._check_open()
            shape = self._engine.input.shape
            if batch.dtype != np.float32 or batch.ndim != 4 or batch.shape[1:] != shape:
                raise SessionError(
                    f"{self._where}: a batch is float32 (N, {', '.join(map(str, shape))}), not {batch.dtype} "
                    f"{batch.shape}. Make it with Preprocessor(session.spec)."
                )
            results = tuple(np.empty((len(batch), *item), np.float32) for item in self._spec.output_shapes)
            with self.context.current("run a model"):
                for start in range(0, len(batch), self.max_batch):
                    part = slice(start, start + self.max_batch)
                    self._run_part(batch[part], tuple(result[part] for result in results))
        return results

    def _run_part(self, batch: NDArray[np.float32], results: Outputs) -> None:
        count = len(batch)
        with np.errstate(over="ignore"):  # float16 has no room for what preprocessing never makes
            self._host_input.array[:count] = batch
        self.input.upload(self._host_input.array[:count], stream=self.stream)
        self.run_on_device(count)
        for host, device in zip(self._host_outputs, self.outputs, strict=False):
            device.download(host.array[:count], stream=self.stream)
        self.stream.synchronize()
        for result, host in zip(results, self._host_outputs, strict=True):
            result[:] = host.array[:count]

    def run_on_device(self, count: int, *, stream: Stream | None = None) -> None:
        """Put one inference of the first ``count`` items of ``input`` on the stream, into ``outputs``.

        count: 1 to ``max_batch``. stream: another one than the session's; its user sees to the order.

        It returns when the work is queued. The first call for a batch size sets it up, and waits.

        Raises SessionError or DeviceError as ``run`` does.
        """
        with self._lock:
            self._check_open()
            batch = self._batches.best(self._padded(count))
            self._batches.put(batch, stream or self.stream)

    def enqueue(self, count: int, *, stream: Stream) -> None:
        """``run_on_device`` as plain TensorRT work, for a CUDA graph that the caller captures around it.

        ``warmup`` that size first. Whoever shares a workspace launches the graph inside ``workspace.turn``,
        and captures anew when the workspace's ``generation`` has changed.

        Raises SessionError when the size is not set up, and where the library captures its own graphs, which
        no other capture can hold.
        """
        with self._lock:
            self._check_open()
            size = self._padded(count)
            if self._engine.captures_itself:
                raise SessionError(
                    f"{self._where}: {self._engine.library} captures CUDA graphs itself. Use run_on_device."
                )
            if not self._batches.is_ready(size):
                raise SessionError(f"{self._where}: call warmup([{count}]) before a capture of that size.")
            with self.context.current("run a model"):
                self._engine.enqueue(self._batches.prepare(size).execution, stream.handle)

    def _padded(self, count: int) -> int:
        """The batch size that runs ``count`` items."""
        if not 1 <= count <= self.max_batch:
            raise SessionError(
                f"{self._where}: a batch of {count}; the engine takes 1 to {self.max_batch}. Cut the batch, "
                "or build the engine for larger ones."
            )
        return max(count, self.min_batch)

    def _buffer(self, tensor: EngineTensor) -> DeviceBuffer:
        item = int(np.prod(tensor.shape)) * _kind(tensor).itemsize
        return DeviceBuffer(self.context, self.max_batch * item)

    def _pinned(self, tensor: EngineTensor) -> PinnedBuffer:
        return PinnedBuffer(self.context, (self.max_batch, *tensor.shape), _kind(tensor))

    def _check_open(self) -> None:
        if self._closed:
            raise SessionError(f"{self._where}: the session is closed. Open it again to run it.")

    def close(self) -> None:
        """Free what the model holds on the device. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self.context.disown(self)
            try:
                with self.context.releasing("close a model") as driver:
                    if driver is not None:
                        self.stream.synchronize()  # nothing is freed under running work
            finally:
                self._made.close()

    def __enter__(self) -> "TensorRTSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _kind(tensor: EngineTensor) -> np.dtype[Any]:
    return np.dtype(np.float16 if tensor.half else np.float32)
