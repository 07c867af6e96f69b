"""Exchanging files of a sealed bundle: at every moment it opens, as the old one or the new."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from posedge import files
from posedge.errors import BundleError
from posedge.runtime.bundle import BUNDLE_FILE, EngineBuild, VariantFiles, open_bundle, seal_bundle
from posedge.runtime.sealing import exchange, finish_exchange, next_name
from posedge.runtime.spec import ModelSpec
from posedge.runtime.target import Target

OLD, NEW = b"old engine", b"a new engine"
BUILD = EngineBuild(Target("tensorrt_rtx", "1.7.1", (80,), portable=True))
REBUILT = EngineBuild(replace(BUILD.target, version="1.8.0"), (1, 1, 1))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "fp32.onnx").write_bytes(b"graph")
    (path / "fp32.engine").write_bytes(OLD)
    (path / "receipt.json").write_bytes(b"{}")
    variants = {"fp32": VariantFiles("fp32.onnx", "fp32.engine", BUILD), "fp16": VariantFiles("fp32.onnx")}
    seal_bundle(path, ModelSpec(name="tiny"), variants, "fp32", {"receipt.json": "receipt"})
    return path


def rebuild(directory: Path) -> None:
    (directory / next_name("fp32.engine")).write_bytes(NEW)
    (directory / next_name("receipt.json")).write_bytes(b'{"a": 1}')
    variants = {"fp32": VariantFiles("fp32.onnx", "fp32.engine", REBUILT)}
    roles = {"fp32.engine": "engine", "receipt.json": "receipt"}
    exchange(directory, open_bundle(directory).index, roles, variants, {"tensorrt_rtx": "1.8.0"})


def test_the_new_files_take_the_old_names_and_nothing_else_changes(directory: Path) -> None:
    before = open_bundle(directory)
    rebuild(directory)
    after = open_bundle(directory)
    assert after.variants == {**before.variants, "fp32": VariantFiles("fp32.onnx", "fp32.engine", REBUILT)}
    assert after.read("fp32.engine") == NEW
    assert after.read("receipt.json") == b'{"a": 1}'
    assert after.files["fp32.onnx"] == before.files["fp32.onnx"]
    assert (after.spec, after.default_variant) == (before.spec, before.default_variant)
    assert after.versions == {"tensorrt_rtx": "1.8.0"}
    assert sorted(path.name for path in directory.iterdir()) == sorted([*after.files, BUNDLE_FILE])


def test_a_variant_gets_its_first_engine(directory: Path) -> None:
    (directory / next_name("fp16.engine")).write_bytes(NEW)
    variants = {"fp16": VariantFiles("fp32.onnx", "fp16.engine", REBUILT)}
    exchange(directory, open_bundle(directory).index, {"fp16.engine": "engine"}, variants)
    after = open_bundle(directory)
    assert after.read("fp16.engine") == NEW
    assert after.read("fp32.engine") == OLD


class Stop(Exception):
    """In the place of a power cut."""


def stopped_at(count: int) -> Callable[..., None]:
    """``os.replace`` that works so many times: every step of an exchange ends with one."""
    left = iter(range(count))

    def step(*paths: str) -> None:
        if next(left, None) is None:
            raise Stop
        os.rename(*paths)

    return step


def test_stopped_after_any_step_the_bundle_opens_and_can_be_rebuilt(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for steps in range(4):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", stopped_at(steps))
            with pytest.raises(Stop):
                rebuild(directory)
        bundle = open_bundle(directory)
        engine = bundle.variant("fp32").engine
        assert engine is not None
        seen.append(bundle.read(engine))
        finish_exchange(directory, bundle.index)
        assert open_bundle(directory).variant("fp32").engine == "fp32.engine"
        assert not list(directory.glob("*.next"))
    assert seen == [OLD, NEW, NEW, NEW]


def test_an_unfinished_exchange_is_finished_before_the_next(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", stopped_at(1))
        with pytest.raises(Stop):
            rebuild(directory)
    index = open_bundle(directory).index
    with pytest.raises(BundleError, match="unfinished"):
        exchange(directory, index, {})
    assert finish_exchange(directory, index).variants["fp32"].engine == "fp32.engine"
    assert open_bundle(directory).read("fp32.engine") == NEW


def test_new_content_that_is_missing_or_a_link_changes_nothing(directory: Path) -> None:
    before = (directory / BUNDLE_FILE).read_bytes()
    index = open_bundle(directory).index
    with pytest.raises(BundleError, match=r"fp32.engine.next: the file is missing"):
        exchange(directory, index, {"fp32.engine": "engine"})
    (directory / next_name("fp32.engine")).symlink_to("/etc/hostname")
    with pytest.raises(BundleError, match="symbolic link"):
        exchange(directory, index, {"fp32.engine": "engine"})
    assert (directory / BUNDLE_FILE).read_bytes() == before
    assert open_bundle(directory).read("fp32.engine") == OLD


def test_without_hard_links_the_content_is_copied(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*paths: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    rebuild(directory)
    assert open_bundle(directory).read("fp32.engine") == NEW
