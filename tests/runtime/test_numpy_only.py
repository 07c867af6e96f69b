"""The base install: every module of runtime imports, and the fallbacks work, with numpy and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import posedge

HEAVY = (
    *("torch", "onnx", "onnxruntime", "cv2", "PIL", "matplotlib", "rich", "tensorrt", "tensorrt_rtx"),
    *("pycocotools", "faster_coco_eval", "scipy", "pandas"),
)


@pytest.fixture(scope="module")
def bare_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds numpy and posedge only."""
    site = tmp_path_factory.mktemp("site")
    packages = Path(np.__file__).parent.parent
    for name in ("numpy", "numpy.libs"):
        if (packages / name).exists():  # numpy.libs only where the wheel brings its own BLAS
            (site / name).symlink_to(packages / name)
    (site / "posedge").symlink_to(Path(posedge.__file__).parent)
    return site


def run_bare(site: Path, code: str, *arguments: str) -> str:
    """Run ``code`` with the standard library and ``site`` alone; return what it prints."""
    # -I ignores the environment and the user's packages, -S all installed ones
    program = f"import sys\nsys.path.append({str(site)!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_environment_really_is_bare(bare_site: Path) -> None:
    found = run_bare(
        bare_site,
        f"import importlib.util\nprint([n for n in {HEAVY!r} if importlib.util.find_spec(n)])\n",
    )
    assert found.strip() == "[]"


def test_every_runtime_module_imports(bare_site: Path) -> None:
    names = run_bare(
        bare_site,
        "import importlib, pkgutil\n"
        "import posedge, posedge.runtime\n"
        "for module in pkgutil.walk_packages(posedge.runtime.__path__, 'posedge.runtime.'):\n"
        "    importlib.import_module(module.name)\n"
        "    print(module.name)\n",
    ).split()
    package = Path(posedge.__file__).parent / "runtime"
    files = {path for path in package.rglob("*.py") if path.name != "__init__.py"}
    assert {
        f"posedge.runtime.{'.'.join(f.relative_to(package).with_suffix('').parts)}" for f in files
    } <= set(names)


def test_a_person_is_prepared_decoded_and_drawn(bare_site: Path, tmp_path: Path) -> None:
    """All but the network itself."""
    picture = tmp_path / "drawn.png"
    run_bare(
        bare_site,
        "import numpy as np\n"
        "from posedge.runtime.draw import draw_poses\n"
        "from posedge.runtime.heatmaps import decode, to_image\n"
        "from posedge.runtime.images import write_png\n"
        "from posedge.runtime.preprocess import Preprocessor\n"
        "from posedge.runtime.spec import ModelSpec\n"
        "spec = ModelSpec(name='bare')\n"
        "image = np.full((200, 160, 3), 90, np.uint8)\n"
        "crops = Preprocessor(spec)(image, np.array([[20, 20, 120, 180]], np.float32))\n"
        "assert crops.batch.shape == (1, 3, 256, 192)\n"
        "maps = np.zeros((1, 17, 64, 48), np.float32)\n"
        "maps[0, np.arange(17), 10 + 3 * np.arange(17), 20] = 0.9\n"
        "keypoints, scores = decode(maps, spec)\n"
        "keypoints = to_image(keypoints, crops.centre, crops.scale, spec.heatmap_wh)\n"
        "drawn = draw_poses(image, keypoints, scores)\n"
        "assert (drawn != image).any()\n"
        "write_png(sys.argv[1], drawn)\n",
        str(picture),
    )
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("code", "package"),
    [
        ("from posedge.runtime.images import read_image; read_image(sys.argv[1])", "PIL"),
        (
            "from pathlib import Path\n"
            "    from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession\n"
            "    OnnxRuntimeSession(Path(sys.argv[1]))",
            "onnxruntime",
        ),
    ],
    ids=["reading images", "running a network"],
)
def test_what_needs_more_names_the_extra(bare_site: Path, tmp_path: Path, code: str, package: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"something")
    said = run_bare(
        bare_site,
        "from posedge.errors import MissingExtraError\n"
        f"try:\n    {code}\nexcept MissingExtraError as error:\n    print(error, error.__cause__)\n",
        str(file),
    )
    assert "pip install 'posedge[cpu]'" in said
    assert package in said


@pytest.mark.parametrize("module", ["posedge", "posedge.runtime.pose", "posedge.runtime.bundle"])
def test_importing_pulls_in_nothing_heavy(module: str) -> None:
    """Here everything is installed; still nothing of it may be imported before it is used."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}\nprint([n for n in {HEAVY!r} if n in sys.modules])"],
        env={**os.environ, "PYTHONPATH": str(Path(posedge.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_estimator_imports_nothing_of_cuda_before_an_engine_asks_for_it() -> None:
    program = "import sys, posedge.runtime.pose\nprint([n for n in sys.modules if 'cuda' in n])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(posedge.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
