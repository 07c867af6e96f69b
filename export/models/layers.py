"""Blocks that several families share."""

from torch import Tensor, nn


class ConvBN(nn.Module):
    """Convolution without bias, batch norm and, where ``relu``, a ReLU.

    Its state dict has the keys ``conv.weight`` and ``bn.*``, as mmcv's ConvModule writes them. Padding
    keeps the size at stride 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.act(self.bn(self.conv(x)))
        return activated
