"""Remove what tells of the machine that exported the graph and not of what it computes."""

from onnx import GraphProto, ModelProto

from .base import GraphPass


class StripMetadata(GraphPass):
    """Clears doc strings, metadata, producers and stated shapes of inner tensors.

    torch's exporter writes source paths and stack traces into every node. Shapes of inner tensors can be
    inferred, and stale ones mislead the tools that trust them. What stays depends on the network alone, so
    the same model gives the same file.
    """

    def __init__(self, graph_name: str) -> None:
        self._graph_name = graph_name

    def edit(self, model: ModelProto) -> ModelProto:
        model.producer_name = "posedge"
        model.ClearField("producer_version")
        model.ClearField("domain")
        model.ClearField("model_version")
        model.ClearField("doc_string")
        model.ClearField("metadata_props")
        _strip(model.graph)
        model.graph.name = self._graph_name
        return model


def _strip(graph: GraphProto) -> None:
    graph.ClearField("doc_string")
    graph.ClearField("metadata_props")
    graph.ClearField("value_info")
    graph.ClearField("quantization_annotation")
    for item in [*graph.node, *graph.initializer, *graph.input, *graph.output]:
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    for node in graph.node:
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            for inner in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
                _strip(inner)
