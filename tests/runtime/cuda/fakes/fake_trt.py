"""Stand-ins for ``tensorrt`` and ``tensorrt_rtx`` on the stand-in for libcuda.

An engine is an ONNX model behind a line of JSON. ``execute_async_v3`` puts onnxruntime on the stream, as a
host function, so that it is captured and replayed like kernels; device addresses are host addresses. Which
attributes a version has is from the documents and from ``tensorrt_rtx`` itself (a test compares them). It
shows that posedge calls each version as it is; it measures nothing.
"""

import ctypes
import enum
import json
import time
from types import SimpleNamespace

import numpy as np

_lib = ctypes.CDLL("libcuda.so.1")
_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_kept = []  # graphs may call these until the process ends
CALLS = []  # what was done to engines, for tests


def engine_bytes(onnx: bytes, *, smallest=1, largest=8, workspace=4096, **header) -> bytes:
    """An engine.

    header: refuse="words" to be refused, weights=bytes of device memory, half, waits, until_copies=how many
    copies to the device it waits for, which others make meanwhile.
    """
    header |= {"smallest": smallest, "largest": largest, "workspace": workspace}
    return b"fake" + json.dumps(header).encode() + b"\n" + onnx


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class CudaGraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    LAZY = 0
    EAGER = 1
    NONE = 2


class Runtime:
    def __init__(self, logger):
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine):
        def refuse(words):
            self._logger.log(Severity.ERROR, words)

        if not serialized_engine.startswith(b"fake"):
            return refuse("Error Code 1: Serialization (magicTag assertion failed)")
        line, onnx = serialized_engine[4:].split(b"\n", 1)
        header = json.loads(line)
        if "refuse" in header:
            return refuse(header["refuse"])
        weights = ctypes.c_uint64()
        if _lib.cuMemAlloc_v2(ctypes.byref(weights), ctypes.c_size_t(header.get("weights", 1024))):
            return refuse("Error Code 2: OutOfMemory (Requested size was not available)")
        return self._engine_class(header, onnx, weights)


class _Cache:
    def __init__(self):
        self._data = b""

    def deserialize(self, blob):
        CALLS.append(("cache", blob))
        return blob == b"kernels"

    def serialize(self):
        return b"kernels"


class _Config:
    def __init__(self):
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY
        self._strategy = ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(self, strategy):
        self._strategy = strategy

    def create_runtime_cache(self):
        return _Cache()

    def set_runtime_cache(self, cache):
        return True


class ICudaEngine:
    def __init__(self, header, onnx, weights):
        import onnxruntime

        self._header, self._weights = header, weights
        self._model = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        self._tensors = {t.name: (TensorIOMode.INPUT, t.shape) for t in self._model.get_inputs()}
        self._tensors |= {t.name: (TensorIOMode.OUTPUT, t.shape) for t in self._model.get_outputs()}
        self.num_io_tensors = len(self._tensors)

    def get_tensor_name(self, index):
        return list(self._tensors)[index]

    def get_tensor_mode(self, name):
        return self._tensors[name][0]

    def get_tensor_shape(self, name):
        return tuple(size if isinstance(size, int) else -1 for size in self._tensors[name][1])

    def get_tensor_dtype(self, name):
        return DataType.HALF if self._header.get("half") else DataType.FLOAT

    def get_tensor_profile_shape(self, name, profile_index):
        sizes = self._header["smallest"], self._header["largest"], self._header["largest"]
        return [(size, *self.get_tensor_shape(name)[1:]) for size in sizes]

    def __del__(self):
        if hasattr(self, "_weights"):
            assert _lib.cuMemFree_v2(self._weights) in (0, 700, 719), "freed outside of its context"


