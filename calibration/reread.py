"""A calibration read back from the files that it leaves, without a crop: graph, table, INT8 graph.

The table has ranges and factors; the levels of the weights and the biases that go with them are in the INT8
graph alone. ``calibrate`` takes a pass over the crops and a search for levels to find them again.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError
from ..export.graphs import load_graph
from .calibrate import Calibration, equalized_graph
from .qdq import QuantisedArray, quantize_weights
from .rounding import RoundedLayers
from .table import load_table
from .topology import Topology

_BIAS = 2  # the input of a convolution


def read_calibration(graph: Path, table: Path, int8: Path) -> Calibration:
    """The calibration whose INT8 form of ``graph`` is ``int8``; its ``quantized()`` gives that graph again.

    Raises CalibrationError when the table is damaged, or when the files do not belong together.
    """
    saved = load_table(table)
    found = Calibration(saved, equalized_graph(graph, saved))
    exact, quantised = Topology(found.model), Topology(load_graph(int8))
    weights: dict[str, QuantisedArray] = {}
    biases: dict[str, NDArray[np.float64]] = {}
    for site in found.placement().weights:
        node = quantised.producer(site.node)
        levels = None if node is None else _levels(node.input[site.index], quantised)
        own = exact.producer(site.node)
        if node is None or own is None or levels is None:
            raise CalibrationError(
                f"{int8}: {site.node!r} is not in INT8 there, but {table} says that it is. Calibrate again."
            )
        if not _same(levels, quantize_weights(_constant(own.input[site.index], exact), site.axis)):
            weights[site.tensor] = levels
        # a bias that was corrected has a name of its own, even where the correction was too small to show
        if own.op_type == "Conv" and list(node.input[_BIAS:]) != list(own.input[_BIAS:]):
            # in float64 the difference is exact enough to give the same float32 bias again
            after, before = (
                sum(_constant(name, of).astype(np.float64) for name in layer.input[_BIAS:])
                for layer, of in ((node, quantised), (own, exact))
            )
            biases[site.node] = np.asarray(after - before)
    return Calibration(saved, found.model, RoundedLayers(weights, biases))


def _levels(tensor: str, topology: Topology) -> QuantisedArray | None:
    """The constant behind a DequantizeLinear; None where there is none."""
    node = topology.producer(tensor)
    if node is None or node.op_type != "DequantizeLinear":
        return None
    values, scale = (topology.constant(name) for name in node.input[:2])
    if values is None or scale is None:
        return None
    return QuantisedArray(values.copy(), scale.copy())  # those of a protobuf cannot be written, torch warns


def _same(one: QuantisedArray, other: QuantisedArray) -> bool:
    return np.array_equal(one.values, other.values) and np.array_equal(one.scale, other.scale)


def _constant(tensor: str, topology: Topology) -> NDArray[Any]:
    value = topology.constant(tensor)
    assert value is not None  # the plan quantises layers with constants, and biases of others stay
    return value
