"""What of a variant is in INT8 and what is not, as lines for people."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...calibration.placement import FloatLayer

_NAMED_LAYERS = 3
_NAMED_REASONS = 8


def share_line(int8_share: float) -> str:
    """The share of the convolutions' multiply-accumulates, 0 to 1, as a line."""
    return f"INT8: {100 * int8_share:.1f} % of the convolutions' multiply-accumulates"


def float_lines(layers: Sequence["FloatLayer"]) -> list[str]:
    """What stays in float as lines, layers of one kind and reason together, the largest group first."""
    groups: dict[tuple[str, str], list[str]] = {}
    for layer in layers:
        # the reasons of single tensors name them; what is said of several is said once
        reason = re.sub(r"^its input '.*?': ", "its input: ", layer.reason)
        groups.setdefault((layer.operator, reason), []).append(layer.node)
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    lines = [
        f"In float: {len(nodes)} {operator} ({_named(nodes)}): {reason}"
        for (operator, reason), nodes in ordered[:_NAMED_REASONS]
    ]
    rest = Counter(operator for (operator, _), nodes in ordered[_NAMED_REASONS:] for _ in nodes)
    if rest:
        others = ", ".join(f"{count} {operator}" for operator, count in rest.items())
        lines.append(f"In float: {others} for other reasons")
    return lines


def _named(nodes: Sequence[str]) -> str:
    return ", ".join([*nodes[:_NAMED_LAYERS], *(["..."] if len(nodes) > _NAMED_LAYERS else [])])
