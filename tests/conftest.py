"""Where tests find real data: ``../shared`` beside the repository, or $POSEDGE_SHARED."""

import os
from pathlib import Path

import pytest
from posedge.runtime.spec import ModelSpec

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared reference data; absent, it fails the test under CI and skips it elsewhere."""
    path = Path(os.environ.get("POSEDGE_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        reason = f"the shared reference data is not at {path} (set POSEDGE_SHARED to where it is)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def reference(shared: Path) -> Path:
    """Fixtures, manifests and facts of the original implementations."""
    return shared / "reference"


@pytest.fixture(scope="session")
def coco(shared: Path) -> Path:
    """Real images with keypoints: val.json, train.json, val_detections.json, images/."""
    return shared / "coco"


@pytest.fixture(scope="session")
def tinypose(shared: Path) -> Path:
    """A real trained model of 1.3 M parameters as an ONNX file."""
    return shared / "weights" / "pp_tinypose_256x192.onnx"


@pytest.fixture(scope="session")
def tinypose_spec() -> ModelSpec:
    """How PP-TinyPose is fed and read; the ONNX file itself does not say it."""
    return ModelSpec(name="pp_tinypose_256x192")
