"""Wide 3x3 convolutions on small maps as one matrix product, for training on a CPU.

There oneDNN's gradient of the weights in bfloat16 takes about 140 ms however small the map: 208 channels on
8 x 6 cells cost ten times what this does, and RSN-18 has ten of them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

_WIDE = 200  # channels in
_SMALL = 200  # cells of the map; on larger ones the copies cost more than they save


def use_products(model: nn.Module) -> None:
    """Make those convolutions of ``model`` products for which it pays. The weights stay as they are."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _suits(module):
            module.forward = _Product(module)  # type: ignore[method-assign]


def _suits(conv: nn.Conv2d) -> bool:
    plain = conv.stride == (1, 1) and conv.dilation == (1, 1) and conv.groups == 1 and conv.bias is None
    return plain and conv.kernel_size == (3, 3) and conv.padding == (1, 1) and conv.in_channels >= _WIDE


class _Product:
    def __init__(self, conv: nn.Conv2d) -> None:
        self._conv = conv

    def __call__(self, x: Tensor) -> Tensor:
        weight = self._conv.weight
        if x.shape[2] * x.shape[3] > _SMALL:
            return functional.conv2d(x, weight, padding=1)
        return convolve_by_product(x, weight)


def convolve_by_product(x: Tensor, weight: Tensor) -> Tensor:
    """3x3 convolution with a border of zeros: x (N, C, H, W), weight (D, C, 3, 3) -> (N, D, H, W)."""
    count, channels, height, width = x.shape
    padded = functional.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    shifted = [
        padded[:, row : row + height, column : column + width] for row in range(3) for column in range(3)
    ]
    columns = torch.cat(shifted, -1).reshape(-1, 9 * channels)
    product = columns @ weight.permute(2, 3, 1, 0).reshape(9 * channels, -1)
    return product.view(count, height, width, -1).permute(0, 3, 1, 2)
