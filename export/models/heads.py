"""Backbone and head put together: heatmaps of joints, or logits of classes.

Module names are those of the official checkpoints: mmpose's HeatmapHead, mmpretrain's LinearClsHead.
"""

from torch import Tensor, nn

from .layers import ResidualLayers

_DECONV_CHANNELS = 256


class HeatmapHead(nn.Module):
    """Three transposed convolutions, each twice the resolution, and a 1x1 to the joints' maps.

    After Simple Baselines (Xiao et al., ECCV 2018).
    """

    def __init__(self, in_channels: int, joints: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (in_channels, _DECONV_CHANNELS, _DECONV_CHANNELS):
            layers += [
                nn.ConvTranspose2d(channels, _DECONV_CHANNELS, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(_DECONV_CHANNELS),
                nn.ReLU(),
            ]
        self.deconv_layers = nn.Sequential(*layers)
        self.final_layer = nn.Conv2d(_DECONV_CHANNELS, joints, 1)

    def forward(self, x: Tensor) -> Tensor:
        heatmaps: Tensor = self.final_layer(self.deconv_layers(x))
        return heatmaps


class HeatmapNetwork(nn.Module):
    """``forward(x)``: x (N, 3, H, W) float32 -> heatmaps (N, joints, H/4, W/4) float32."""

    def __init__(self, backbone: ResidualLayers, joints: int = 17) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = HeatmapHead(backbone.OUT_CHANNELS, joints)

    def forward(self, x: Tensor) -> Tensor:
        heatmaps: Tensor = self.head(self.backbone(x))
        return heatmaps


class LinearHead(nn.Module):
    """The mean over the map and a linear layer."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class ClassificationNetwork(nn.Module):
    """``forward(x)``: x (N, 3, H, W) float32 -> logits (N, classes) float32."""

    def __init__(self, backbone: ResidualLayers, classes: int = 1000) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = LinearHead(backbone.OUT_CHANNELS, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(x))
        return logits
