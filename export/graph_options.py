"""Which of the rewrites that suit one accelerator and not another are made to the exported graph."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..errors import GraphError


@dataclass(frozen=True)
class GraphOptions:
    """Rewrites that keep what the graph computes.

    pad_channels: channels padded with zeros to multiples of 32.
    dla_friendly: transposed convolutions without padding, cropped afterwards.
    merge_groups: grouped convolutions merged into so many groups; None leaves them.

    Raises GraphError for ``merge_groups`` below 1.
    """

    pad_channels: bool = False
    dla_friendly: bool = False
    merge_groups: int | None = None

    def __post_init__(self) -> None:
        if self.merge_groups is not None and self.merge_groups < 1:
            raise GraphError(f"--merge-groups {self.merge_groups}: a convolution has at least 1 group")

    @property
    def inputs(self) -> Mapping[str, object]:
        """JSON values that decide the graph, for the key of a stage."""
        return asdict(self)

    @property
    def lines(self) -> tuple[str, ...]:
        """What is done, for a report; nothing where nothing is."""
        lines = []
        if self.merge_groups is not None:
            lines.append(
                f"Graph: convolutions of more groups are merged into {self.merge_groups}, where possible."
            )
        if self.pad_channels:
            lines.append("Graph: channels are padded with zeros to multiples of 32.")
        if self.dla_friendly:
            lines.append("Graph: transposed convolutions are unpadded and cropped, for the DLA.")
        return tuple(lines)


PLAIN = GraphOptions()
