"""Bundles: what was sealed opens, what was changed by a byte does not."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posedge.errors import BundleError
from posedge.files import sha256_bytes
from posedge.runtime.bundle import BUNDLE_FILE, EngineBuild, VariantFiles, open_bundle, seal_bundle
from posedge.runtime.spec import ModelSpec
from posedge.runtime.target import PORTABLE_SMS, Target

SPEC = ModelSpec(name="tiny")
BUILD = EngineBuild(Target("tensorrt_rtx", "1.7.1", PORTABLE_SMS, portable=True, machine="x86_64"), (1, 2, 4))
VARIANTS = {
    "fp32": VariantFiles("fp32.onnx", "engines/fp32.engine", BUILD),
    "int8": VariantFiles("int8.onnx"),
}


def seal(directory: Path) -> None:
    (directory / "engines").mkdir(parents=True)
    (directory / "fp32.onnx").write_bytes(b"float graph")
    (directory / "int8.onnx").write_bytes(b"int8 graph")
    (directory / "engines" / "fp32.engine").write_bytes(b"engine" * 100)
    (directory / "table.json").write_text("{}")
    roles = {"table.json": "calibration table"}
    seal_bundle(directory, SPEC, VARIANTS, "fp32", roles, {"onnxruntime": "1.31.0"})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    seal(tmp_path / "bundle")
    return tmp_path / "bundle"


def reseal(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change bundle.json and give it a valid seal again, as its docstring defines it."""
    document = json.loads((directory / BUNDLE_FILE).read_text())
    del document["seal"]
    change(document)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["seal"] = sha256_bytes(text.encode())
    (directory / BUNDLE_FILE).write_text(json.dumps(document, indent=1) + "\n")


def test_what_was_sealed_comes_back(directory: Path) -> None:
    bundle = open_bundle(directory)
    assert bundle.spec == SPEC
    assert bundle.variants == VARIANTS
    assert bundle.default_variant == "fp32"
    assert bundle.versions == {"onnxruntime": "1.31.0"}
    assert bundle.path(bundle.variant("int8").graph).read_bytes() == b"int8 graph"
    assert bundle.read("int8.onnx") == b"int8 graph"
    assert bundle.named("calibration table") == "table.json"
    assert bundle.files["table.json"].sha256 == sha256_bytes(b"{}")
    assert bundle.named("receipt") is None


def test_bundle_json_says_for_people_what_an_engine_was_built_for(directory: Path) -> None:
    variants = json.loads((directory / BUNDLE_FILE).read_text())["variants"]
    assert variants["fp32"]["built"]["target"]["described"] == (
        "tensorrt_rtx 1.7.1, portable, Ampere and later (SM 80, 86, 89, 120), x86_64"
    )
    assert variants["fp32"]["built"]["profile"] == [1, 2, 4]
    assert variants["int8"] == {"graph": "int8.onnx", "engine": None, "built": None}


def test_the_same_inputs_give_the_same_bytes(directory: Path, tmp_path: Path) -> None:
    seal(tmp_path / "again")
    assert (tmp_path / "again" / BUNDLE_FILE).read_bytes() == (directory / BUNDLE_FILE).read_bytes()


def test_a_bundle_can_be_moved_and_hold_other_files(directory: Path, tmp_path: Path) -> None:
    (directory / "notes.txt").write_text("mine")
    directory.rename(tmp_path / "elsewhere")
    assert open_bundle(tmp_path / "elsewhere").spec == SPEC


def test_an_unknown_variant_lists_those_there_are(directory: Path) -> None:
    with pytest.raises(BundleError, match="'fp8'; it has fp32, int8"):
        open_bundle(directory).variant("fp8")


