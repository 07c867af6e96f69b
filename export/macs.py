"""What a network costs before anything is measured: parameters and multiply-accumulates."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True)
class Cost:
    """Size of a network and its work for one input.

    parameters: elements of all parameters; running statistics are none.
    macs: multiply-accumulates of convolutions, transposed convolutions and linear layers, with every output
        that training reads; biases, norms, activations, pooling and resizing are not counted.
    deployed_macs: the same for the deployed output only. Less than ``macs`` in RSN.
    """

    parameters: int
    macs: int
    deployed_macs: int


def count_cost(model: nn.Module, input_wh: tuple[int, int]) -> Cost:
    """Count ``model`` for one input of width and height ``input_wh``.

    A model under ``torch.device("meta")`` is counted without weights or arithmetic. A model whose training
    reads more than ``forward`` gives has it in ``forward_all``, as RSN has.
    """
    device = next(model.parameters()).device
    width, height = input_wh
    image = torch.zeros(1, 3, height, width, device=device)
    deployed_macs = _macs(model, model, image)
    everything = getattr(model, "forward_all", None)
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=deployed_macs if everything is None else _macs(model, everything, image),
        deployed_macs=deployed_macs,
    )


def _macs(model: nn.Module, run: Callable[[Tensor], Any], image: Tensor) -> int:
    counted: list[int] = []
    with _hooks(model, counted), torch.no_grad():
        run(image)
    return sum(counted)


@contextmanager
def _hooks(model: nn.Module, counted: list[int]) -> Iterator[None]:
    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module.weight, Tensor)
        # a filter is used once at each place: of the input in a transposed convolution, else of the output
        places = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
        counted.append(places.numel() * module.weight[0].numel())

    handles = [
        module.register_forward_hook(count) for module in model.modules() if isinstance(module, _WEIGHTED)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
