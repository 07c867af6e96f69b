"""A TensorRT that builds nothing: it has the names of one version and no others, and records every call.

The environment says which: TENSORRT_STAND_IN holds {"version", "names" (a key of versions.VERSIONS), "gpu",
"device", "dla_cores"} as JSON. An engine is the JSON text of what was recorded. Reading or setting a name
that the version lacks is an AttributeError, as it is in the bindings.
"""

import enum
import json
import os
import sys
from typing import Any

from .versions import FLAG_VALUES, VERSIONS

_SETTING = json.loads(os.environ["TENSORRT_STAND_IN"])
_NAMES = {kind: set(names.split()) for kind, names in VERSIONS[_SETTING["names"]].items()}
_CALLS: list[list[Any]] = []

__version__ = _SETTING["version"]


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    return value if isinstance(value, int | str | tuple | None) else type(value).__name__


class _Bound:
    """An object of the bindings: no names but the version's, and every public use of them is recorded."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        kind = type(self).__name__
        if name not in _NAMES.get(kind, {name}):
            raise AttributeError(f"'{kind}' object has no attribute '{name}'")
        value = object.__getattribute__(self, name)
        if not callable(value) or kind not in _NAMES:
            return value

        def called(*arguments: Any) -> Any:
            _CALLS.append([f"{kind}.{name}", *map(_plain, arguments)])
            return value(*arguments)

        return called

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            kind = type(self).__name__
            if name not in _NAMES.get(kind, ()):
                raise AttributeError(f"'{kind}' object has no attribute '{name}'")
            _CALLS.append([f"{kind}.{name}", _plain(value)])
        object.__setattr__(self, name, value)


def _enum(kind: str) -> Any:
    return enum.Enum(kind, {name: index for index, name in enumerate(sorted(_NAMES[kind]))})


BuilderFlag = _enum("BuilderFlag")
DeviceType = _enum("DeviceType")
HardwareCompatibilityLevel = _enum("HardwareCompatibilityLevel")
MemoryPoolType = _enum("MemoryPoolType")
NetworkDefinitionCreationFlag = enum.IntEnum(
    "NetworkDefinitionCreationFlag", _SETTING.get("flag_values") or FLAG_VALUES[_SETTING["names"]]
)
OnnxParserFlag = _enum("OnnxParserFlag")
ProfilingVerbosity = _enum("ProfilingVerbosity")
assert {flag.name for flag in NetworkDefinitionCreationFlag} == _NAMES["NetworkDefinitionCreationFlag"]


class ILogger:
    Severity = enum.IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self) -> None: ...


if "IProgressMonitor" in _NAMES:

    class IProgressMonitor:
        def __init__(self) -> None: ...


class ErrorCode(enum.Enum):
    UNSUPPORTED_NODE = 8


class ParserError(_Bound):
    def __init__(self, index: int, name: str, operator: str) -> None:
        self._index, self._name, self._operator = index, name, operator

    def code(self) -> ErrorCode:
        return ErrorCode.UNSUPPORTED_NODE

    def desc(self) -> str:
        return "no importer for this operator"

    def node(self) -> int:
        return self._index

    def node_name(self) -> str:
        return self._name

    def node_operator(self) -> str:
        return self._operator


class ITensor(_Bound):
    name = property(lambda self: self._name)
    shape = property(lambda self: self._shape)

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self._name, self._shape = name, shape


class ILayer(_Bound):
    name = property(lambda self: self._name)

    def __init__(self, name: str, operator: str) -> None:
        self._name, self._operator = name, operator


class INetworkDefinition(_Bound):
    num_layers = property(lambda self: len(self._layers))
    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))

    def __init__(self) -> None:
        self._layers: list[ILayer] = []
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []
        self._precisions: set[str] = set()

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class OnnxParser(_Bound):
    num_errors = property(lambda self: len(self._errors))

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._errors = network, []

    def set_flag(self, flag: Any) -> None:
        assert isinstance(flag, OnnxParserFlag)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse_from_file(self, path: str) -> bool:
        import onnx

        graph = onnx.load(path).graph
        self._errors += [
            ParserError(index, node.name, node.op_type)
            for index, node in enumerate(graph.node)
            if node.op_type == "Det"
        ]
        self._network._layers = [ILayer(node.name, node.op_type) for node in graph.node]
        self._network._inputs, self._network._outputs = (
            [
                ITensor(each.name, tuple(side.dim_value or -1 for side in each.type.tensor_type.shape.dim))
                for each in ends
            ]
            for ends in (graph.input, graph.output)
        )
        if graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16:
            self._network._precisions.add("FP16")
        if any(node.op_type == "QuantizeLinear" for node in graph.node):
            self._network._precisions.add("INT8")
        return not self._errors


class ITimingCache(_Bound):
    """Kernel times as {"device", "times"}. Bytes that are none end the process, as a bad parser would."""

    def __init__(self, serialized: bytes) -> None:
        try:
            content = json.loads(serialized) if serialized else {"device": _SETTING["device"], "times": {}}
        except ValueError:
            os.abort()
        self._device, self._times = content["device"], content["times"]

    def serialize(self) -> bytes:
        return json.dumps({"device": self._device, "times": self._times}).encode()

    def combine(self, other: "ITimingCache", ignore_mismatch: bool) -> bool:
        if other._device != self._device and not ignore_mismatch:
            return False
        self._times = {**other._times, **self._times}
        return True


class IOptimizationProfile(_Bound):
    def set_shape(self, name: str, smallest: Any, usual: Any, largest: Any) -> None:
        _CALLS.append(["IOptimizationProfile.set_shape", name, smallest, usual, largest])


class IBuilderConfig(_Bound):
    def __init__(self, network: INetworkDefinition) -> None:
        self._network, self._flags, self._cache = network, set(), None

    def set_flag(self, flag: Any) -> None:
        assert isinstance(flag, BuilderFlag)
        self._flags.add(flag.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        assert isinstance(pool, MemoryPoolType)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        return 0

    def can_run_on_DLA(self, layer: ILayer) -> bool:
        """Convolutions in a reduced precision, once its flag is set where there are flags."""
        ready = "FP16" in self._flags or "FP16" not in _NAMES["BuilderFlag"] or "IProgressMonitor" in _NAMES
        return ready and "FP16" in self._network._precisions and layer._operator == "Conv"

    def create_timing_cache(self, serialized: bytes) -> ITimingCache:
        return ITimingCache(serialized)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache._device != _SETTING["device"] and not ignore_mismatch:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class Builder(_Bound):
    num_DLA_cores = property(lambda self: _SETTING["dla_cores"])

    def __init__(self, logger: ILogger) -> None:
        if not _SETTING["gpu"]:
            # what the bindings do when the library's constructor returns nothing
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        self._network = INetworkDefinition()
        return self._network

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._network)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        typed = "STRONGLY_TYPED" in _NAMES["NetworkDefinitionCreationFlag"]
        if not typed and "INT8" in network._precisions - config._flags:
            self._logger.log(
                ILogger.ERROR, "Int8 precision has not been set, and the network has Q/DQ layers"
            )
            return None
        if "progress_monitor" in _NAMES["IBuilderConfig"]:
            monitor = config.progress_monitor
            monitor.phase_start("build", None, 2)
            assert monitor.step_complete("build", 0)
            monitor.phase_finish("build")
        cache = {} if config._cache is None else config._cache._times
        timed = [layer.name for layer in network._layers if layer.name not in cache]
        cache.update(dict.fromkeys(timed, 1.0))
        calls = [call for call in _CALLS if call[0] not in ("Builder.build_serialized_network",)]
        return json.dumps({"calls": calls, "timed": timed, "pad": " " * 64}).encode()


def _own_names() -> None:
    """Classes that the version lacks were not defined above; say which file this is when asked wrongly."""
    missing = set(_NAMES) - set(globals())
    assert not missing, f"{sys.modules[__name__].__file__} lacks {missing}"


_own_names()
