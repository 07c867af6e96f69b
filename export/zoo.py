"""The models that posedge knows by name, with the figures published for them."""

import difflib
from typing import TYPE_CHECKING

from ..errors import GraphError, require
from .zoo_entry import (
    ClassificationFigures,
    PoseFigures,
    ZooEntry,
    classifier_resnext,
    classifier_spec,
    megvii_spec,
    msra_spec,
    pose_resnest,
    pose_resnext,
    rsn,
)

if TYPE_CHECKING:  # torch takes seconds to import and listing the zoo does not need it
    from torch import nn

_SMALL = (192, 256)
_LARGE = (288, 384)

_TOP_DOWN = "https://download.openmmlab.com/mmpose/top_down"
_TOP_DOWN_V1 = "https://download.openmmlab.com/mmpose/v1/body_2d_keypoint/topdown_heatmap/coco"
_CLASSIFICATION = "https://download.openmmlab.com/mmclassification/v0/resnext"

_POSE = (
    ZooEntry(
        spec=msra_spec("pose_resnext_50_256x192", _SMALL),
        network=pose_resnext(50),
        parameters=33_471_569,
        macs=5_564_792_832,
        published=PoseFigures(0.715, 0.897, 0.791, 0.771, 0.935),
        checkpoint=f"{_TOP_DOWN}/resnext/resnext50_coco_256x192-dcff15f6_20200727.pth",
    ),
    ZooEntry(
        spec=msra_spec("pose_resnext_50_384x288", _LARGE),
        network=pose_resnext(50),
        parameters=33_471_569,
        macs=12_520_783_872,
        published=PoseFigures(0.724, 0.899, 0.794, 0.777, 0.936),
        checkpoint=f"{_TOP_DOWN}/resnext/resnext50_coco_384x288-412c848f_20200727.pth",
    ),
    ZooEntry(
        spec=msra_spec("pose_resnext_101_256x192", _SMALL),
        network=pose_resnext(101),
        parameters=52_620_369,
        macs=9_227_993_088,
        published=PoseFigures(0.726, 0.9, 0.801, 0.781, 0.939),
        checkpoint=f"{_TOP_DOWN}/resnext/resnext101_coco_256x192-c7eba365_20200727.pth",
    ),
    ZooEntry(
        spec=msra_spec("pose_resnext_101_384x288", _LARGE),
        network=pose_resnext(101),
        parameters=52_620_369,
        macs=20_762_984_448,
        published=PoseFigures(0.744, 0.903, 0.815, 0.794, 0.939),
        checkpoint=f"{_TOP_DOWN}/resnext/resnext101_coco_384x288-f5eabcd6_20200727.pth",
    ),
    ZooEntry(
        spec=msra_spec("pose_resnext_152_256x192", _SMALL),
        network=pose_resnext(152),
        parameters=68_394_065,
        macs=12_891_193_344,
        published=PoseFigures(0.73, 0.903, 0.808, 0.785, 0.94),
        checkpoint=f"{_TOP_DOWN}/resnext/resnext152_coco_256x192-102449aa_20200727.pth",
    ),
    ZooEntry(
        spec=msra_spec("pose_resnext_152_384x288", _LARGE),
        network=pose_resnext(152),
        parameters=68_394_065,
        macs=29_005_185_024,
        published=PoseFigures(0.742, 0.904, 0.81, 0.794, 0.94),
        checkpoint=f"{_TOP_DOWN}/resnext/resnext152_coco_384x288-806176df_20200727.pth",
    ),
    ZooEntry(
        spec=msra_spec("pose_resnest_50_256x192", _SMALL),
        network=pose_resnest(50),
        parameters=35_925_905,
        macs=6_682_232_832,
        published=PoseFigures(0.721, 0.899, 0.802, 0.776, 0.938),
        checkpoint=f"{_TOP_DOWN}/resnest/resnest50_coco_256x192-6e65eece_20210320.pth",
    ),
    ZooEntry(
        spec=msra_spec("pose_resnest_50_384x288", _LARGE),
        network=pose_resnest(50),
        parameters=35_925_905,
        macs=15_032_666_112,
        published=PoseFigures(0.737, 0.9, 0.811, 0.789, 0.938),
        checkpoint=f"{_TOP_DOWN}/resnest/resnest50_coco_384x288-dcd20436_20210320.pth",
    ),
    ZooEntry(
        spec=msra_spec("pose_resnest_101_256x192", _SMALL),
        network=pose_resnest(101),
        parameters=56_613_137,
        macs=10_320_365_568,
        published=PoseFigures(0.725, 0.899, 0.807, 0.781, 0.939),
        checkpoint=f"{_TOP_DOWN}/resnest/resnest101_coco_256x192-2ffcdc9d_20210320.pth",
    ),
    ZooEntry(
        spec=msra_spec("pose_resnest_101_384x288", _LARGE),
        network=pose_resnest(101),
        parameters=56_613_137,
        macs=23_216_375_808,
        published=PoseFigures(0.746, 0.906, 0.82, 0.798, 0.943),
        checkpoint=f"{_TOP_DOWN}/resnest/resnest101_coco_384x288-80660658_20210320.pth",
    ),
    ZooEntry(
        spec=msra_spec("pose_resnest_200_256x192", _SMALL),
        network=pose_resnest(200),
        parameters=78_539_665,
        macs=17_381_148_672,
        published=PoseFigures(0.731, 0.905, 0.812, 0.787, 0.943),
        checkpoint=f"{_TOP_DOWN}/resnest/resnest200_coco_256x192-db007a48_20210517.pth",
    ),
    ZooEntry(
        spec=msra_spec("pose_resnest_200_384x288", _LARGE),
        network=pose_resnest(200),
        parameters=78_539_665,
        macs=39_100_925_952,
        published=PoseFigures(0.753, 0.907, 0.827, 0.805, 0.943),
        checkpoint=f"{_TOP_DOWN}/resnest/resnest200_coco_384x288-b5bb76cb_20210517.pth",
    ),
    ZooEntry(
        spec=msra_spec("pose_resnest_269_256x192", _SMALL),
        network=pose_resnest(269),
        parameters=119_267_601,
        macs=22_304_360_448,
        published=PoseFigures(0.737, 0.907, 0.819, 0.792, 0.943),
        checkpoint=f"{_TOP_DOWN}/resnest/resnest269_coco_256x192-2a7882ac_20210517.pth",
    ),
    ZooEntry(
        spec=msra_spec("pose_resnest_269_384x288", _LARGE),
        network=pose_resnest(269),
        parameters=119_267_601,
        macs=50_174_035_968,
        published=PoseFigures(0.754, 0.908, 0.828, 0.805, 0.943),
        checkpoint=f"{_TOP_DOWN}/resnest/resnest269_coco_384x288-b142b9fb_20210517.pth",
    ),
    ZooEntry(
        spec=megvii_spec("rsn_18_256x192"),
        network=rsn((2, 2, 2, 2), stages=1),
        parameters=9_144_936,
        macs=2_245_441_536,
        published=PoseFigures(0.704, 0.887, 0.779, 0.771, 0.926),
        checkpoint=f"{_TOP_DOWN}/rsn/rsn18_coco_256x192-72f4b4a7_20201127.pth",
        checkpoint_v1=f"{_TOP_DOWN_V1}/td-hm_rsn18_8xb32-210e_coco-256x192-9049ed09_20221013.pth",
        published_ap_v1=0.704,
    ),
    ZooEntry(
        spec=megvii_spec("rsn_50_256x192"),
        network=rsn((3, 4, 6, 3), stages=1),
        parameters=19_328_584,
        macs=4_067_801_088,
        published=PoseFigures(0.723, 0.896, 0.8, 0.788, 0.934),
        checkpoint=f"{_TOP_DOWN}/rsn/rsn50_coco_256x192-72ffe709_20201127.pth",
        checkpoint_v1=f"{_TOP_DOWN_V1}/td-hm_rsn50_8xb32-210e_coco-256x192-c35901d5_20221013.pth",
        published_ap_v1=0.724,
    ),
    ZooEntry(
        spec=megvii_spec("2xrsn_50_256x192"),
        network=rsn((3, 4, 6, 3), stages=2),
        parameters=39_261_904,
        macs=8_215_031_808,
        published=PoseFigures(0.745, 0.899, 0.818, 0.809, 0.939),
        checkpoint=f"{_TOP_DOWN}/rsn/2xrsn50_coco_256x192-50648f0e_20201127.pth",
        checkpoint_v1=f"{_TOP_DOWN_V1}/td-hm_2xrsn50_8xb32-210e_coco-256x192-9ede341e_20221013.pth",
        published_ap_v1=0.748,
    ),
    ZooEntry(
        spec=megvii_spec("3xrsn_50_256x192"),
        network=rsn((3, 4, 6, 3), stages=3),
        parameters=59_195_224,
        macs=12_362_262_528,
        published=PoseFigures(0.75, 0.9, 0.823, 0.813, 0.94),
        checkpoint=f"{_TOP_DOWN}/rsn/3xrsn50_coco_256x192-58f57a68_20201127.pth",
        checkpoint_v1=f"{_TOP_DOWN_V1}/td-hm_3xrsn50_8xb32-210e_coco-256x192-c3e3c4fe_20221013.pth",
        published_ap_v1=0.75,
    ),
)

