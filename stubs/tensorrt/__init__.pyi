# The parts of TensorRT's Python API that posedge calls, in all the versions that it supports: what one of
# them lacks is asked for only where engines/releases.py says that it is there. TensorRT-RTX has the same.
# Sources: NVIDIA's Python API reference and bindings, and the docstrings of tensorrt_rtx 1.7.1.
from collections.abc import Sequence
from typing import SupportsInt

from typing_extensions import Buffer

__version__: str

class _Enum:
    name: str
    value: int
    def __int__(self) -> int: ...

class ILogger:
    class Severity(_Enum):
        INTERNAL_ERROR: ILogger.Severity
        ERROR: ILogger.Severity
        WARNING: ILogger.Severity
        INFO: ILogger.Severity
        VERBOSE: ILogger.Severity

    INTERNAL_ERROR: Severity
    ERROR: Severity
    WARNING: Severity
    INFO: Severity
    VERBOSE: Severity
    def __init__(self) -> None: ...
    def log(self, severity: Severity, msg: str) -> None: ...

class IProgressMonitor:
    def __init__(self) -> None: ...
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...
    def step_complete(self, phase_name: str, step: int) -> bool: ...
    def phase_finish(self, phase_name: str) -> None: ...

class NetworkDefinitionCreationFlag(_Enum):
    EXPLICIT_BATCH: NetworkDefinitionCreationFlag
    STRONGLY_TYPED: NetworkDefinitionCreationFlag

class BuilderFlag(_Enum):
    FP16: BuilderFlag
    INT8: BuilderFlag
    GPU_FALLBACK: BuilderFlag
    SPARSE_WEIGHTS: BuilderFlag
    VERSION_COMPATIBLE: BuilderFlag

class MemoryPoolType(_Enum):
    WORKSPACE: MemoryPoolType

class HardwareCompatibilityLevel(_Enum):
    NONE: HardwareCompatibilityLevel
    AMPERE_PLUS: HardwareCompatibilityLevel

class ProfilingVerbosity(_Enum):
    DETAILED: ProfilingVerbosity
    LAYER_NAMES_ONLY: ProfilingVerbosity

class DeviceType(_Enum):
    GPU: DeviceType
    DLA: DeviceType

class ITensor:
    name: str
    @property
    def shape(self) -> Sequence[int]: ...

class ILayer:
    name: str

class INetworkDefinition:
    @property
    def num_inputs(self) -> int: ...
    @property
    def num_outputs(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    def get_input(self, index: int) -> ITensor: ...
    def get_output(self, index: int) -> ITensor: ...
    def get_layer(self, index: int) -> ILayer: ...

class IHostMemory(Buffer):
    @property
    def nbytes(self) -> int: ...

class ITimingCache:
    def serialize(self) -> IHostMemory: ...
    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool: ...

class IOptimizationProfile:
    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None: ...

class IBuilderConfig:
    builder_optimization_level: int
    default_device_type: DeviceType
    DLA_core: int
    hardware_compatibility_level: HardwareCompatibilityLevel
    profiling_verbosity: ProfilingVerbosity
    progress_monitor: IProgressMonitor | None
    def set_flag(self, flag: BuilderFlag) -> None: ...
    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: SupportsInt) -> None: ...
    def add_optimization_profile(self, profile: IOptimizationProfile) -> int: ...
    def can_run_on_DLA(self, layer: ILayer) -> bool: ...
    def create_timing_cache(self, serialized_timing_cache: Buffer) -> ITimingCache | None: ...
    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> ITimingCache | None: ...
    # of TensorRT-RTX alone
    num_compute_capabilities: int
    def set_compute_capability(self, compute_capability: ComputeCapability, index: SupportsInt) -> bool: ...

# of TensorRT-RTX alone; it has a member for each target, such as SM86
class ComputeCapability(_Enum):
    CURRENT: ComputeCapability

class Builder:
    def __init__(self, logger: ILogger) -> None: ...
    @property
    def num_DLA_cores(self) -> int: ...
    def create_network(self, flags: SupportsInt = 0) -> INetworkDefinition: ...
    def create_builder_config(self) -> IBuilderConfig: ...
    def create_optimization_profile(self) -> IOptimizationProfile: ...
    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None: ...

class ErrorCode(_Enum): ...

class ParserError:
    def code(self) -> ErrorCode: ...
    def desc(self) -> str: ...
    def node(self) -> int: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...

class OnnxParserFlag(_Enum):
    NATIVE_INSTANCENORM: OnnxParserFlag

class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None: ...
    @property
    def num_errors(self) -> int: ...
    def get_error(self, index: int) -> ParserError: ...
    def parse_from_file(self, model: str) -> bool: ...
    def set_flag(self, flag: OnnxParserFlag) -> None: ...
