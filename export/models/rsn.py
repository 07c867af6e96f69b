"""Residual Steps Network (Cai et al., ECCV 2020), without the pose refine machine.

One or more stages, each an encoder of four layers and a decoder of four units; every unit predicts
heatmaps, and the deployed output is the last unit's of the last stage. Module names follow the official
checkpoints, whose layout is fixed: ``backbone.multi_stage_rsn.STAGE.downsample.layerN`` and so on.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import ConvBN

_STEPS = 4  # branches of a residual steps block
_UNITS = 4  # resolutions of a stage
_TOP_CHANNELS = 64
_UNIT_CHANNELS = 256


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)


class ResidualStepsBlock(nn.Module):
    """Four branches, the i-th with i 3x3 convolutions, each fed by its twin in the branch before."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.width = in_channels * 26 // 64
        # first, because the order of the official state dict is the order of creation
        if stride != 1 or in_channels != out_channels:
            self.downsample: nn.Module = ConvBN(in_channels, out_channels, 1, stride, relu=False)
        else:
            self.downsample = nn.Identity()
        self.conv_bn_relu1 = ConvBN(in_channels, _STEPS * self.width, 1, stride)
        for branch in range(_STEPS):
            for step in range(branch + 1):
                self.add_module(self._name(branch, step), ConvBN(self.width, self.width, 3))
        self.conv_bn3 = ConvBN(_STEPS * self.width, out_channels, 1, relu=False)
        self.relu = nn.ReLU()

    @staticmethod
    def _name(branch: int, step: int) -> str:
        return f"conv_bn_relu2_{branch + 1}_{step + 1}"

    def forward(self, x: Tensor) -> Tensor:
        before: list[Tensor] = []  # outputs of the previous branch, one a step
        last_steps = []
        for branch, value in enumerate(self.conv_bn_relu1(x).split(self.width, 1)):
            outputs: list[Tensor] = []
            for step in range(branch + 1):
                if step < branch:
                    value = value + before[step]
                value = self.get_submodule(self._name(branch, step))(value)
                outputs.append(value)
            last_steps.append(value)
            before = outputs
        merged = self.conv_bn3(torch.cat(last_steps, 1))
        activated: Tensor = self.relu(merged + self.downsample(x))
        return activated


class Encoder(nn.Module):
    """Four layers of blocks, each half the resolution and twice the channels of the one before.

    ``has_skip``: the encoder's and the decoder's features of the stage before are added to each layer's.
    """

    def __init__(self, blocks: tuple[int, ...], has_skip: bool) -> None:
        super().__init__()
        self.has_skip = has_skip
        channels = _TOP_CHANNELS
        for index, count in enumerate(blocks):
            width = _TOP_CHANNELS * 2**index
            stride = 1 if index == 0 else 2
            layer = [ResidualStepsBlock(channels, width, stride)]
            layer += [ResidualStepsBlock(width, width) for _ in range(count - 1)]
            self.add_module(f"layer{index + 1}", nn.Sequential(*layer))
            channels = width

    def forward(self, x: Tensor, skips: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Features from the highest resolution to the lowest; ``skips`` in the same order, or empty."""
        features = []
        for index in range(_UNITS):
            x = self.get_submodule(f"layer{index + 1}")(x)
            if self.has_skip:
                from_encoder, from_decoder = skips[index]
                x = x + from_encoder + from_decoder
            features.append(x)
        return features


class DecoderUnit(nn.Module):
    """One resolution of the decoder: the encoder's feature plus the upsampled unit below."""

    def __init__(self, in_channels: int, index: int, more_stages: bool) -> None:
        super().__init__()
        self.in_skip = ConvBN(in_channels, _UNIT_CHANNELS, 1, relu=False)
        if index > 0:
            self.up_conv = ConvBN(_UNIT_CHANNELS, _UNIT_CHANNELS, 1, relu=False)
        if more_stages:
            self.out_skip1 = ConvBN(in_channels, in_channels, 1)
            self.out_skip2 = ConvBN(_UNIT_CHANNELS, in_channels, 1)
        if more_stages and index == _UNITS - 1:
            self.cross_conv = ConvBN(_UNIT_CHANNELS, _TOP_CHANNELS, 1)
        self.relu = nn.ReLU()

    def forward(self, feature: Tensor, below: Tensor | None) -> Tensor:
        out: Tensor = self.in_skip(feature)
        if below is not None:
            height, width = feature.shape[2], feature.shape[3]
            out = out + self.up_conv(_resize(below, (height, width)))
        activated: Tensor = self.relu(out)
        return activated


class Decoder(nn.Module):
    """Four units from the lowest resolution to the highest."""

    def __init__(self, more_stages: bool) -> None:
        super().__init__()
        self.more_stages = more_stages
        for index in range(_UNITS):
            channels = _TOP_CHANNELS * 2 ** (_UNITS - 1 - index)
            self.add_module(f"up{index + 1}", DecoderUnit(channels, index, more_stages))

    def forward(
        self, features: list[Tensor]
    ) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]], Tensor | None]:
        """Units' outputs from low to high resolution, skips from high to low, and the next stage's input."""
        outputs: list[Tensor] = []
        skips: list[tuple[Tensor, Tensor]] = []
        out: Tensor | None = None
        for index, feature in enumerate(reversed(features)):
            unit = self.get_submodule(f"up{index + 1}")
            out = unit(feature, out)
            assert out is not None
            outputs.append(out)
            if self.more_stages:
                skips.insert(
                    0, (unit.get_submodule("out_skip1")(feature), unit.get_submodule("out_skip2")(out))
                )
        crossed = self.get_submodule(f"up{_UNITS}.cross_conv")(out) if self.more_stages else None
        return outputs, skips, crossed


