"""ResNeSt (Zhang et al., 2020): a ResNet whose 3x3 convolutions are split in two and weighed by attention.

The variant that mmpose deploys: radix 2, one group, a stem of three 3x3 convolutions with 32, 32 and 64
channels at every depth, average pooling in place of strided convolutions.
"""

from torch import Tensor, nn

from .layers import ConvBN, ResidualLayers

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 200: (3, 24, 36, 3), 269: (3, 30, 48, 8)}
_RADIX = 2


class SplitAttention(nn.Module):
    """A 3x3 convolution with two outputs, and for each channel how much of either is taken.

    The two shares of a channel are the softmax over its two attention logits. For two logits that is a
    sigmoid of their difference, so nothing is reshaped to (batch, groups, radix, channels), and the
    exported graph works on no shapes at run time.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        attention = max(channels * _RADIX // 4, 32)
        self.conv = nn.Conv2d(channels, channels * _RADIX, 3, padding=1, groups=_RADIX, bias=False)
        self.bn0 = nn.BatchNorm2d(channels * _RADIX)
        self.fc1 = nn.Conv2d(channels, attention, 1)
        self.bn1 = nn.BatchNorm2d(attention)
        self.fc2 = nn.Conv2d(attention, channels * _RADIX, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.bn0(self.conv(x)).relu().split(self.channels, 1)
        pooled = (first + second).mean((2, 3), keepdim=True)
        logits = self.fc2(self.bn1(self.fc1(pooled)).relu())
        first_logit, second_logit = logits.split(self.channels, 1)
        share = (first_logit - second_logit).sigmoid()
        mixed: Tensor = first * share + second * (1 - share)
        return mixed


class Bottleneck(nn.Module):
    """1x1, split attention, 1x1, and a shortcut, which is convolved where the shape changes.

    At stride 2 the resolution is halved by average pooling behind the attention and in the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        width = out_channels // 4
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = SplitAttention(width)
        self.pool = nn.AvgPool2d(3, stride, padding=1) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            layers = [
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            ]
            if stride != 1:  # its place in the list is in the keys of the checkpoints
                layers.insert(0, nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False))
            self.downsample = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.bn1(self.conv1(x)).relu())
        out = self.bn3(self.conv3(self.pool(out))) + self.downsample(x)
        return out.relu()


class ResNeSt(ResidualLayers):
    """The backbone with 50, 101, 200 or 269 layers: (N, 3, H, W) -> (N, 2048, H/32, W/32)."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBN(3, 32, 3, stride=2), ConvBN(32, 32, 3), ConvBN(32, 64, 3))
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.add_layers(_BLOCKS[depth], Bottleneck)

    def forward(self, x: Tensor) -> Tensor:
        return self.run_layers(self.maxpool(self.stem(x)))
