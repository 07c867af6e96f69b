"""The stubs that mypy reads say nothing that no version of the library has."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
STUB = ROOT / "stubs" / "tensorrt" / "__init__.pyi"


def stated() -> dict[str, set[str]]:
    """Public names of each public class in the stub."""
    found = {}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            names = {each.target.id for each in node.body if isinstance(each, ast.AnnAssign)}
            names |= {each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.ClassDef)}
            found[node.name] = {name for name in names if not name.startswith("_")}
    return found


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, set[str]]]:
    """Names of each class by version, from the stand-ins."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "standins" / "tensorrt")
    import versions

    monkeypatch.delitem(sys.modules, "versions")
    return {
        version: {kind: set(names.split()) for kind, names in classes.items()}
        for version, classes in versions.VERSIONS.items()
    }


def test_each_name_is_in_a_version_or_in_rtx(versions) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    for kind, names in stated().items():
        anywhere = set(dir(getattr(rtx, kind))).union(*(each.get(kind, set()) for each in versions.values()))
        assert names <= anywhere, kind


def test_a_name_that_the_newest_version_lacks_is_behind_the_table(versions) -> None:
    """What went with 11, or came after 8.6, is what the table of releases is about."""
    went = {name for kind, names in stated().items() for name in names - versions["11.4"].get(kind, names)}
    came = {name for kind, names in stated().items() for name in names - versions["8.6"].get(kind, names)}
    rtx_only = {"num_compute_capabilities", "set_compute_capability"}
    assert went == {"EXPLICIT_BATCH", "FP16", "INT8"} | rtx_only
    assert came == {"STRONGLY_TYPED", "progress_monitor", "node_name", "node_operator"} | rtx_only
