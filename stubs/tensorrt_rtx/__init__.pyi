# The parts of TensorRT-RTX that posedge calls: TensorRT's classes under another module's name.
from tensorrt import Builder as Builder
from tensorrt import BuilderFlag as BuilderFlag
from tensorrt import ComputeCapability as ComputeCapability
from tensorrt import DeviceType as DeviceType
from tensorrt import HardwareCompatibilityLevel as HardwareCompatibilityLevel
from tensorrt import ILogger as ILogger
from tensorrt import IProgressMonitor as IProgressMonitor
from tensorrt import MemoryPoolType as MemoryPoolType
from tensorrt import NetworkDefinitionCreationFlag as NetworkDefinitionCreationFlag
from tensorrt import OnnxParser as OnnxParser
from tensorrt import OnnxParserFlag as OnnxParserFlag
from tensorrt import ProfilingVerbosity as ProfilingVerbosity
from tensorrt import __version__ as __version__
