"""Random weights that behave like trained ones: activations neither die out nor grow from block to block."""

import torch
from torch import nn

# The last norm of a residual block is small, so that a hundred blocks add up to what a few would; cross-stage
# skips and the inner steps of RSN's blocks, which are sums too, are damped less.
_GAINS = (
    ((".bn3", ".conv_bn3.bn"), 0.1),
    ((".out_skip1.bn", ".out_skip2.bn"), 0.4),
)
_RSN_STEP = ".conv_bn_relu2_"
_RSN_STEP_GAIN = 0.7
_GAIN = 1.3


def set_random_weights(model: nn.Module, seed: int = 0) -> None:
    """Fill ``model`` in place; the same seed gives the same weights.

    Convolutions are drawn as He et al. (ICCV 2015) have it, norms get the running statistics that training
    leaves behind, so that folding them wrongly shows.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            _set_norm(module, _gain(name), generator)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            _set_weight(module, generator)


def _gain(name: str) -> float:
    for endings, gain in _GAINS:
        if name.endswith(endings):
            return gain
    return _RSN_STEP_GAIN if _RSN_STEP in name else _GAIN


@torch.no_grad()
def _set_norm(norm: nn.BatchNorm2d, gain: float, generator: torch.Generator) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.normal_(0, 0.1, generator=generator)
    norm.running_var.uniform_(0.5, 1.5, generator=generator)
    norm.weight.uniform_(0.5 * gain, gain, generator=generator)
    norm.bias.normal_(0, 0.1, generator=generator)


@torch.no_grad()
def _set_weight(module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, generator: torch.Generator) -> None:
    inputs = module.weight[0].numel()
    if isinstance(module, nn.ConvTranspose2d):  # each output is reached by the filters of a stride's share
        inputs = module.weight.numel() // module.weight.shape[1] // (module.stride[0] * module.stride[1])
    module.weight.normal_(0, (2 / inputs) ** 0.5, generator=generator)
    if module.bias is not None:
        module.bias.normal_(0, 0.1, generator=generator)
