"""What a graph asked for beside what its engine does."""

from dataclasses import dataclass

import onnx

from ...runtime.target import Target
from .engine_layers import EngineLayer, Reading
from .graph_summary import AskedLayer, asked_layers, shares
from .inspector_child import ask_inspector
from .rtx_text import read_rtx_engine

_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class EngineFile:
    """An engine to be told of. name: of its file; data: its bytes, checked; target: what it was built for."""

    name: str
    data: bytes
    target: Target

    @property
    def built_with(self) -> str:
        """The library that built it and its version, such as "tensorrt_rtx 1.7.1.116"."""
        return f"{self.target.library} {self.target.version}"


@dataclass(frozen=True)
class LayerReport:
    """A layer that multiplies.

    node, operator: of the graph. macs: for one image, None where a size is not known.
    asked, got: precisions such as "INT8"; None where they are not known.
    operation: what the engine computes it with, "" where that is not known.
    fused: the other nodes of the graph in the same operation; Q and DQ are not counted as such.
    weight_bytes: as stored in the engine, None where it does not say.
    """

    node: str
    operator: str
    macs: int | None
    asked: str | None
    got: str | None
    operation: str
    fused: tuple[str, ...]
    weight_bytes: int | None


@dataclass(frozen=True)
class EngineReport:
    """A variant of a bundle.

    engine: file name, None where none was built; engine_bytes, built_with: of it.
    source: what told of the engine's layers, or why nothing did.
    layers: in the order of the graph. operations: how many of each kind the engine runs, {} if not known.
    """

    variant: str
    engine: str | None
    engine_bytes: int | None
    built_with: str | None
    source: str
    layers: tuple[LayerReport, ...]
    operations: dict[str, int]

    @property
    def asked_shares(self) -> dict[str, float]:
        """Parts of the multiply-accumulates by the precision that the graph asks for."""
        return shares((layer.asked, layer.macs) for layer in self.layers)

    @property
    def got_shares(self) -> dict[str, float]:
        """Parts of the multiply-accumulates by the precision of the engine."""
        return shares((layer.got, layer.macs) for layer in self.layers)

    @property
    def lost(self) -> tuple[LayerReport, ...]:
        """The layers that were asked for INT8 and are known to be computed in another precision."""
        return tuple(
            layer for layer in self.layers if layer.asked == "INT8" and layer.got not in ("INT8", None)
        )

    @property
    def unknown(self) -> int:
        """How many layers were asked for INT8 without it being known what they got."""
        return sum(layer.asked == "INT8" and layer.got is None for layer in self.layers)


def inspect_variant(variant: str, model: onnx.ModelProto, engine: EngineFile | None = None) -> EngineReport:
    """Compare a graph with its engine.

    The engine of a flavour with a text in it is only read. Any other is loaded in a child process, so its
    hash must have been checked, where it was built for the library and the device that are here.
    """
    reading = _read(engine)
    quantisers = {node.name for node in model.graph.node if node.op_type in _QUANTISERS}
    return EngineReport(
        variant=variant,
        engine=None if engine is None else engine.name,
        engine_bytes=None if engine is None else len(engine.data),
        built_with=None if engine is None else engine.built_with,
        source=reading.source,
        layers=tuple(_report(layer, reading, quantisers) for layer in asked_layers(model)),
        operations=_operations(reading),
    )


def _read(engine: EngineFile | None) -> Reading:
    if engine is None:
        return Reading(None, "not known: the variant has no engine")
    if engine.target.library == "tensorrt_rtx":
        return read_rtx_engine(engine.data)
    if engine.target.library == "tensorrt":
        return ask_inspector(engine.data, engine.target)
    return Reading(None, f"not known: {engine.built_with} built the engine")


def _report(layer: AskedLayer, reading: Reading, quantisers: set[str]) -> LayerReport:
    found = _find(layer.node, reading.layers or ())
    others = () if found is None else found.nodes
    return LayerReport(
        node=layer.node,
        operator=layer.operator,
        macs=layer.macs,
        asked=layer.asked,
        got=None if found is None else found.precision,
        operation="" if found is None else found.operation,
        fused=tuple(node for node in others if node != layer.node and node not in quantisers),
        weight_bytes=None if found is None else found.weight_bytes,
    )


def _find(node: str, layers: tuple[EngineLayer, ...]) -> EngineLayer | None:
    """The operation that multiplies for a node. Kernels around it name the node too, and do not count."""
    return next((layer for layer in layers if layer.multiplies and node in layer.nodes), None)


def _operations(reading: Reading) -> dict[str, int]:
    counts: dict[str, int] = {}
    for layer in reading.layers or ():
        if layer.operation and layer.nodes:
            counts[layer.operation] = counts.get(layer.operation, 0) + 1
    return dict(sorted(counts.items()))