@pytest.mark.parametrize("name", ["fp32.onnx", "int8.onnx", "engines/fp32.engine", "table.json"])
def test_a_changed_byte_is_refused(directory: Path, name: str) -> None:
    data = bytearray((directory / name).read_bytes())
    data[len(data) // 2] ^= 1
    (directory / name).write_bytes(data)
    with pytest.raises(BundleError, match="not what was sealed") as error:
        open_bundle(directory)
    assert name in str(error.value)
    cure = f"posedge build {directory} --variant fp32" if name.endswith("engine") else "posedge deploy"
    assert cure in str(error.value)


def test_a_cut_off_and_a_missing_file_are_named(directory: Path) -> None:
    (directory / "int8.onnx").write_bytes(b"int8")
    with pytest.raises(BundleError, match=r"int8.onnx: has 4 bytes, but 10"):
        open_bundle(directory)
    (directory / "int8.onnx").unlink()
    with pytest.raises(BundleError, match=r"int8.onnx: the file is missing"):
        open_bundle(directory)


def test_a_changed_byte_of_the_index_is_refused(directory: Path) -> None:
    index = directory / BUNDLE_FILE
    sealed = index.read_bytes()
    for position in range(0, len(sealed), 7):
        data = bytearray(sealed)
        data[position] ^= 1
        index.write_bytes(data)
        with pytest.raises(BundleError):
            open_bundle(directory)


def test_an_interrupted_deploy_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle.json.*interrupted"):
        open_bundle(tmp_path)
    with pytest.raises(BundleError, match="no such directory"):
        open_bundle(tmp_path / "absent")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100000, "not JSON"),
        (b"[]", "not the index"),
        (b"{}", "not the index"),
        (b'{"schema": 1, "posedge": "0.1.0"}', "has schema 1, written by posedge '0.1.0'.*deploy` command"),
        (b'{"schema": true}', "has schema True"),
        (b'{"schema": 2}', "'posedge' is missing"),
        (b'{"schema": 2, "schema": 2}', "a key stands twice"),
        (b'{"schema": NaN}', "NaN is no number"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "bundle.json: (is not JSON|has schema)"),
        (b" " * (5 << 20), "more than the"),
    ],
)
def test_an_index_that_is_none_is_refused(directory: Path, content: bytes, message: str) -> None:
    (directory / BUNDLE_FILE).write_bytes(content)
    with pytest.raises(BundleError, match=message):
        open_bundle(directory)


WRONG_VALUES: list[tuple[str, Any, str]] = [
    ("spec", {"name": "a", "codec": "guess"}, "codec"),
    ("spec", {}, "'name' is missing"),
    ("files", [], "'files'"),
    ("files", {"fp32.onnx": "abc"}, "sha256, bytes and role"),
    ("files", {"fp32.onnx": {"sha256": "a", "bytes": True, "role": "graph"}}, "sha256, bytes and role"),
    ("files", {"fp32.onnx": {"sha256": "a", "bytes": -1, "role": "graph"}}, "sha256, bytes and role"),
    ("files", {"fp32.onnx": {"sha256": "a", "bytes": 1 << 60, "role": "graph"}}, "sha256, bytes and role"),
    ("files", {f"{i}": {"sha256": "a", "bytes": 1, "role": "r"} for i in range(1001)}, "1000 at most"),
    ("variants", {"fp32": "fp32.onnx"}, "must have graph"),
    ("variants", {"fp32": {"graph": 3, "engine": None, "built": None}}, "wrong type"),
    ("variants", {"fp32": {"graph": "x.onnx", "engine": None, "built": None}}, "not among"),
    ("variants", {"fp32": {"graph": "table.json", "engine": None, "built": None}}, "as its graph"),
    ("variants", {"fp32": {"graph": "fp32.onnx", "engine": "int8.onnx", "built": None}}, "wrong type"),
    ("variants", {"fp32": {"graph": "fp32.onnx", "engine": "engines/fp32.engine", "built": {}}}, "profile"),
    ("variants", {}, "default variant 'fp32'"),
    ("default_variant", "fp8", "default variant 'fp8'"),
    ("versions", {"numpy": 2}, "'versions'"),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG_VALUES)
