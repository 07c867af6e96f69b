"""Batch sizes of an engine: set up once each, captured as CUDA graphs, padded where that is faster."""

from typing import Any

from ...errors import DeviceError, SessionError
from ..cuda.context import Context
from ..cuda.streams import Event, Graph, Stream
from ..cuda.workspace import Workspace
from .tensorrt_engine import TensorRTEngine

_TRIAL_RUNS = 2  # TensorRT sets itself up in the first run of a shape
_TIMED_RUNS = 3


class PreparedBatch:
    """A batch size that was set up: its execution context, and its graph if there is one.

    generation: of the workspace that it was set up in.
    """

    def __init__(self, execution: Any) -> None:
        self.execution = execution
        self.graph: Graph | None = None
        self.generation = -1

    def drop_graph(self) -> None:
        """Free the graph, if there is one."""
        if self.graph is not None:
            self.graph.close()
            self.graph = None


class PreparedBatches:
    """What runs a batch of each size.

    addresses: where the engine's tensors lie on the device, by name. shared: whether others work in the
    workspace too. graphs: how many sizes are captured at first use.

    Each size has an execution context of its own, since a captured graph holds on to its context's state;
    they take turns in one workspace.
    """

    def __init__(
        self,
        engine: TensorRTEngine,
        stream: Stream,
        workspace: Workspace,
        addresses: dict[str, int],
        *,
        shared: bool,
        graphs: int,
    ) -> None:
        self._engine = engine
        self._context: Context = engine.context
        self._stream = stream
        self._workspace = workspace
        self._addresses = addresses
        self._shared = shared
        self._graphs_left = graphs
        self._sizes: dict[int, PreparedBatch] = {}
        self._runs_as: dict[int, int] = {}  # batch size -> itself, or a captured size that is faster
        self.no_graphs: str | None = None if graphs else "CUDA graphs were not asked for"
        if graphs and engine.captures_itself:
            self.no_graphs = f"{engine.library} captures CUDA graphs itself"

    @property
    def captured(self) -> tuple[int, ...]:
        """The sizes that are replayed as CUDA graphs."""
        return tuple(sorted(size for size, batch in self._sizes.items() if batch.graph is not None))

    def is_ready(self, count: int) -> bool:
        """Whether a size is set up in the workspace as it is now."""
        batch = self._sizes.get(count)
        return batch is not None and batch.generation == self._workspace.generation

    def best(self, count: int) -> PreparedBatch:
        """What runs ``count`` items: that size, or a captured larger one if it was measured to be faster."""
        if count not in self._runs_as:
            own = self.prepare(count)
            self._runs_as[count] = count
            larger = min((size for size in self.captured if size > count), default=None)
            if (
                own.graph is None
                and larger is not None
                and self._time(self.prepare(larger)) < self._time(own)
            ):
                self._runs_as[count] = larger
        return self.prepare(self._runs_as[count])

    def prepare(self, count: int, *, capture: bool = False) -> PreparedBatch:
        """Set a size up, and capture it if ``capture`` or while graphs are left. Cheap the second time."""
        batch = self._sizes.get(count)
        if batch is not None and self.is_ready(count) and not (capture and self._can_capture(batch)):
            return batch
        workspace = self._workspace
        if batch is None:
            batch = PreparedBatch(self._engine.new_context(workspace.address, workspace.size))
            self._engine.bind(batch.execution, count, self._addresses)
            self._sizes[count] = batch
        elif not self.is_ready(count):  # the workspace has moved
            capture = capture or batch.graph is not None
            batch.drop_graph()
            self._engine.set_memory(batch.execution, workspace.address, workspace.size)
        for _ in range(_TRIAL_RUNS):
            self.put(batch, self._stream)
        self._stream.synchronize()
        batch.generation = workspace.generation  # a size whose trial failed is set up again
        if self._can_capture(batch) and (capture or self._graphs_left > 0):
            self._capture(batch)
        return batch

    def put(self, batch: PreparedBatch, stream: Stream) -> None:
        """Put one inference on a stream, behind whoever else works in the workspace."""
        with self._context.current("run a model"):
            if self._shared:
                with self._workspace.turn(stream):
                    self._start(batch, stream)
            else:
                self._start(batch, stream)

    def _start(self, batch: PreparedBatch, stream: Stream) -> None:
        if batch.graph is not None:
            batch.graph.launch(stream)
        else:
            self._engine.enqueue(batch.execution, stream.handle)

    def _can_capture(self, batch: PreparedBatch) -> bool:
        return batch.graph is None and self.no_graphs is None

    def _capture(self, batch: PreparedBatch) -> None:
        def work() -> None:
            self._engine.enqueue(batch.execution, self._stream.handle)

        try:
            batch.graph = self._stream.capture(work)
            self._graphs_left -= 1
        except (SessionError, DeviceError) as refused:
            if self._context.lost:
                raise
            self.no_graphs = f"a capture was refused: {refused}"

    def _time(self, batch: PreparedBatch) -> float:
        """The fastest of a few runs, in milliseconds by the device's clock."""
        times = []
        with Event(self._context, timing=True) as start, Event(self._context, timing=True) as end:
            for _ in range(_TIMED_RUNS):
                start.record(self._stream)
                self.put(batch, self._stream)
                end.record(self._stream)
                end.synchronize()
                times.append(end.elapsed_since(start))
        return min(times)

    def close(self) -> None:
        """Free graphs and execution contexts. A second call does nothing."""
        with self._context.releasing("free a model"):
            for batch in self._sizes.values():
                batch.drop_graph()
            self._sizes.clear()
