"""What the device does with a batch: crops, network, decoding; replayed as a CUDA graph per batch size."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np

from ...errors import DeviceError, GraphError, SessionError
from ..sessions.tensorrt import TensorRTSession
from .crops import CROP
from .decode import Decoder
from .loaded import LoadedKernels
from .memory import DeviceBuffer
from .stage_timer import StageTimer
from .streams import Graph
from .warp import warp_launch

_GRAPHS = 16  # batch sizes that are captured besides the largest; further ones run without a graph

Work = Callable[[], None]


@dataclass(frozen=True)
class Stage:
    """A part of the work. put: what puts it on the stream. persons: of the network's batch; 0 for kernels."""

    name: str
    put: Work
    persons: int = 0


class BatchWork:
    """The work of a batch between its records and its keypoints, on the session's stream.

    session: the engine. kernels: for its device. flip_test: run the mirrored crops too; they are the second
    half of the network's batch, or a batch of their own where the engine takes one crop at a time. yuv: the
    colour standard of NV12 frames.

    records: where the batch's records of CROP go. keypoints: where x, y and score of K joints come out.

    A batch size is run as it is once and then captured: as one graph, or as graphs around the network where
    the library captures that itself or the session shares its workspace. Nothing is allocated afterwards.

    Raises GraphError for an engine whose outputs differ in type, DeviceError without room.
    """

    def __init__(
        self, session: TensorRTSession, kernels: LoadedKernels, flip_test: bool, yuv: str = "bt601"
    ) -> None:
        self._session, self._kernels, self._flip_test, self._yuv = session, kernels, flip_test, yuv
        self._spec = session.spec
        self.context, self.stream = session.context, session.stream
        self._doubled = flip_test and session.max_batch > 1
        self.largest = session.max_batch // 2 if self._doubled else session.max_batch
        self._outputs = session.output_tensors[: len(self._spec.output_names)]
        kinds = {tensor.half for tensor in self._outputs}
        if len(kinds) > 1:
            raise GraphError(f"{self._spec.name}: the engine's outputs must be all float16 or all float32.")
        self._decoder = Decoder(self._spec, self.largest, flip_test=flip_test, half=kinds.pop())
        self._ready: dict[int, list[Work]] = {}
        self._graphs: list[Graph] = []
        self._refused: str | None = None  # why nothing more is captured
        self._full = False
        with ExitStack() as made:

            def buffer(size: int) -> DeviceBuffer:
                return made.enter_context(DeviceBuffer(self.context, size))

            self.records = buffer(self.largest * CROP.itemsize)
            self.keypoints = buffer(self.largest * self._spec.num_joints * 12)
            self._workspace = buffer(self._decoder.workspace_bytes)
            self._aside: list[DeviceBuffer] = []
            if flip_test and not self._doubled:
                self._aside = [buffer(self._input_bytes(1)), *map(buffer, self._output_bytes(1))]
            constants = np.frombuffer(self._decoder.constants, np.uint8)
            self._workspace.upload(constants, stream=self.stream)
            self.stream.synchronize()
            self._made = made.pop_all()

    @property
    def graph_sizes(self) -> tuple[int, ...]:
        """Batch sizes that are replayed as CUDA graphs."""
        return tuple(sorted(self._ready))

    @property
    def no_graphs(self) -> str | None:
        """Why a batch size runs without a CUDA graph; None where none does."""
        if self._refused is None and self._full:
            return f"{len(self._ready)} batch sizes are captured, and no more are: each takes device memory"
        return self._refused

    def put(self, count: int) -> None:
        """Put the work of ``count`` persons on the stream, 1 to ``largest``. Not from two threads at once."""
        ready = self._ready.get(count)
        if ready is not None:
            for work in ready:
                work()
            return
        stages = self._stages(count)
        for stage in stages:
            stage.put()
        if self._refused is not None:
            return
        if len(self._ready) < _GRAPHS or count == self.largest:
            self._capture(count, stages)
        else:
            self._full = True

    def put_timed(self, count: int, timer: StageTimer) -> None:
        """``put`` without a graph, measured stage by stage."""
        for stage in self._stages(count):
            with timer.stage(stage.name, self.stream):
                stage.put()

    def _stages(self, count: int) -> list[Stage]:
        session = self._session
        plain = session.input.address
        outputs = [buffer.address for buffer in session.outputs[: len(self._outputs)]]
        if not self._flip_test:
            return [
                self._warp(count, 0),
                self._network(count),
                self._decode(count, outputs, []),
            ]
        if self._doubled:
            mirrored = [
                address + offset for address, offset in zip(outputs, self._output_bytes(count), strict=True)
            ]
            return [
                self._warp(count, plain + self._input_bytes(count)),
                self._network(2 * count),
                self._decode(count, outputs, mirrored),
            ]
        aside, *kept = (buffer.address for buffer in self._aside)
        moves = [*zip(kept, outputs, self._output_bytes(1), strict=True)]
        moves.append((plain, aside, self._input_bytes(1)))
        return [
            self._warp(count, aside),
            self._network(count),
            Stage("network", partial(self._move, moves)),
            self._network(count),
            self._decode(count, kept, outputs),
        ]

    def _warp(self, count: int, mirrored: int) -> Stage:
        half = self._session.input_tensor.half
        place = self._session.input.address
        launches = warp_launch(
            self._spec, count, self.records.address, place, mirrored, half=half, yuv=self._yuv
        )
        return Stage("warp", partial(self._kernels.launch, launches, stream=self.stream))

    def _network(self, count: int) -> Stage:
        return Stage("network", partial(self._session.run_on_device, count), count)

    def _decode(self, count: int, outputs: list[int], mirrored: list[int]) -> Stage:
        launches = self._decoder.launches(
            count,
            outputs,
            mirrored,
            self.records.address,
            self.keypoints.address,
            self._workspace.address,
        )
        return Stage("decode", partial(self._kernels.launch, launches, stream=self.stream))

    def _move(self, moves: Iterable[tuple[int, int, int]]) -> None:
        with self.context.current("copy on the device") as driver:
            for to, source, size in moves:
                driver.copy_on_device(to, source, size, self.stream.handle)

    def _capture(self, count: int, stages: list[Stage]) -> None:
        """Record what ``put`` does from now on for this size."""
        made: list[Graph] = []
        ready: list[Work] = []
        apart = self._session.captures_itself or self._session.shares_workspace
        try:
            # all in one, or kernels in graphs of their own between runs of the network
            for network, group in groupby(stages, lambda stage: apart and stage.persons > 0):
                if network:
                    ready += [stage.put for stage in group]
                    continue
                made.append(self.stream.capture(partial(self._put_captured, list(group))))
                ready.append(partial(made[-1].launch, self.stream))
        except (SessionError, DeviceError) as refused:
            for graph in made:
                graph.close()
            if self.context.lost:
                raise
            self._refused = f"a capture was refused: {refused}"
            return
        self._graphs += made
        self._ready[count] = ready

    def _put_captured(self, stages: list[Stage]) -> None:
        for stage in stages:
            if stage.persons:
                self._session.enqueue(stage.persons, stream=self.stream)
            else:
                stage.put()

    def _input_bytes(self, count: int) -> int:
        tensor = self._session.input_tensor
        return count * int(np.prod(tensor.shape)) * (2 if tensor.half else 4)

    def _output_bytes(self, count: int) -> list[int]:
        return [count * int(np.prod(tensor.shape)) * (2 if tensor.half else 4) for tensor in self._outputs]

    def close(self) -> None:
        """Free graphs and memory. A second call does nothing."""
        self._ready.clear()
        for graph in self._graphs:
            graph.close()
        self._graphs.clear()
        self._made.close()