def test_wrong_values_are_refused(directory: Path, key: str, value: Any, message: str) -> None:
    reseal(directory, lambda document: document.update({key: value}))
    with pytest.raises(BundleError, match=message):
        open_bundle(directory)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "engines/../../secret", "", ".", "a\\..\\b", "a\0b", "\ud800"]
)
def test_paths_that_lead_outside_are_refused(directory: Path, name: str) -> None:
    (directory.parent / "secret").write_bytes(b"s")
    entry = {"sha256": sha256_bytes(b"s"), "bytes": 1, "role": "graph"}
    reseal(directory, lambda document: document["files"].update({name: entry}))
    with pytest.raises(BundleError, match="outside"):
        open_bundle(directory)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./int8.onnx", "plain form 'int8.onnx'"),
        ("engines//fp32.engine", "plain form"),
        ("int8.onnx/", "plain form"),
        (BUNDLE_FILE, "its own files"),
        ("int8.onnx/deeper", "the file is missing"),
        ("x" * 300, "cannot be read"),
        ("engines", "no plain file"),
        ("pipe", "no plain file"),
    ],
)
def test_other_paths_that_are_no_files_of_the_bundle(directory: Path, name: str, message: str) -> None:
    os.mkfifo(directory / "pipe")
    entry = {"sha256": sha256_bytes(b"s"), "bytes": 1, "role": "graph"}
    reseal(directory, lambda document: document["files"].update({name: entry}))
    with pytest.raises(BundleError, match=message):
        open_bundle(directory)


def test_an_index_that_is_a_link_or_no_file_is_refused(directory: Path) -> None:
    index = directory / BUNDLE_FILE
    index.rename(directory / "elsewhere.json")
    index.symlink_to("elsewhere.json")
    with pytest.raises(BundleError, match="symbolic link"):
        open_bundle(directory)
    index.unlink()
    os.mkfifo(index)
    with pytest.raises(BundleError, match="no plain file"):
        open_bundle(directory)


def test_two_files_that_changed_places_are_refused(directory: Path) -> None:
    seal_bundle(directory, SPEC, VARIANTS, "fp32")
    (directory / "fp32.onnx").rename(directory / "kept")
    (directory / "int8.onnx").rename(directory / "fp32.onnx")
    (directory / "kept").rename(directory / "int8.onnx")
    with pytest.raises(BundleError, match=r"fp32.onnx: has 10 bytes, but 11"):
        open_bundle(directory)


def test_a_file_that_changes_after_the_bundle_was_opened_is_not_handed_out(directory: Path) -> None:
    bundle = open_bundle(directory)
    (directory / "int8.onnx").write_bytes(b"INT8 graph")
    with pytest.raises(BundleError, match="not what was sealed"):
        bundle.read("int8.onnx")
    with pytest.raises(BundleError, match="not in the bundle"):
        bundle.read("notes.txt")


def test_links_are_refused(directory: Path) -> None:
    moved = directory.parent / "moved.onnx"
    (directory / "int8.onnx").rename(moved)
    (directory / "int8.onnx").symlink_to(moved)
    with pytest.raises(BundleError, match=r"int8.onnx: is a symbolic link"):
        open_bundle(directory)


def test_a_linked_folder_is_refused(directory: Path) -> None:
    (directory / "engines").rename(directory.parent / "engines")
    (directory / "engines").symlink_to(directory.parent / "engines")
    with pytest.raises(BundleError, match="symbolic link"):
        open_bundle(directory)


def test_sealing_refuses_what_would_not_open(directory: Path) -> None:
    before = (directory / BUNDLE_FILE).read_bytes()
    with pytest.raises(BundleError, match=r"absent.onnx: the file is missing"):
        seal_bundle(directory, SPEC, {"fp32": VariantFiles("absent.onnx")}, "fp32")
    with pytest.raises(BundleError, match="outside"):
        seal_bundle(directory, SPEC, {"fp32": VariantFiles("../fp32.onnx")}, "fp32")
    with pytest.raises(BundleError, match="its own files"):
        seal_bundle(directory, SPEC, VARIANTS, "fp32", {BUNDLE_FILE: "report"})
    with pytest.raises(BundleError, match="goes with how it was built"):
        seal_bundle(directory, SPEC, {"fp32": VariantFiles("fp32.onnx", "engines/fp32.engine")}, "fp32")
    with pytest.raises(BundleError, match="default variant 'int4'"):
        seal_bundle(directory, SPEC, VARIANTS, "int4")
    assert (directory / BUNDLE_FILE).read_bytes() == before
