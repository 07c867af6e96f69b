"""What a model of the zoo is: how it is fed, what builds it, what was published of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..runtime.spec import ModelSpec

if TYPE_CHECKING:  # torch takes seconds to import and listing the zoo does not need it
    from torch import nn

    Network = Callable[[], nn.Module]


@dataclass(frozen=True)
class PoseFigures:
    """COCO val2017 keypoint figures in [0, 1], with flip test and a detector's boxes (of human AP 56.4)."""

    ap: float
    ap50: float
    ap75: float
    ar: float
    ar50: float

    def __str__(self) -> str:
        return f"COCO AP {self.ap:.3f}"


@dataclass(frozen=True)
class ClassificationFigures:
    """ImageNet-1k validation accuracy in [0, 1], one crop for each image."""

    top1: float
    top5: float

    def __str__(self) -> str:
        return f"ImageNet top-1 {self.top1:.4f}"


@dataclass(frozen=True)
class ZooEntry:
    """A model of the zoo.

    spec: how it is fed and read.
    network: builds it with random weights.
    parameters: of the whole network.
    macs: multiply-accumulates for one input of the whole network, which in RSN includes the heads that only
        training reads; ``macs.count_cost`` counts them, and what the deployed output alone costs.
    published: accuracy as mmpose or mmpretrain publishes it.
    checkpoint: address of the official weights; the eight hex digits behind the last hyphen of its name are
        the start of the file's SHA-256.
    checkpoint_v1, published_ap_v1: RSN was trained once more for mmpose 1.x: that file, and its AP.
    """

    spec: ModelSpec
    network: "Network"
    parameters: int
    macs: int
    published: PoseFigures | ClassificationFigures
    checkpoint: str
    checkpoint_v1: str | None = None
    published_ap_v1: float | None = None

    @property
    def name(self) -> str:
        return self.spec.name


def msra_spec(name: str, input_wh: tuple[int, int]) -> ModelSpec:
    width, height = input_wh
    blur = 17 if input_wh == (288, 384) else 11
    return ModelSpec(
        name, input_wh=input_wh, heatmap_wh=(width // 4, height // 4), blur_kernel=blur, nms="oks"
    )


def megvii_spec(name: str) -> ModelSpec:
    return ModelSpec(name, codec="megvii", flip_shift=False, nms="none")


def classifier_spec(name: str) -> ModelSpec:
    return ModelSpec(name, task="classification", input_wh=(224, 224), num_classes=1000, output_name="logits")


def pose_resnext(depth: int) -> "Network":
    def build() -> "nn.Module":
        from .models.heads import HeatmapNetwork
        from .models.resnext import ResNeXt

        return HeatmapNetwork(ResNeXt(depth))

    return build


def pose_resnest(depth: int) -> "Network":
    def build() -> "nn.Module":
        from .models.heads import HeatmapNetwork
        from .models.resnest import ResNeSt

        return HeatmapNetwork(ResNeSt(depth))

    return build


def rsn(blocks: tuple[int, ...], stages: int) -> "Network":
    def build() -> "nn.Module":
        from .models.rsn import RSN

        return RSN(blocks, stages)

    return build


def classifier_resnext(depth: int, base_width: int) -> "Network":
    def build() -> "nn.Module":
        from .models.heads import ClassificationNetwork
        from .models.resnext import ResNeXt

        return ClassificationNetwork(ResNeXt(depth, base_width))

    return build
