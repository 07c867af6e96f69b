"""What of a residual shortcut counts: the part of it that the Relu after the Add lets through.

Where relu(branch + shortcut) is all that becomes of a shortcut, its values below -relu(branch) change
nothing, for every number:

    relu(branch + shortcut) = relu(branch + max(shortcut, -relu(branch)))

A downsampling shortcut is a convolution without an activation, half of its values are
negative and most of them end there. A range that is chosen for them is twice as wide as it need be.
"""

import numpy as np
import onnx
from numpy.typing import NDArray

from .placement import Placement
from .topology import Topology, node_id


def rectified_shortcuts(model: onnx.ModelProto, placement: Placement) -> dict[str, str]:
    """The shortcuts among what ``placement`` quantises of which only the rectified sum is used, each with
    the branch that it is added to."""
    topology = Topology(model)
    found: dict[str, str] = {}
    for site in placement.inputs:
        add = topology.producer(site.node)
        if add is None or add.op_type != "Add" or not _alone(topology, site.tensor):
            continue
        producer = topology.producer(site.tensor)
        if producer is None or producer.op_type == "Relu" or not _rectified(topology, node_id(add)):
            continue  # what is never negative has nothing to lose
        found[site.tensor] = add.input[1 - site.index]
    return found


def surviving(shortcut: NDArray[np.float32], branch: NDArray[np.float32]) -> NDArray[np.float32]:
    """What counts of a shortcut's values when they are added to those of ``branch``; all of them where one
    of the two is broadcast."""
    if shortcut.shape != branch.shape:
        return shortcut
    return np.maximum(shortcut, -np.maximum(branch, 0))


def _alone(topology: Topology, tensor: str) -> bool:
    """Whether one node reads ``tensor`` and nobody else."""
    return len(topology.readers(tensor)) == 1 and tensor not in topology.outputs


def _rectified(topology: Topology, tensor: str) -> bool:
    return _alone(topology, tensor) and topology.readers(tensor)[0].op_type == "Relu"
