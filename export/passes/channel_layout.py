"""Which channels of which tensors must be laid out alike, and what their layout becomes with padding."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Segment:
    """Neighbouring channels that go through the graph together: ``length`` of them become ``padded``."""

    length: int
    padded: int


@dataclass(frozen=True)
class Layout:
    """The channel axis of a tensor: segments in order, each with its zeros behind it."""

    segments: tuple[Segment, ...]

    @property
    def padded(self) -> int:
        return sum(segment.padded for segment in self.segments)

    @property
    def is_padded(self) -> bool:
        return any(segment.padded != segment.length for segment in self.segments)

    def expand(self, values: NDArray[Any], axis: int, fill: float = 0.0) -> NDArray[Any]:
        """``values`` with ``fill`` where this layout has padding along ``axis``."""
        pieces, start = [], 0
        for segment in self.segments:
            pieces.append(np.take(values, range(start, start + segment.length), axis))
            shape = list(values.shape)
            shape[axis] = segment.padded - segment.length
            pieces.append(np.full(shape, fill, values.dtype))
            start += segment.length
        return np.concatenate(pieces, axis)


@dataclass(frozen=True)
class _Link:
    """Channels from ``start`` on of one tensor are those from ``other_start`` on of another."""

    tensor: str
    start: int
    other: str
    other_start: int
    length: int

    def reversed(self) -> "_Link":
        return _Link(self.other, self.other_start, self.tensor, self.start, self.length)


_Key = tuple[str, int]  # a tensor and the first channel of a segment


class ChannelClasses:
    """Equivalence classes of channels over the tensors of a graph.

    Tensors are cut into segments at the ends of every link, the cuts are carried along the links until they
    agree, and linked segments are united. A class can be padded when none of its segments is fixed.
    """

    def __init__(self, channels: Mapping[str, int]) -> None:
        """channels: of each tensor that has a known number of them."""
        self._channels = channels
        self._links: list[_Link] = []
        self._fixed: dict[str, str] = {}

    def link(
        self, tensor: str, other: str, start: int = 0, other_start: int = 0, length: int | None = None
    ) -> None:
        """Unite ``length`` channels (all, where None). Where that cannot be, both tensors are fixed."""
        size, other_size = self._channels.get(tensor), self._channels.get(other)
        length = length if length is not None else size
        if (
            size is None
            or other_size is None
            or length is None
            or start + length > size
            or other_start + length > other_size
        ):
            self.fix(tensor, "unknown sizes")
            self.fix(other, "unknown sizes")
        else:
            self._links.append(_Link(tensor, start, other, other_start, length))

    def fix(self, tensor: str, reason: str) -> None:
        """Keep the channels of ``tensor`` as they are; the first reason counts."""
        self._fixed.setdefault(tensor, reason)

    def layouts(self, multiple: int) -> tuple[dict[str, Layout], Counter[str]]:
        """The layout of each tensor, classes padded to ``multiple`` where they can be.

        Also the reasons of the classes that had to stay at a number that is no multiple, counted.
        """
        starts = {tensor: sorted(cuts)[:-1] for tensor, cuts in self._cuts().items()}
        roots = self._unite(starts)
        reasons: dict[_Key, str] = {}
        for tensor, reason in self._fixed.items():
            for start in starts.get(tensor, []):
                reasons.setdefault(roots[tensor, start], reason)
        kept: dict[_Key, str] = {}
        layouts = {}
        for tensor, begins in starts.items():
            segments = []
            for begin, end in zip(begins, [*begins[1:], self._channels[tensor]], strict=True):
                root, length = roots[tensor, begin], end - begin
                padded = -(-length // multiple) * multiple
                if padded != length and root in reasons:
                    kept[root] = reasons[root]
                    padded = length
                segments.append(Segment(length, padded))
            layouts[tensor] = Layout(tuple(segments))
        return layouts, Counter(kept.values())

    def _cuts(self) -> dict[str, set[int]]:
        cuts = {tensor: {0, size} for tensor, size in self._channels.items() if size > 0}
        links: dict[str, list[_Link]] = defaultdict(list)
        waiting: list[_Key] = []
        for link in self._both_ways():
            links[link.tensor].append(link)
            waiting += [(link.tensor, link.start), (link.tensor, link.start + link.length)]
        while waiting:
            tensor, cut = waiting.pop()
            cuts[tensor].add(cut)
            for link in links[tensor]:
                carried = cut - link.start + link.other_start
                if 0 <= cut - link.start <= link.length and carried not in cuts[link.other]:
                    cuts[link.other].add(carried)
                    waiting.append((link.other, carried))
        return cuts

    def _both_ways(self) -> Iterator[_Link]:
        for link in self._links:
            yield link
            yield link.reversed()

    def _unite(self, starts: dict[str, list[int]]) -> dict[_Key, _Key]:
        """The representative of each segment's class."""
        parents: dict[_Key, _Key] = {
            (tensor, start): (tensor, start) for tensor, begins in starts.items() for start in begins
        }

        def root(key: _Key) -> _Key:
            while parents[key] != key:
                parents[key] = parents[parents[key]]
                key = parents[key]
            return key

        for link in self._links:
            for start in starts[link.tensor]:
                offset = start - link.start
                if 0 <= offset < link.length:
                    one = root((link.tensor, start))
                    parents[one] = root((link.other, link.other_start + offset))
        return {key: root(key) for key in parents}
