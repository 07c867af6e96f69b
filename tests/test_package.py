"""The layout: the package list is complete, floors hold, the public face is light."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import posedge
import posedge.benchmarks
import posedge.engines
import posedge.export

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader in its library")

ROOT = Path(__file__).resolve().parent.parent
FLOORS = (
    (
        "__init__",
        "arguments",
        "errors",
        "extras",
        "files",
        "interrupts",
        "lazy",
        "memory",
        "progress",
        "stages",
    ),
    ("runtime",),
    ("export",),
    ("calibration",),
    ("engines",),
    ("benchmarks",),
    ("doctor_facts", "doctor_gpu", "engine_record", "inspect_command", "options", "picture"),
    ("doctor", "preflight", "rebuild", "search_job", "self_test_job"),
    ("variant_graphs",),
    ("build_options", "calibrate_job", "deploy", "export_command", "recipe_options"),
    ("build_command", "calibrate_command", "deploy_command", "doctor_command", "verify_command"),
    ("demo",),
    ("cli", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
NOT_THE_PACKAGE = ("tests", "tools", "build", "docs")


PUBLIC_FACE = Path("__init__.py")  # names everything, lazily


def is_program(path: Path) -> bool:
    """Whether a file of benchmarks/ is run by its path, so that it finds the package by name."""
    return path.parts[0] == "benchmarks" and 'if __name__ == "__main__":' in (ROOT / path).read_text()


def package_files() -> list[Path]:
    files = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    return [
        path for path in files if not path.parts[0].startswith(".") and path.parts[0] not in NOT_THE_PACKAGE
    ]


def test_packages_in_pyproject_are_the_folders() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {path.parent for path in package_files() if path.name == "__init__.py"}
    named = {".".join(("posedge", *folder.parts)) for folder in folders}
    assert set(project["tool"]["setuptools"]["packages"]) == named


def relative_imports(path: Path) -> list[str]:
    """First component below posedge of every relative import of a file, wherever in the file it stands."""
    found = []
    package = path.parent.parts
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        base = package[: len(package) - (node.level - 1)]
        parts = [*base, *(node.module or "").split(".")]
        parts = [part for part in parts if part]
        found += [parts[0]] if parts else [alias.name for alias in node.names]
    return found


@pytest.mark.parametrize("path", sorted(set(package_files()) - {PUBLIC_FACE}), ids=str)
def test_a_folder_imports_only_from_floors_below_it(path: Path) -> None:
    own = path.parts[0].removesuffix(".py")
    for target in relative_imports(path):
        # names of the package itself (__version__, public names) are on the ground floor
        level = LEVEL.get(target, 0)
        assert level < LEVEL[own] or target == own or level == LEVEL[own] == 0, f"{path} imports {target}"


@pytest.mark.parametrize("path", [path for path in package_files() if not is_program(path)], ids=str)
def test_nothing_in_the_package_imports_it_by_its_own_name(path: Path) -> None:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
        assert not [name for name in names if name.split(".")[0] == "posedge"], path


def test_public_names() -> None:
    assert sorted(posedge.__all__) == sorted(
        ["Classifier", "PoseEstimator", "ModelSpec", "PosedgeError", "__version__"]
    )
    for name in posedge.__all__:
        assert getattr(posedge, name) is not None


def test_import_posedge_is_light() -> None:
    heavy = "torch onnx onnxruntime cv2 matplotlib rich tensorrt tensorrt_rtx PIL"
    program = f"import sys, posedge, posedge.cli; print([m for m in '{heavy}'.split() if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("package", [posedge, posedge.export, posedge.benchmarks, posedge.engines])
def test_every_public_name_is_there(package: ModuleType) -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        _ = package.absent
