"""A stand-in for a network of about the cost of RSN-18, in torch, where TensorRT cannot run."""

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SessionError, require
from ...runtime.cuda.context import Context
from ...runtime.cuda.memory import DeviceBuffer, PinnedBuffer
from ...runtime.cuda.streams import Graph, Stream
from ...runtime.sessions import Outputs
from ...runtime.sessions.tensorrt_engine import EngineTensor
from ...runtime.spec import ModelSpec

_BLOCKS = 18  # 3x3 convolutions of 64 channels at 64x48: RSN-18's 2.2 G multiplications with stem and head
_WARM_UP = 3


class TorchNetwork:
    """A stack of float16 convolutions in torch, on a stream and in buffers of posedge's driver layer.

    It has the cost of RSN-18 and random weights: it shows what surrounds a network costs and finds no joints.
    What TensorRTSession offers to work on the device, it offers too.

    Raises MissingExtraError without torch, SessionError where torch has no CUDA or finds another device.
    """

    def __init__(self, context: Context, stream: Stream, max_batch: int) -> None:
        self._torch: Any = require("torch", "export")
        if not self._torch.cuda.is_available():
            raise SessionError("torch is installed without CUDA, or finds no device. Install torch for CUDA.")
        torch = self._torch
        self.context, self.stream, self._max_batch = context, stream, max_batch
        self._spec = ModelSpec("torch_stack_256x192", codec="megvii")
        width, height = self._spec.input_wh
        (maps,) = self._spec.output_shapes
        self._input_tensor = EngineTensor(self._spec.input_name, (3, height, width), True)
        self._output_tensor = EngineTensor(self._spec.output_name, maps, True)
        with ExitStack() as made:
            tensors = (self._input_tensor, self._output_tensor)
            sizes = [max_batch * int(np.prod(tensor.shape)) * 2 for tensor in tensors]
            buffers = [made.enter_context(DeviceBuffer(context, size)) for size in sizes]
            self.input, self.outputs = buffers[0], tuple(buffers[1:])
            self._host = [
                made.enter_context(PinnedBuffer(context, (max_batch, *tensor.shape), np.float16))
                for tensor in tensors
            ]
            device = f"cuda:{context.device.ordinal}"
            self._x, self._y = (
                torch.as_tensor(_Exposed(buffer.address, (max_batch, *tensor.shape)), device=device)
                for buffer, tensor in zip(buffers, tensors, strict=True)
            )
            self._queue = torch.cuda.ExternalStream(stream.handle, device=device)
            # blocks of its own: what a graph holds is given to no other work of torch
            self._pool = torch.cuda.MemPool()
            self._graphs: dict[int, Graph] = {}
            self._layers = _layers(torch).half().to(device, memory_format=torch.channels_last).eval()
            self._no_graphs: str | None = None
            self.input.fill(0, stream=stream)
            made.callback(self._drop_graphs)
            self._made = made.pop_all()
        context.adopt(self)

    @property
    def spec(self) -> ModelSpec:
        """How it is fed and read: as RSN-18."""
        return self._spec

    @property
    def max_batch(self) -> int:
        """The largest batch."""
        return self._max_batch

    @property
    def min_batch(self) -> int:
        """The smallest batch."""
        return 1

    @property
    def name(self) -> str:
        """What sessions call their backend."""
        return "torch"

    @property
    def captures_itself(self) -> bool:
        """False: a capture of the caller holds it."""
        return False

    @property
    def shares_workspace(self) -> bool:
        """False: its memory is its own."""
        return False

    @property
    def simulated(self) -> bool:
        """False: it runs on the device."""
        return False

    @property
    def library(self) -> str:
        """torch's version."""
        return f"torch {self._torch.__version__}"

    @property
    def input_tensor(self) -> EngineTensor:
        """What lies in ``input``."""
        return self._input_tensor

    @property
    def output_tensors(self) -> tuple[EngineTensor, ...]:
        """What lies in ``outputs``."""
        return (self._output_tensor,)

    @property
    def no_graphs(self) -> str | None:
        """Why no CUDA graph is captured; None where they are."""
        return self._no_graphs

    def warmup(self, sizes: Iterable[int] = (1,)) -> None:
        """Set up and capture batches of these sizes."""
        for size in sizes:
            if size in self._graphs or self._no_graphs:
                continue
            for _ in range(_WARM_UP):  # cuDNN chooses, and the pool gets its blocks
                self.enqueue(size, stream=self.stream)
            self.stream.synchronize()
            try:
                work = partial(self.enqueue, size, stream=self.stream)
                self._graphs[size] = self.stream.capture(work)
            except (SessionError, RuntimeError) as error:
                self._no_graphs = f"torch could not be captured: {error}"

    def run(self, batch: NDArray[np.float32]) -> Outputs:
        """The maps (N, K, h, w) float32 of a batch (N, 3, H, W) of at most ``max_batch``."""
        count = len(batch)
        self._host[0].array[:count] = batch
        self.input.upload(self._host[0].array[:count], stream=self.stream)
        self.run_on_device(count)
        self.outputs[0].download(self._host[1].array[:count], stream=self.stream)
        self.stream.synchronize()
        return (self._host[1].array[:count].astype(np.float32),)

    def run_on_device(self, count: int, *, stream: Stream | None = None) -> None:
        """Put one inference of the first ``count`` items of ``input`` on the stream."""
        self.warmup([count])
        graph = self._graphs.get(count)
        if graph is None:
            self.enqueue(count, stream=stream or self.stream)
        else:
            graph.launch(stream or self.stream)

    def enqueue(self, count: int, *, stream: Stream) -> None:
        """The same as plain work of torch, for a capture of the caller; only on its own stream."""
        if stream is not self.stream:
            raise SessionError("the stand-in network runs on its own stream only.")
        torch = self._torch
        with (
            self.context.current("run the stand-in network"),
            torch.inference_mode(),
            torch.cuda.stream(self._queue),
            torch.cuda.use_mem_pool(self._pool),
        ):
            self._y[:count].copy_(self._layers(self._x[:count]))

    def close(self) -> None:
        """Free its buffers. A second call does nothing."""
        self.context.disown(self)
        self._made.close()

    def __enter__(self) -> "TorchNetwork":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drop_graphs(self) -> None:
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()


class _Exposed:
    """Device memory of float16 numbers, as the CUDA array interface (version 3) gives it."""

    def __init__(self, address: int, shape: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "<f2",
            "data": (address, False),
            "version": 3,
        }


def _layers(torch: Any) -> Any:
    layers = [torch.nn.Conv2d(3, 64, 7, 2, 3), torch.nn.ReLU(), torch.nn.Conv2d(64, 64, 3, 2, 1)]
    for _ in range(_BLOCKS):
        layers += [torch.nn.ReLU(), torch.nn.Conv2d(64, 64, 3, 1, 1)]
    return torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Conv2d(64, 17, 1))
