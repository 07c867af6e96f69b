"""A small residual network, exported as zoo models are."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from posedge.runtime.spec import ModelSpec

SPEC = ModelSpec(name="residual", input_wh=(48, 64), heatmap_wh=(24, 32), num_joints=5, flip_pairs=())


@pytest.fixture(scope="session")
def residual_crops() -> list[NDArray[np.float32]]:
    """Four batches of four random crops for ``residual_net``."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=(4, 3, 64, 48)).astype(np.float32) for _ in range(4)]


@pytest.fixture(scope="session")
def residual_net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stem, three residual blocks (the second with a downsampling shortcut), ConvTranspose, head."""
    torch = pytest.importorskip("torch")
    from posedge.export.onnx_export import export_onnx

    class Block(torch.nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            stride = 1 if inputs == outputs else 2
            self.conv1 = torch.nn.Conv2d(inputs, outputs, 3, stride, 1)
            self.conv2 = torch.nn.Conv2d(outputs, outputs, 3, 1, 1)
            self.down = torch.nn.Identity() if stride == 1 else torch.nn.Conv2d(inputs, outputs, 1, stride)

        def forward(self, x):
            branch = self.conv2(torch.relu(self.conv1(x)))
            return torch.relu(branch + self.down(x))

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, 2, 1),
        torch.nn.ReLU(),
        Block(16, 16),
        Block(16, 32),
        Block(32, 32),
        torch.nn.ConvTranspose2d(32, 16, 4, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 5, 1),
    )
    path = tmp_path_factory.mktemp("residual") / "residual.onnx"
    export_onnx(network.eval(), SPEC, path)
    return path
