"""ResNeXt (Xie et al., CVPR 2017): a ResNet whose 3x3 convolutions are in 32 groups.

The layout is that of mmpose's and mmpretrain's checkpoints, which is the same: ``conv1``, ``bn1``,
``layer1.0.conv1`` and so on; a block's stride is at its 3x3 convolution.
"""

from functools import partial

from torch import Tensor, nn

from .layers import ResidualLayers

_GROUPS = 32
_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Bottleneck(nn.Module):
    """1x1, grouped 3x3, 1x1, and a shortcut, which is convolved where the shape changes.

    base_width: channels of a group in ``layer1``, the "4d" in 32x4d; each later layer has twice as many.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, base_width: int) -> None:
        super().__init__()
        width = out_channels // 256 * _GROUPS * base_width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=_GROUPS, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out)).relu()
        out = self.bn3(self.conv3(out)) + self.downsample(x)
        return out.relu()


class ResNeXt(ResidualLayers):
    """The backbone with 50, 101 or 152 layers: (N, 3, H, W) -> (N, 2048, H/32, W/32)."""

    def __init__(self, depth: int, base_width: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, self.IN_CHANNELS, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(self.IN_CHANNELS)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.add_layers(_BLOCKS[depth], partial(Bottleneck, base_width=base_width))

    def forward(self, x: Tensor) -> Tensor:
        return self.run_layers(self.maxpool(self.bn1(self.conv1(x)).relu()))
