"""constraints.txt pins everything that `make` installs, so that a fresh environment is the tested one."""

from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def pinned() -> set[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    return {canonicalize_name(pin.name) for pin in pins}


def installed_closure(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> set[str]:
    """The installed distributions that ``name`` with ``extras`` needs, itself left out."""
    if (name, extras) in seen:
        return set()
    seen.add((name, extras))
    try:
        lines = requires(name) or []
    except PackageNotFoundError:
        return set()
    found: set[str] = set()
    for needed in map(Requirement, lines):
        if needed.marker and not any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        other = canonicalize_name(needed.name)
        below = installed_closure(other, frozenset(needed.extras), seen)
        found |= below
        try:
            requires(other)
        except PackageNotFoundError:
            continue
        found.add(other)
    return found


def test_every_package_that_is_needed_is_pinned() -> None:
    try:
        requires("posedge")
    except PackageNotFoundError:
        pytest.skip("posedge is not installed; `make test` installs it")
    needed = installed_closure("posedge", frozenset({"all", "test"}), set()) - {"posedge"}
    assert {"numpy", "torch", "onnx", "pytest"} <= needed
    unpinned = {name for name in needed - pinned() if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert not unpinned, "torch pins its CUDA packages itself; everything else belongs into constraints.txt"
