"""Which engines may be deserialised: sealed ones for what is here, foreign ones only when trusted."""

from dataclasses import replace
from pathlib import Path

import pytest

from posedge.errors import BundleError
from posedge.runtime.bundle import Bundle, EngineBuild, VariantFiles, open_bundle, seal_bundle
from posedge.runtime.engine_files import foreign_engine, trusted_engine
from posedge.runtime.spec import ModelSpec
from posedge.runtime.target import Target, mismatch, target_from_dict, target_here, target_to_dict

ORIN = Target(
    "tensorrt",
    "10.3.0",
    (87,),
    gpu="Orin",
    driver="540.4.0",
    jetpack="Jetson Linux 36.4.3, JetPack 6.2",
    machine="aarch64",
)
RTX = Target("tensorrt_rtx", "1.7.1.116", (80, 86, 89, 120), portable=True, machine="x86_64")
ENGINE = b"an engine"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    (tmp_path / "int8.onnx").write_bytes(b"graph")
    (tmp_path / "int8.engine").write_bytes(ENGINE)
    variants = {
        "fp32": VariantFiles("int8.onnx"),
        "int8": VariantFiles("int8.onnx", "int8.engine", EngineBuild(ORIN)),
    }
    seal_bundle(tmp_path, ModelSpec(name="tiny"), variants, "fp32")
    return open_bundle(tmp_path)


def test_an_engine_for_this_device_is_handed_out(bundle: Bundle) -> None:
    assert trusted_engine(bundle, "int8", replace(ORIN, driver="550.1")) == ENGINE


def test_a_mismatch_says_what_was_built_what_is_here_and_the_command(bundle: Bundle) -> None:
    here = replace(ORIN, version="10.13.0")
    with pytest.raises(BundleError) as error:
        trusted_engine(bundle, "int8", here)
    message = str(error.value)
    assert (
        "built: tensorrt 10.3.0, SM 87, Orin, driver 540.4.0, Jetson Linux 36.4.3, JetPack 6.2, aarch64"
        in message
    )
    assert "here:  tensorrt 10.13.0, SM 87" in message
    assert f"posedge build {bundle.directory} --variant int8" in message


def test_the_hash_is_checked_before_anything_that_the_engine_says(bundle: Bundle) -> None:
    """A changed engine for another device: that it was changed is what must be said."""
    elsewhere = replace(ORIN, version="11.4.1", sms=(89,))
    (bundle.directory / "int8.engine").write_bytes(b"AN ENGINE")
    with pytest.raises(BundleError, match="not what was sealed"):
        trusted_engine(bundle, "int8", elsewhere)
    (bundle.directory / "int8.engine").write_bytes(ENGINE + b"!")
    with pytest.raises(BundleError, match="has 10 bytes, but 9"):
        trusted_engine(bundle, "int8", elsewhere)
    (bundle.directory / "int8.engine").write_bytes(ENGINE)
    with pytest.raises(BundleError, match="only with the version"):
        trusted_engine(bundle, "int8", elsewhere)


def test_a_variant_without_an_engine_names_the_command(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"fp32 has no engine.*posedge build .* --variant fp32"):
        trusted_engine(bundle, "fp32", ORIN)
    with pytest.raises(BundleError, match="no variant 'fp8'"):
        trusted_engine(bundle, "fp8", ORIN)


HERE_86 = replace(RTX, sms=(86,), portable=False, gpu="RTX 3060")
MISMATCHES: list[tuple[Target, Target, str | None]] = [
    (ORIN, ORIN, None),
    (ORIN, replace(ORIN, library="tensorrt_rtx"), "another library"),
    (ORIN, replace(ORIN, version="10.3.1"), "version"),
    (ORIN, replace(ORIN, machine="x86_64"), "architecture"),
    (ORIN, replace(ORIN, sms=()), "no GPU here"),
    (ORIN, replace(ORIN, sms=(89,)), "other GPUs"),
    # portable: Ampere and later, GPUs to come included, but no Turing
    (RTX, HERE_86, None),
    (RTX, replace(HERE_86, sms=(121,)), None),
    (RTX, replace(HERE_86, sms=(75,)), "other GPUs"),
    # for SMs that were asked for, these and no later one
    (replace(RTX, portable=False, sms=(75, 86)), HERE_86, None),
    (replace(RTX, portable=False, sms=(75, 86)), replace(HERE_86, sms=(89,)), "other GPUs"),
    # version-compatible: later versions of the same major one, and 8 with 10, 10 with 11
    (replace(ORIN, version_compatible=True), replace(ORIN, version="10.13.0"), None),
    (replace(ORIN, version_compatible=True), replace(ORIN, version="10.2.9"), "version"),
    (replace(ORIN, version_compatible=True), replace(ORIN, version="11.4.1"), None),
    (replace(ORIN, version_compatible=True, version="8.6.2"), replace(ORIN, version="10.3.0"), None),
    (replace(ORIN, version_compatible=True, version="8.6.2"), replace(ORIN, version="11.4.1"), "version"),
]


@pytest.mark.parametrize(("built", "here", "reason"), MISMATCHES)
def test_where_an_engine_runs(built: Target, here: Target, reason: str | None) -> None:
    found = mismatch(built, here)
    assert (found is None) if reason is None else (found is not None and reason in found)


@pytest.mark.parametrize("target", [ORIN, RTX, HERE_86])
def test_a_target_comes_back_from_json(target: Target) -> None:
    assert target_from_dict(target_to_dict(target)) == target


@pytest.mark.parametrize(
    "change",
    [
        {"sms": ["80"]},
        {"sms": 80},
        {"sms": [True]},
        {"portable": 1},
        {"gpu": 3},
        {"version": None},
        {"described": "SM 80"},
        {"compute_capability": "9.0"},
        {"more": 1},
    ],
)
def test_a_target_with_wrong_values_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        target_from_dict({**target_to_dict(ORIN), **change})


def test_the_device_here_is_described_with_or_without_a_gpu() -> None:
    here = target_here("tensorrt_rtx", "1.7.1")
    assert (here.library, here.version, here.portable) == ("tensorrt_rtx", "1.7.1", False)
    assert here.machine
    assert (here.gpu is None) == (here.sms == ())


def test_a_foreign_engine_is_code_and_needs_trust(tmp_path: Path) -> None:
    path = tmp_path / "found.engine"
    path.write_bytes(ENGINE)
    with pytest.raises(BundleError, match=r"to run the code in it.*--trust"):
        foreign_engine(path)
    assert foreign_engine(path, trust=True) == ENGINE
    (tmp_path / "link.engine").symlink_to(path)
    with pytest.raises(BundleError, match="symbolic link"):
        foreign_engine(tmp_path / "link.engine", trust=True)
    with pytest.raises(BundleError, match="missing"):
        foreign_engine(tmp_path / "absent.engine", trust=True)