class IExecutionContext:
    def __init__(self, engine, graphs=False):
        self._engine, self._graphs = engine, graphs
        self._addresses, self._count, self._memory = {}, None, (0, 0)

    def set_input_shape(self, name, shape):
        header = self._engine._header
        self._count = shape[0]
        return header["smallest"] <= shape[0] <= header["largest"]

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return name in self._engine._tensors

    def execute_async_v3(self, stream_handle):
        stream, (memory, size) = ctypes.c_void_p(stream_handle), self._memory
        CALLS.append(("execute", self._count))
        if self._graphs and self._capturing(stream):
            return False
        # the driver says whether the memory is there
        if _lib.cuMemsetD8Async(ctypes.c_uint64(memory), 0x5A, ctypes.c_size_t(size), stream):
            return False
        if self._engine._header.get("waits"):  # as engines do that cannot be captured
            _lib.cuStreamSynchronize(stream)
        function = _HOST_FUNCTION(self._work())
        _kept.append(function)
        return _lib.cuLaunchHostFunc(stream, function, None) == 0

    def _capturing(self, stream):
        status = ctypes.c_int()
        _lib.cuStreamIsCapturing(stream, ctypes.byref(status))
        return status.value != 0

    def _work(self):
        """What does the inference; a graph holds it, and like a real graph it does not hold the engine."""
        model, addresses = self._engine._model, dict(self._addresses)
        kind = np.float16 if self._engine._header.get("half") else np.float32
        modes = {name: mode for name, (mode, _) in self._engine._tensors.items()}
        shapes = {name: (self._count, *self._engine.get_tensor_shape(name)[1:]) for name in modes}

        def view(name):
            size = int(np.prod(shapes[name])) * np.dtype(kind).itemsize
            memory = (ctypes.c_ubyte * size).from_address(addresses[name])
            return np.frombuffer(memory, kind).reshape(shapes[name])

        until = self._engine._header.get("until_copies", 0)

        def work(_):
            patience = time.monotonic() + 20
            while _lib.fake_calls(b"cuMemcpyHtoDAsync") < until and time.monotonic() < patience:
                time.sleep(0.001)
            if time.monotonic() >= patience:
                raise AssertionError("the copies did not come")  # the outputs stay as they are
            names = [name for name, mode in modes.items() if mode is TensorIOMode.OUTPUT]
            (source,) = (name for name, mode in modes.items() if mode is TensorIOMode.INPUT)
            results = model.run(names, {source: view(source).astype(np.float32)})
            for name, result in zip(names, results, strict=True):
                view(name)[:] = result

        return work


def build(version, *, name="tensorrt"):
    """A module as that version has it."""
    rtx = name == "tensorrt_rtx"
    number = (99, 0) if rtx else tuple(map(int, version.split(".")[:2]))

    class Engine(ICudaEngine):
        pass

    class Execution(IExecutionContext):
        pass

    class VersionRuntime(Runtime):
        _engine_class = Engine

    def create(self, strategy=ExecutionContextAllocationStrategy.STATIC):
        graphs = rtx and strategy.cuda_graph_strategy is CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        strategy = strategy._strategy if rtx else strategy
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        return Execution(self, graphs)

    def set_device_memory(self, memory, size):
        assert size >= self._engine._header["workspace"]
        self._memory = memory, size

    def device_memory(self, memory):
        self._memory = memory, self._engine._header["workspace"]

    workspace = property(lambda self: self._header["workspace"])
    module = {
        "__version__": version,
        "ILogger": ILogger,
        "Runtime": VersionRuntime,
        "TensorIOMode": TensorIOMode,
        "DataType": DataType,
        "ICudaEngine": Engine,
        "IExecutionContext": Execution,
    }
    if number >= (10, 0):
        module["ExecutionContextAllocationStrategy"] = ExecutionContextAllocationStrategy
        Engine.create_execution_context = create
    else:
        Engine.create_execution_context_without_device_memory = lambda self: Execution(self)
    if number < (11, 0):
        Engine.device_memory_size = workspace
    if number >= (10, 1):
        Engine.device_memory_size_v2 = workspace
        Execution.set_device_memory = set_device_memory
    else:
        Execution.device_memory = property(None, device_memory)
    if rtx:
        module["CudaGraphStrategy"] = CudaGraphStrategy
        module["DynamicShapesKernelSpecializationStrategy"] = DynamicShapesKernelSpecializationStrategy
        module["IRuntimeConfig"], module["IRuntimeCache"] = _Config, _Cache
        Engine.create_runtime_config = lambda self: _Config()
    return SimpleNamespace(__name__=name, **module)