_CLASSIFIERS = (
    ZooEntry(
        spec=classifier_spec("resnext50-32x4d"),
        network=classifier_resnext(50, base_width=4),
        parameters=25_028_904,
        macs=4_230_479_872,
        published=ClassificationFigures(0.779, 0.9366),
        checkpoint=f"{_CLASSIFICATION}/resnext50_32x4d_b32x8_imagenet_20210429-56066e27.pth",
    ),
    ZooEntry(
        spec=classifier_spec("resnext101-32x4d"),
        network=classifier_resnext(101, base_width=4),
        parameters=44_177_704,
        macs=7_969_996_800,
        published=ClassificationFigures(0.7861, 0.9417),
        checkpoint=f"{_CLASSIFICATION}/resnext101_32x4d_b32x8_imagenet_20210506-e0fa3dd5.pth",
    ),
    ZooEntry(
        spec=classifier_spec("resnext101-32x8d"),
        network=classifier_resnext(101, base_width=8),
        parameters=88_791_336,
        macs=16_414_015_488,
        published=ClassificationFigures(0.7927, 0.9458),
        checkpoint=f"{_CLASSIFICATION}/resnext101_32x8d_b32x8_imagenet_20210506-23a247d5.pth",
    ),
    ZooEntry(
        spec=classifier_spec("resnext152-32x4d"),
        network=classifier_resnext(152, base_width=4),
        parameters=59_951_400,
        macs=11_709_513_728,
        published=ClassificationFigures(0.7888, 0.9433),
        checkpoint=f"{_CLASSIFICATION}/resnext152_32x4d_b32x8_imagenet_20210524-927787be.pth",
    ),
)

ZOO = {entry.name: entry for entry in (*_POSE, *_CLASSIFIERS)}


def find_entry(name: str) -> ZooEntry:
    """The entry called ``name``. Raises GraphError with the nearest names for one that is not there."""
    try:
        return ZOO[name]
    except KeyError:
        near = _nearest(name)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the zoo has: {', '.join(ZOO)}"
        raise GraphError(f"no model of the zoo is called {name!r}; {hint}") from None


def _nearest(name: str) -> list[str]:
    """Names that are about as close to ``name`` as the closest one."""
    found = difflib.get_close_matches(name, ZOO, 3, 0.4)
    closeness = [difflib.SequenceMatcher(None, candidate, name).ratio() for candidate in found]
    return [
        candidate for candidate, ratio in zip(found, closeness, strict=True) if ratio > closeness[0] - 0.1
    ]


def build_model(name: str) -> "nn.Module":
    """The network called ``name`` in eval mode with random weights.

    Its ``forward`` takes (N, 3, H, W) float32 and returns the deployed output only. Raises GraphError for
    an unknown name, MissingExtraError without torch.
    """
    entry = find_entry(name)
    require("torch", "export")
    return entry.network().eval()
