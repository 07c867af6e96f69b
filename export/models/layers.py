"""Blocks that several families share."""

from collections.abc import Callable

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


class ResidualLayers(nn.Module):
    """The body that a ResNet's descendants share: ``layer1`` to ``layer4`` with an input of 64 channels.

    Their outputs have 256, 512, 1024 and 2048 channels; every layer but the first halves the resolution.
    ``block(in_channels, out_channels, stride)`` makes a block. A subclass adds the stem and calls
    ``run_layers`` behind it.
    """

    IN_CHANNELS = 64
    OUT_CHANNELS = 2048

    def add_layers(self, blocks: tuple[int, ...], block: Callable[[int, int, int], nn.Module]) -> None:
        """Add ``layer1`` and so on, with as many blocks as ``blocks`` says; called after the stem is made,
        because the order of a state dict is the order of creation."""
        channels = self.IN_CHANNELS
        for index, count in enumerate(blocks):
            width = 256 * 2**index
            layer = [block(channels, width, 1 if index == 0 else 2)]
            layer += [block(width, width, 1) for _ in range(count - 1)]
            self.add_module(f"layer{index + 1}", nn.Sequential(*layer))
            channels = width

    def run_layers(self, x: Tensor) -> Tensor:
        """(N, 64, h, w) to (N, 2048, h/8, w/8)."""
        for index in range(4):
            x = self.get_submodule(f"layer{index + 1}")(x)
        return x
