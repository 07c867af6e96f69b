"""Grouped convolutions in fewer groups, whose weights are block-diagonal."""

from collections.abc import Iterable
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from ...errors import GraphError
from .base import GraphPass, Report, unheard
from .editing import DEFAULT_DOMAINS, Constants, attributes, set_attributes

_OPERATORS = ("Conv", "ConvTranspose")


class MergeGroups(GraphPass):
    """Gives every Conv and ConvTranspose at most ``groups`` groups, depthwise ones included.

    Neighbouring groups become one whose weights are zero between the old ones, so the result is the same.
    The price is arithmetic on these zeros: G groups merged into N make G / N times the weights and the
    MACs of the layer. Left alone: a layer with no more than ``groups`` groups, one whose groups ``groups``
    does not divide, and one whose weights are computed. A number that divides those of no layer is refused:
    it is not what was meant.
    """

    def __init__(self, groups: int, report: Report = unheard) -> None:
        """Raises GraphError for ``groups`` below 1."""
        if groups < 1:
            raise GraphError(f"--merge-groups {groups}: a convolution has at least 1 group")
        self._groups = groups
        self._report = report

    def edit(self, model: ModelProto) -> ModelProto:
        constants = Constants(model.graph)
        merged, left = 0, []
        undivided: list[int] = []
        for node in model.graph.node:
            groups = _groups(node)
            if groups <= self._groups:
                continue
            weight = constants.value(node.input[1])
            if weight is None:
                left.append(f"{node.name}: its weights are computed")
            elif groups % self._groups:
                left.append(f"{node.name}: {self._groups} does not divide its {groups} groups")
                undivided.append(groups)
            else:
                constants.replace(node, 1, merge(weight, groups, self._groups))
                set_attributes(node, group=self._groups)
                merged += 1
        if not merged:
            check_mergeable(self._groups, undivided)
        self._report(f"{merged} convolutions merged into {self._groups} groups")
        for reason in left:
            self._report(f"left alone: {reason}")
        return model


def merge(weight: NDArray[Any], groups: int, merged: int) -> NDArray[Any]:
    """The weights of ``groups`` groups as those of ``merged`` groups, of which it must be a multiple.

    weight: (rows, columns of a group, ...), rows being a Conv's output or a ConvTranspose's input channels.
    Returns (rows, columns of a merged group, ...), zero between the old groups.
    """
    together = groups // merged
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    result = np.zeros((weight.shape[0], columns * together, *weight.shape[2:]), weight.dtype)
    for group in range(groups):
        inside = slice(group * rows, (group + 1) * rows)
        place = group % together * columns
        result[inside, place : place + columns] = weight[inside]
    return result


def check_mergeable(wanted: int, groups: Iterable[int]) -> None:
    """Raise GraphError when ``wanted`` divides none of the larger numbers of ``groups``, if there are any."""
    present = [count for count in groups if count > wanted]
    if not present or any(count % wanted == 0 for count in present):
        return
    counts = ", ".join(str(count) for count in sorted(set(present)))
    common = gcd(*present)
    fitting = [str(count) for count in range(1, common + 1) if common % count == 0 and count < max(present)]
    raise GraphError(
        f"--merge-groups {wanted}: the convolutions of this graph have {counts} groups, and {wanted} divides "
        f"none of them. Numbers that do: {', '.join(fitting)}"
    )


def _groups(node: NodeProto) -> int:
    if node.op_type not in _OPERATORS or node.domain not in DEFAULT_DOMAINS:
        return 1
    return int(attributes(node).get("group", 1))
