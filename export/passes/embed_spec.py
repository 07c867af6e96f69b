"""Put the spec into the graph's metadata, so that the file alone says how it is fed and read."""

from onnx import ModelProto

from ...runtime.spec import ModelSpec
from ..graphs import attach_spec, check_spec
from .base import GraphPass


class EmbedSpec(GraphPass):
    """Checks the spec against the graph and embeds it under ``posedge.spec``."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec

    def edit(self, model: ModelProto) -> ModelProto:
        check_spec(model, self._spec)
        attach_spec(model, self._spec)
        return model
