"""A TensorRT engine in memory: its tensors, its batch sizes, and the contexts that run it.

TensorRT 8.6 to 11 and TensorRT-RTX differ in how an execution context is given its memory and in what they
offer for CUDA graphs. All of that is here; what a library offers is asked of it, not of its version.
"""

import importlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DeviceError, GraphError, MissingExtraError, SessionError
from ...files import write_bytes
from ..cuda.context import Context
from ..spec import ModelSpec

_CURES = {
    "tensorrt": "It comes with JetPack on Jetson and from NVIDIA's repositories elsewhere",
    "tensorrt_rtx": "Install with: pip install 'posedge[tensorrt-rtx]'",
}
LIBRARIES = tuple(_CURES)


@dataclass(frozen=True)
class EngineTensor:
    """An input or output of an engine.

    shape: of one item, without the batch. half: float16, otherwise float32.
    """

    name: str
    shape: tuple[int, ...]
    half: bool


class TensorRTEngine:
    """A deserialised engine. Loading one runs code that is in it: load what you trust.

    engine: the bytes of the file. library: "tensorrt" or "tensorrt_rtx". where: what messages call it.
    cache: a file that keeps what TensorRT-RTX compiles on the device, made if it is not there; None keeps
        nothing. It holds code: it belongs where nobody else can write.

    Raises MissingExtraError when the library cannot be imported; SessionError, with its words, when it
    refuses the engine; GraphError when the engine does not fit the spec; DeviceError when the device has no
    room.
    """

    def __init__(
        self, engine: bytes, spec: ModelSpec, context: Context, library: str, where: str, cache: Path | None
    ) -> None:
        self._trt = import_library(library)
        self._where = where
        self._words: list[str] = []
        self._config: Any = None
        self._cache: Any = None
        self.context = context
        with context.current(f"load {where}"):
            self._runtime: Any = self._trt.Runtime(_logger(self._trt, self._words))
            self._engine: Any = self._runtime.deserialize_cuda_engine(engine)
            if self._engine is None:
                raise self._refused(len(engine))
            if not hasattr(self._engine, "num_io_tensors"):
                raise SessionError(
                    f"{where}: {self.library} is too old; 8.6 is the oldest that posedge runs."
                )
            try:
                self.input, self.outputs = self._tensors(spec)
                self.smallest, self.largest = self._batch_sizes(spec)
                self._config, self._cache = self._runtime_config(cache)
            except BaseException:
                self.close()  # now, while its context is current
                raise
        self._cache_file = cache

    @property
    def workspace(self) -> int:
        """Bytes of device memory that an execution context works in."""
        if hasattr(self._engine, "device_memory_size_v2"):  # from TensorRT 10.1
            return int(self._engine.device_memory_size_v2)
        return int(self._engine.device_memory_size)

    @property
    def library(self) -> str:
        """The library and its version, such as "tensorrt 10.3.0"."""
        return f"{self._trt.__name__} {self._trt.__version__}"

    @property
    def captures_itself(self) -> bool:
        """Whether the library makes CUDA graphs of its own (TensorRT-RTX)."""
        return self._config is not None

    def new_context(self, address: int, size: int) -> Any:
        """An execution context that works in ``size`` bytes of device memory at ``address``."""
        strategies = getattr(self._trt, "ExecutionContextAllocationStrategy", None)
        with self.context.current("make an execution context"):
            if self._config is not None:
                made = self._engine.create_execution_context(self._config)
            elif strategies is not None:  # from TensorRT 10
                made = self._engine.create_execution_context(strategies.USER_MANAGED)
            else:
                made = self._engine.create_execution_context_without_device_memory()
            if made is None:
                raise self._failed("make an execution context")
            self.set_memory(made, address, size)
        return made

    def set_memory(self, execution: Any, address: int, size: int) -> None:
        """Let an execution context work at another address."""
        if hasattr(execution, "set_device_memory"):  # from TensorRT 10.1
            execution.set_device_memory(address, size)
        else:
            execution.device_memory = address

    def bind(self, execution: Any, count: int, addresses: dict[str, int]) -> None:
        """Set the batch size of an execution context, and where its tensors lie on the device."""
        if not execution.set_input_shape(self.input.name, (count, *self.input.shape)):
            raise self._failed(f"take a batch of {count}")
        for name, address in addresses.items():
            if not execution.set_tensor_address(name, address):
                raise self._failed(f"place the tensor {name!r}")

    def enqueue(self, execution: Any, stream: int) -> None:
        """Put one inference on a stream. Raises SessionError with TensorRT's words."""
        if not execution.execute_async_v3(stream):
            raise self._failed("run")

    def save_cache(self) -> None:
        """Write what TensorRT-RTX has compiled since, for the next process. Nothing without a cache file."""
        if self._cache is None or self._cache_file is None:
            return
        with self.context.current("save the runtime cache"):
            data = bytes(self._cache.serialize())
        if not self._cache_file.exists() or self._cache_file.read_bytes() != data:
            write_bytes(self._cache_file, data)

    def close(self) -> None:
        """Let go of the engine; its execution contexts must be gone before."""
        with self.context.releasing(f"free {self._where}"):
            self._config = self._cache = self._engine = self._runtime = None

    def _tensors(self, spec: ModelSpec) -> tuple[EngineTensor, tuple[EngineTensor, ...]]:
        """The input, and the outputs: the spec's first and in its order, then the others."""
        modes = self._trt.TensorIOMode
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == modes.INPUT]
        outputs = [name for name in names if self._engine.get_tensor_mode(name) == modes.OUTPUT]
        if inputs != [spec.input_name]:
            raise GraphError(
                f"{self._where}: the spec's input_name is {spec.input_name!r}, but the engine's inputs are "
                f"{', '.join(map(repr, inputs))}. Correct the spec, or build the engine of this model."
            )
        width, height = spec.input_wh
        expected: dict[str, tuple[int, ...]] = {spec.input_name: (3, height, width)}
        expected |= dict(zip(spec.output_names, spec.output_shapes, strict=True))
        for name, shape in expected.items():
            if name not in names:
                raise GraphError(
                    f"{self._where}: the spec's output {name!r} is none of the engine's outputs "
                    f"{', '.join(map(repr, outputs))}. Correct the spec, or build the engine of this model."
                )
            found = tuple(self._engine.get_tensor_shape(name))
            if found[1:] != shape:
                raise GraphError(
                    f"{self._where}: {name!r} is {found} in the engine, but "
                    f"by the spec it is {('batch', *shape)}. Correct the spec, or build this model's engine."
                )
        others = [name for name in outputs if name not in spec.output_names]
        ordered = tuple(self._tensor(name) for name in (*spec.output_names, *others))
        return self._tensor(spec.input_name), ordered

    def _tensor(self, name: str) -> EngineTensor:
        kind, kinds = self._engine.get_tensor_dtype(name), self._trt.DataType
        if kind not in (kinds.FLOAT, kinds.HALF):
            raise GraphError(f"{self._where}: {name!r} is {kind}; float32 and float16 are supported.")
        shape = tuple(int(size) for size in self._engine.get_tensor_shape(name))[1:]
        if any(size < 0 for size in shape):
            raise GraphError(f"{self._where}: {name!r} is {shape}; only the batch may be dynamic.")
        return EngineTensor(name, shape, kind == kinds.HALF)

    def _batch_sizes(self, spec: ModelSpec) -> tuple[int, int]:
        """The smallest and the largest batch of the first optimization profile."""
        fixed = int(self._engine.get_tensor_shape(spec.input_name)[0])
        if fixed >= 0:
            return fixed, fixed
        smallest, _, largest = self._engine.get_tensor_profile_shape(spec.input_name, 0)
        return int(smallest[0]), int(largest[0])

    def _runtime_config(self, cache: Path | None) -> tuple[Any, Any]:
        """TensorRT-RTX's settings and cache, None and None for TensorRT."""
        if not hasattr(self._trt, "CudaGraphStrategy"):
            return None, None
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # kernels are compiled when a batch size is first seen, so that none is after the warm-up
        strategies = self._trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        if cache is None:
            return config, None
        kept = config.create_runtime_cache()
        with suppress(OSError):  # not there yet
            kept.deserialize(cache.read_bytes())  # False for another device or version: it is made anew
        config.set_runtime_cache(kept)
        return config, kept

    def _failed(self, doing: str) -> SessionError:
        return SessionError(f"{self._where}: {self.library} cannot {doing}: {self._said()}")

    def _said(self) -> str:
        """TensorRT's last words, once: they are not those of the next failure."""
        said = " / ".join(self._words[-3:]) or "it gives no reason"
        self._words.clear()
        return said

    def _refused(self, size: int) -> SessionError:
        said = self._said()
        if "memory" in said.lower():
            free, total = self.context.memory_info()
            return DeviceError(
                f"{self._where}: no room on {self.context.device.name} for the engine: its file has {size:,} "
                f"bytes, {free:,} of {total:,} are free, and TensorRT does not say how much it asked for "
                f"({said}). Free memory on the device."
            )
        major, minor = self.context.device.capability
        return SessionError(
            f"{self._where}: {self._trt.__name__} {self._trt.__version__} on {self.context.device.name} "
            f"(compute capability {major}.{minor}) refuses the engine: {said}. An engine fits the library "
            "version and the kind of device that it was built for. Build it on this device: posedge build"
        )


def import_library(name: str) -> Any:
    """The module of a TensorRT library. Raises MissingExtraError, with how to get it, without it."""
    if name not in _CURES:
        raise SessionError(f"{name!r} is no TensorRT library; choose {' or '.join(_CURES)}.")
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingExtraError(
            f"{name} is needed to run this engine and cannot be imported ({error}). {_CURES[name]}."
        ) from error


def _logger(trt: Any, words: list[str]) -> Any:
    """A logger that keeps errors, one line each, for messages."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                words.append(" ".join(msg.split())[:500])
                del words[:-20]

    return Logger()