class Stage(nn.Module):
    """An encoder and a decoder."""

    def __init__(self, blocks: tuple[int, ...], has_skip: bool, more_stages: bool) -> None:
        super().__init__()
        self.downsample = Encoder(blocks, has_skip)
        self.upsample = Decoder(more_stages)


class _Top(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Sequential(ConvBN(3, _TOP_CHANNELS, 7, 2), nn.MaxPool2d(3, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.top(x)
        return features


class _Backbone(nn.Module):
    def __init__(self, blocks: tuple[int, ...], stages: int) -> None:
        super().__init__()
        self.top = _Top()
        self.multi_stage_rsn = nn.ModuleList(
            Stage(blocks, has_skip=index > 0, more_stages=index < stages - 1) for index in range(stages)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Every unit's features, stage by stage, low resolution first."""
        x = self.top(x)
        skips: list[tuple[Tensor, Tensor]] = []
        units: list[Tensor] = []
        for stage in self.multi_stage_rsn:
            features = stage.get_submodule("downsample")(x, skips)
            outputs, skips, crossed = stage.get_submodule("upsample")(features)
            units += outputs
            x = crossed if crossed is not None else x
        return units


class _Predictor(nn.Module):
    def __init__(self, joints: int) -> None:
        super().__init__()
        self.conv_layers = nn.Sequential(
            ConvBN(_UNIT_CHANNELS, _UNIT_CHANNELS, 1), ConvBN(_UNIT_CHANNELS, joints, 3, relu=False)
        )

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return _resize(self.conv_layers(x), size)


class _Head(nn.Module):
    def __init__(self, joints: int, predictors: int) -> None:
        super().__init__()
        self.predict_layers = nn.ModuleList(_Predictor(joints) for _ in range(predictors))


class RSN(nn.Module):
    """RSN with ``stages`` stages of ``blocks`` blocks a layer.

    ``forward(x)``: x (N, 3, H, W) float32 -> (N, joints, H/4, W/4) float32, the last unit's heatmaps on
    Megvii's 0 to 255 scale. ``forward_all(x)`` gives the heatmaps of all 4 x stages units, which training
    needs, stage by stage, low resolution first, each resized to H/4 x W/4.
    """

    def __init__(self, blocks: tuple[int, ...], stages: int = 1, joints: int = 17) -> None:
        super().__init__()
        self.backbone = _Backbone(blocks, stages)
        self.head = _Head(joints, _UNITS * stages)

    def forward_all(self, x: Tensor) -> list[Tensor]:
        """Heatmaps of every unit, each (N, joints, H/4, W/4)."""
        size = (x.shape[2] // 4, x.shape[3] // 4)
        return [
            predictor(unit, size)
            for predictor, unit in zip(self.head.predict_layers, self.backbone(x), strict=True)
        ]

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2] // 4, x.shape[3] // 4)
        heatmaps: Tensor = self.head.predict_layers[-1](self.backbone(x)[-1], size)
        return heatmaps
