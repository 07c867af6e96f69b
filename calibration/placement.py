"""Where quantisation goes: which inputs of which layers a target should see in INT8.

The rules, each from NVIDIA's guidance on explicit quantisation and checked against TensorRT-RTX 1.7:

- Every input of Conv, Gemm and MatMul is quantised: activations per tensor, weights per output channel.
- A layer's output is never quantised between it and its bias or activation, so that they fuse.
- A residual Add fuses into the convolution that feeds it when its other input, the shortcut, is quantised
  and the convolution's branch is not.
- All layers that read a tensor share one pair of Q and DQ.
- Biases stay float.

ConvTranspose, grouped convolutions and shortcuts differ from target to target: ``targets.py``.
"""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import onnx

from ..errors import CalibrationError
from .targets import DEFAULT_TARGET, Target, target_named
from .topology import Topology, attributes, node_id

QUANTISED_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

BY_REQUEST = "kept in float by request"


@dataclass(frozen=True)
class QuantisedInput:
    """Input ``index`` of the layer ``node`` (its first output) reads the activation ``tensor`` in INT8."""

    node: str
    operator: str
    index: int
    tensor: str


@dataclass(frozen=True)
class QuantisedWeight:
    """Input ``index`` of ``node`` reads the constant ``tensor`` in INT8.

    axis: dimension that has a scale for each index, 0 where a layer's output channels are; None for one
        scale for the whole tensor.
    """

    node: str
    index: int
    tensor: str
    axis: int | None


