"""The models that posedge knows by name, with the figures published for them."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import GraphError, require
from ..runtime.spec import ModelSpec

if TYPE_CHECKING:  # torch takes seconds to import and listing the zoo does not need it
    from torch import nn


@dataclass(frozen=True)
class ZooEntry:
    """A model of the zoo.

    spec: how it is fed and read.
    network: builds it with random weights.
    published_ap: COCO val2017 AP in [0, 1] with flip test and the detector's boxes, as mmpose publishes it.
    checkpoint: address of the official weights; the eight hex digits before the date in its name are the
        start of the file's SHA-256.
    """

    spec: ModelSpec
    network: "Callable[[], nn.Module]"
    published_ap: float
    checkpoint: str

    @property
    def name(self) -> str:
        return self.spec.name


def _rsn(blocks: tuple[int, ...], stages: int = 1) -> "Callable[[], nn.Module]":
    def build() -> "nn.Module":
        from .models.rsn import RSN

        return RSN(blocks, stages)

    return build


def _megvii_spec(name: str) -> ModelSpec:
    return ModelSpec(name, codec="megvii", flip_shift=False, nms="none")


_OPENMMLAB = "https://download.openmmlab.com/mmpose/top_down"

_ENTRIES = (
    ZooEntry(
        spec=_megvii_spec("rsn_18_256x192"),
        network=_rsn((2, 2, 2, 2)),
        published_ap=0.704,
        checkpoint=f"{_OPENMMLAB}/rsn/rsn18_coco_256x192-72f4b4a7_20201127.pth",
    ),
)

ZOO = {entry.name: entry for entry in _ENTRIES}


def find_entry(name: str) -> ZooEntry:
    """The entry called ``name``. Raises GraphError with the nearest names for one that is not there."""
    try:
        return ZOO[name]
    except KeyError:
        near = difflib.get_close_matches(name, ZOO, 3, 0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the zoo has: {', '.join(ZOO)}"
        raise GraphError(f"no model of the zoo is called {name!r}; {hint}") from None


def build_model(name: str) -> "nn.Module":
    """The network called ``name`` in eval mode with random weights.

    Its ``forward`` takes (N, 3, H, W) float32 and returns the deployed output only. Raises GraphError for
    an unknown name, MissingExtraError without torch.
    """
    entry = find_entry(name)
    require("torch", "export")
    return entry.network().eval()
