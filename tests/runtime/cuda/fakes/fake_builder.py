"""The builder of the stand-in for TensorRT 10.3: an engine is the graph itself (``fake_trt.engine_bytes``).

It has what ``posedge.engines`` asks of that version and runs in its child process. What other versions offer,
and what the library refuses, is tested on the stand-ins beside the tests of ``posedge.engines``.
"""

import enum

import onnx
from fake_trt import engine_bytes


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class ProfilingVerbosity(enum.Enum):
    DETAILED = 2


class IProgressMonitor:
    pass


class _Tensor:
    def __init__(self, value):
        self.name = value.name
        self.shape = tuple(side.dim_value or -1 for side in value.type.tensor_type.shape.dim)


class _Network:
    def read(self, path):
        self.model = onnx.load(path)
        self.inputs, self.outputs = (
            map(_Tensor, self.model.graph.input),
            map(_Tensor, self.model.graph.output),
        )
        self.inputs, self.outputs = list(self.inputs), list(self.outputs)
        self.num_inputs, self.num_outputs = len(self.inputs), len(self.outputs)

    def get_input(self, index):
        return self.inputs[index]

    def get_output(self, index):
        return self.outputs[index]


class OnnxParser:
    def __init__(self, network, logger):
        self._network = network

    def parse_from_file(self, path):
        self._network.read(path)
        return True


class _Profile:
    def set_shape(self, name, smallest, usual, largest):
        self.sizes = smallest[0], largest[0]


class _Config:
    def add_optimization_profile(self, profile):
        self.sizes = profile.sizes
        return 0


class Builder:
    def __init__(self, logger):
        pass

    def create_network(self, flags=0):
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return _Network()

    def create_builder_config(self):
        return _Config()

    def create_optimization_profile(self):
        return _Profile()

    def build_serialized_network(self, network, config):
        smallest, largest = config.sizes
        half = network.model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
        onnx_bytes = network.model.SerializeToString()
        return engine_bytes(onnx_bytes, smallest=smallest, largest=largest, half=half)