@dataclass(frozen=True)
class FloatLayer:
    """A layer that could have been quantised and is not."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Placement:
    """The plan for one graph, in the order of its nodes.

    inputs: activations that layers read in INT8; the shortcuts of residual Adds are among them.
    weights: constants that layers read in INT8.
    residual_adds: the Adds whose shortcut is quantised.
    float_layers: what stays in float, and why.
    """

    inputs: tuple[QuantisedInput, ...]
    weights: tuple[QuantisedWeight, ...]
    residual_adds: tuple[str, ...]
    float_layers: tuple[FloatLayer, ...]

    @property
    def activations(self) -> tuple[str, ...]:
        """The tensors to observe, each once."""
        return tuple(dict.fromkeys(site.tensor for site in self.inputs))

    def without(self, tensors: Mapping[str, str]) -> "Placement":
        """The plan with every layer that reads one of ``tensors`` (name to reason) left in float."""
        left = {site.node: site for site in self.inputs if site.tensor in tensors}
        reasons = tuple(
            FloatLayer(node, site.operator, f"its input {site.tensor!r}: {tensors[site.tensor]}")
            for node, site in left.items()
        )
        return replace(
            self,
            inputs=tuple(site for site in self.inputs if site.node not in left),
            weights=tuple(weight for weight in self.weights if weight.node not in left),
            residual_adds=tuple(node for node in self.residual_adds if node not in left),
            float_layers=self.float_layers + reasons,
        )


def plan(model: onnx.ModelProto, target: str = DEFAULT_TARGET, keep_float: Collection[str] = ()) -> Placement:
    """Plan the quantisation of a float32 graph. Nothing is changed.

    target: a key of ``targets.TARGETS``: who will run the graph.
    keep_float: layers (their first outputs) that are to stay in float; of a residual Add, the shortcut.

    Raises CalibrationError for an unknown target and for a name in ``keep_float`` that is no such layer.
    """
    library = target_named(target)
    topology = Topology(model)
    depths = _depths(topology)
    inputs: list[QuantisedInput] = []
    weights: list[QuantisedWeight] = []
    residual_adds: list[str] = []
    float_layers: list[FloatLayer] = []
    layers: list[str] = []
    for node in topology.nodes:
        name = node_id(node)
        shortcut = _shortcut(node, topology, depths) if node.op_type == "Add" else None
        if node.op_type not in QUANTISED_OPERATORS and shortcut is None:
            continue
        layers.append(name)
        reason = BY_REQUEST if name in keep_float else _obstacle(node, topology, library)
        if reason:
            float_layers.append(FloatLayer(name, node.op_type, reason))
        elif shortcut is not None:
            inputs.append(QuantisedInput(name, "Add", shortcut, node.input[shortcut]))
            residual_adds.append(name)
        else:
            for index, tensor in enumerate(node.input[:2]):
                if topology.is_constant(tensor):
                    weights.append(QuantisedWeight(name, index, tensor, _weight_axis(node, index)))
                else:
                    inputs.append(QuantisedInput(name, node.op_type, index, tensor))
    _require_layers(keep_float, layers)
    return Placement(tuple(inputs), tuple(weights), tuple(residual_adds), tuple(float_layers))


def _require_layers(names: Collection[str], layers: list[str]) -> None:
    """Raise CalibrationError for a name to keep in float that no layer has: it would be without effect."""
    unknown = sorted(set(names) - set(layers))
    if not unknown:
        return
    close = difflib.get_close_matches(unknown[0], layers, n=5, cutoff=0.5) or layers[:5]
    found = f"{', '.join(map(repr, close))}{', ...' if len(layers) > len(close) else ''}" if close else "none"
    raise CalibrationError(
        f"{unknown[0]!r} is no layer that could be quantised, so it cannot be kept in float. A layer goes by "
        f"its first output; there are {len(layers)}: {found}"
    )


def _obstacle(node: onnx.NodeProto, topology: Topology, target: Target) -> str | None:
    """Why a layer cannot be quantised, or None."""
    if node.op_type == "Add":
        return None if target.shortcuts else f"{target.name} does not compute it with the convolution"
    if node.op_type == "ConvTranspose" and not target.transposed:
        return f"{target.name} never runs it in INT8"
    constants = [topology.is_constant(tensor) for tensor in node.input[:2]]
    if all(constants):
        return "both inputs are constants"
    if node.op_type != "MatMul" and not constants[1]:
        return "its weights are computed, not constant"
    for tensor in node.input[:2]:
        value = topology.constant(tensor)
        if value is not None and value.ndim < 2:
            return f"the constant {tensor} is a vector"
        if topology.is_constant(tensor) and (value is None or value.dtype != "float32"):
            return f"the constant {tensor} is not float32"
    return _group_obstacle(node, topology, target)


def _group_obstacle(node: onnx.NodeProto, topology: Topology, target: Target) -> str | None:
    """Why the target cannot run a grouped convolution in INT8, or None."""
    groups = int(attributes(node).get("group", 1)) if node.op_type.startswith("Conv") else 1
    if groups <= 1:
        return None
    weights = topology.constant(node.input[1])
    assert weights is not None  # asked for constant weights only
    widths = (weights.shape[0] // groups, weights.shape[1])  # the one outputs, the other inputs
    if widths == (1, 1):
        return None if target.depthwise else f"{target.name} does not run depthwise convolutions in INT8"
    if any(width % target.group_multiple for width in widths):
        first, second = widths if node.op_type == "ConvTranspose" else widths[::-1]
        return (
            f"its {groups} groups have {first} input and {second} output channels each; {target.name} "
            f"runs multiples of {target.group_multiple} in INT8"
        )
    return None


def _weight_axis(node: onnx.NodeProto, index: int) -> int | None:
    """The output channels' axis where that is 0; else per tensor, for scales on axis 1 lose INT8."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    output_first = node.op_type == "Conv" or (node.op_type == "Gemm" and transposed)
    return 0 if output_first and index == 1 else None


def _shortcut(node: onnx.NodeProto, topology: Topology, depths: dict[str, int]) -> int | None:
    """Which input of a residual Add is the shortcut; None where no convolution feeds the Add alone."""
    if any(topology.is_constant(tensor) for tensor in node.input):
        return None
    branches = [index for index, tensor in enumerate(node.input) if _is_branch(tensor, topology)]
    if not branches:
        return None
    # where both come from convolutions the longer way is the block and the other its downsampling shortcut
    branch = max(branches, key=lambda index: (depths[node.input[index]], -index))
    return 1 - branch


def _is_branch(tensor: str, topology: Topology) -> bool:
    """Whether ``tensor`` is the output of a Conv (with its bias) that nothing else reads."""
    node = topology.producer(tensor)
    while node is not None and len(topology.readers(tensor)) == 1 and tensor not in topology.outputs:
        if node.op_type == "Conv":
            return True
        activations = [name for name in node.input if not topology.is_constant(name)]
        if node.op_type != "Add" or len(activations) != 1:
            return False
        tensor = activations[0]
        node = topology.producer(tensor)
    return False


def _depths(topology: Topology) -> dict[str, int]:
    """The longest way from an input to each tensor, in nodes; ONNX demands that nodes come in order."""
    depths: dict[str, int] = {}
    for node in topology.nodes:
        depth = 1 + max((depths.get(tensor, 0) for tensor in node.input), default=0)
        depths.update((output, depth) for output in node.output)
    return depths
