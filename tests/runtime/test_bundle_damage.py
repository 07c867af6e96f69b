"""Damage of every kind, at places drawn with a fixed seed: what is not as it was sealed never opens."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posedge.errors import BundleError
from posedge.runtime.bundle import BUNDLE_FILE, EngineBuild, VariantFiles, open_bundle, seal_bundle
from posedge.runtime.bundle_index import SCHEMA
from posedge.runtime.spec import ModelSpec
from posedge.runtime.target import Target

FLIPS_A_FILE = 60
TARGET = Target(
    "tensorrt",
    "10.3.0",
    (87,),
    gpu="Orin",
    driver="540.4.0",
    jetpack="Jetson Linux 36.4.3, JetPack 6.2",
    machine="aarch64",
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed bundle; every test leaves it as it was."""
    path = tmp_path_factory.mktemp("damage") / "bundle"
    rng = np.random.default_rng(0)
    for name, size in (("fp32.onnx", 5000), ("engines/fp32.engine", 9000), ("receipt.json", 700)):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(rng.bytes(size))
    variants = {"fp32": VariantFiles("fp32.onnx", "engines/fp32.engine", EngineBuild(TARGET))}
    roles = {"receipt.json": "receipt"}
    seal_bundle(path, ModelSpec(name="tiny"), variants, "fp32", roles, {"numpy": "2.0"})
    return path


def files_of(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.rglob("*")) if path.is_file()]


def refuse(directory: Path, file: Path, content: bytes) -> None:
    """The bundle must not open while ``file`` has this content."""
    sealed = file.read_bytes()
    file.write_bytes(content)
    try:
        with pytest.raises(BundleError):
            open_bundle(directory)
    finally:
        file.write_bytes(sealed)


def test_a_flipped_bit_anywhere_is_refused(directory: Path) -> None:
    rng = np.random.default_rng(1)
    for file in files_of(directory):
        sealed = file.read_bytes()
        for position in {0, len(sealed) - 1, *rng.integers(0, len(sealed), FLIPS_A_FILE).tolist()}:
            data = bytearray(sealed)
            data[position] ^= 1 << int(rng.integers(8))
            refuse(directory, file, bytes(data))
    open_bundle(directory)


def test_a_file_cut_off_or_extended_is_refused(directory: Path) -> None:
    for file in files_of(directory):
        sealed = file.read_bytes()
        for content in (b"", sealed[:1], sealed[: len(sealed) // 2], sealed[:-1], sealed + b"\0", sealed * 2):
            refuse(directory, file, content)
    open_bundle(directory)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, child in items for leaf in leaves(child, (*path, key))]
    return [(path, value)]


def test_every_value_of_the_index_is_under_its_seal(directory: Path) -> None:
    index = directory / BUNDLE_FILE
    document = json.loads(index.read_text())
    found = leaves(document)
    assert {("schema",), ("posedge",), ("seal",), ("files", "fp32.onnx", "sha256")} <= {p for p, _ in found}
    for path, value in found:
        for other in (f"{value}x", 7, None, not value):
            changed = json.loads(index.read_text())
            place = changed
            for key in path[:-1]:
                place = place[key]
            if place[path[-1]] == other and type(other) is type(value):
                continue
            place[path[-1]] = other
            refuse(directory, index, json.dumps(changed, indent=1).encode() + b"\n")


def test_every_key_of_the_index_is_needed_and_none_stands_twice(directory: Path) -> None:
    index = directory / BUNDLE_FILE
    text = index.read_text()
    for line in text.splitlines():
        if line.strip().startswith('"') and line.endswith(","):
            refuse(directory, index, text.replace(line, "", 1).encode())
            refuse(directory, index, text.replace(line, line + "\n" + line, 1).encode())


def test_only_the_very_text_of_the_seal_is_the_index(directory: Path) -> None:
    """The same values in other words: a parser that reads them otherwise must not be misled."""
    index = directory / BUNDLE_FILE
    text = index.read_text()
    for same in (text.replace("\n", "\r\n"), text + " ", text.replace(": ", ":"), "\ufeff" + text):
        refuse(directory, index, same.encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("posedge", "spec", "default_variant", "variants", "files", "versions", "seal")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_no_content_of_the_index_gives_anything_but_a_bundle_error(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    (tmp_path / BUNDLE_FILE).write_text(json.dumps({"schema": SCHEMA, **values}))
    with pytest.raises(BundleError):
        open_bundle(tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_no_bytes_give_anything_but_a_bundle_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / BUNDLE_FILE).write_bytes(content)
    with pytest.raises(BundleError):
        open_bundle(tmp_path)
