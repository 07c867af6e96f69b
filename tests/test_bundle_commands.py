"""`posedge build` and `posedge verify` on a real bundle with real TensorRT-RTX engines."""

import json
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from posedge import progress
from posedge.benchmarks.report.receipt import read_receipt
from posedge.benchmarks.report.results import BuiltEngine
from posedge.benchmarks.self_test import SelfTest
from posedge.benchmarks.speed import NotMeasured
from posedge.cli import main
from posedge.deploy import deploy
from posedge.engines.flavours import flavour_named, installed_version
from posedge.errors import BuildError, OutputError
from posedge.files import directory_lock
from posedge.options import DeployOptions
from posedge.progress import SilentProgress
from posedge.rebuild import rebuild
from posedge.runtime import target as target_module
from posedge.runtime.bundle import BUNDLE_FILE, EngineBuild, VariantFiles, open_bundle, seal_bundle
from posedge.runtime.devices import Gpu, Gpus
from posedge.runtime.spec import ModelSpec
from posedge.runtime.target import PORTABLE_SMS, Target

ELSEWHERE = EngineBuild(Target("tensorrt", "10.3.0", (87,), gpu="Orin", machine="aarch64"), (1, 2, 4))
ENGINE = b"built on a Jetson"


@pytest.fixture
def bundle(small_pose: Path, small_spec: ModelSpec, tmp_path: Path) -> Path:
    """Two variants of the small network; fp32 has an engine of another device. No receipt."""
    directory = tmp_path / "a bundle"
    directory.mkdir()
    for name in ("fp32.onnx", "int8.onnx"):
        shutil.copyfile(small_pose, directory / name)
    (directory / "fp32.engine").write_bytes(ENGINE)
    variants = {
        "fp32": VariantFiles("fp32.onnx", "fp32.engine", ELSEWHERE),
        "int8": VariantFiles("int8.onnx"),
    }
    seal_bundle(directory, small_spec, variants, "fp32")
    return directory


def test_build_makes_engines_for_what_is_here(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(bundle)]) == 0
    said = capsys.readouterr().out
    after = open_bundle(bundle)
    for name, profile in (("fp32", (1, 2, 4)), ("int8", (1, 8, 32))):
        files = after.variant(name)
        assert files.engine == f"{name}.engine"
        assert after.read(files.engine).startswith(b"vtrt")
        assert files.built is not None
        assert files.built.profile == profile  # that of the old engine, where there was one
        target = files.built.target
        assert (target.library, target.sms, target.portable) == ("tensorrt_rtx", PORTABLE_SMS, True)
        assert f"{bundle / files.engine}: " in said
        assert str(target) in said


def test_build_of_one_variant_leaves_the_others(bundle: Path) -> None:
    before = open_bundle(bundle)
    arguments = ["--variant", "int8", "--batch-profile", "1,1,2", "--flavour", "tensorrt_rtx"]
    arguments += ["--target-sms", "89,120"]
    assert main(["build", str(bundle), *arguments]) == 0
    after = open_bundle(bundle)
    assert after.variant("fp32") == before.variant("fp32")
    assert after.read("fp32.engine") == ENGINE
    build = after.variant("int8").built
    assert build is not None
    assert build.profile == (1, 1, 2)
    assert (build.target.sms, build.target.portable) == ((89, 120), False)


def test_a_build_keeps_profile_and_target_sms_of_the_old_engine(
    bundle: Path, small_spec: ModelSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    built = EngineBuild(Target("tensorrt_rtx", "1.0.0", (86, 89), machine="x86_64"), (1, 1, 2))
    seal_bundle(bundle, small_spec, {"fp32": VariantFiles("fp32.onnx", "fp32.engine", built)}, "fp32")
    assert main(["build", str(bundle), "--variant", "fp32", "--variant", "fp32"]) == 0
    assert capsys.readouterr().err.count("building fp32.engine ...") == 1
    after = open_bundle(bundle).variant("fp32").built
    assert after is not None
    assert (after.target.sms, after.target.portable, after.profile) == ((86, 89), False, (1, 1, 2))
    assert main(["build", str(bundle), "--target-sms", "portable"]) == 0
    after = open_bundle(bundle).variant("fp32").built
    assert after is not None
    assert (after.target.sms, after.target.portable, after.profile) == (PORTABLE_SMS, True, (1, 1, 2))


def test_build_mends_a_damaged_engine_and_nothing_else(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "fp32.engine").unlink()
    assert main(["verify", str(bundle)]) == 1
    assert f"posedge build '{bundle}' --variant fp32" in capsys.readouterr().err
    assert main(["build", str(bundle), "--variant", "int8"]) == 1
    assert "fp32.engine: the file is missing" in capsys.readouterr().err
    assert main(["build", str(bundle), "--variant", "fp32"]) == 0
    open_bundle(bundle)
    (bundle / "int8.onnx").write_bytes(b"x")
    assert main(["build", str(bundle), "--variant", "fp32"]) == 1
    assert "int8.onnx: has 1 bytes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant", "fp8"], "no variant 'fp8'; it has fp32, int8"),
        (["--flavour", "tensorrt"], "TensorRT comes with JetPack"),
        (["--build-timeout", "0.01"], "time limit of 0.01 s"),
        (["--sparsity"], "has no sparsity"),
    ],
)
def test_a_build_that_fails_leaves_the_old_bundle(
    bundle: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sealed = (bundle / BUNDLE_FILE).read_bytes()
    assert main(["build", str(bundle), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert (bundle / BUNDLE_FILE).read_bytes() == sealed
    assert open_bundle(bundle).read("fp32.engine") == ENGINE


def test_no_bundle_is_no_place_to_build_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(tmp_path / "absent")]) == 1
    assert "no such directory" in capsys.readouterr().err
    assert not (tmp_path / "absent").exists()


class Interrupter(SilentProgress):
    """Presses Ctrl-C in the middle of the build of one engine."""

    def __init__(self, engine: str) -> None:
        self._engine = engine

    def task(self, description: str, total: float | None = None):  # type: ignore[no-untyped-def]
        if self._engine in description:
            raise KeyboardInterrupt
        return super().task(description, total)


def test_ctrl_c_keeps_the_engines_that_are_finished(bundle: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        list(rebuild(bundle, progress=Interrupter("int8.engine")))
    after = open_bundle(bundle)
    assert after.variant("fp32").built != ELSEWHERE
    assert after.variant("int8").engine is None
    assert len(list(rebuild(bundle, ("int8",)))) == 1


def test_after_ctrl_c_a_build_says_what_is_finished(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "for_terminal", lambda: Interrupter("int8.engine"))
    assert main(["build", str(bundle)]) == 130
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{bundle / 'fp32.engine'}: ")
    assert "int8.engine" not in shown.out
    assert "engines that were finished are in it" in shown.err
    assert "goes on from there" not in shown.err


def test_a_crash_is_kept_under_the_name_of_the_engine_until_a_build_succeeds(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    library = tmp_path / "library" / "tensorrt"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text("import os; os.abort()")
    with monkeypatch.context() as crashing:
        crashing.syspath_prepend(library.parent)
        assert main(["build", str(bundle), "--variant", "fp32"]) == 1
    said = capsys.readouterr().err
    assert "building fp32.engine ..." in said
    assert ".next" not in said
    kept = bundle / "fp32.engine.reproducer"
    assert f"kept in {kept}" in said
    assert kept.is_dir()
    assert open_bundle(bundle).read("fp32.engine") == ENGINE
    assert main(["build", str(bundle), "--variant", "fp32"]) == 0
    assert [path.name for path in bundle.iterdir() if "fp32.engine" in path.name] == ["fp32.engine"]


def test_two_builds_in_one_bundle_are_refused(bundle: Path) -> None:
    with (
        directory_lock(bundle),
        pytest.raises(OutputError, match=r"another posedge run is .* where the command takes -o"),
    ):
        list(rebuild(bundle))


def test_a_graph_that_cannot_be_built_leaves_the_old_bundle(bundle: Path, small_spec: ModelSpec) -> None:
    (bundle / "fp32.onnx").write_bytes(b"no graph")
    variants = {"fp32": VariantFiles("fp32.onnx", "fp32.engine", ELSEWHERE)}
    seal_bundle(bundle, small_spec, variants, "fp32")
    with pytest.raises(BuildError, match=r"fp32\.onnx"):
        list(rebuild(bundle))
    assert open_bundle(bundle).read("fp32.engine") == ENGINE


def test_the_same_graph_gives_the_same_engine(bundle: Path, tmp_path: Path) -> None:
    engines = set()
    for name in ("one", "another directory of another length"):
        shutil.copytree(bundle, tmp_path / name)
        list(rebuild(tmp_path / name, ("fp32",)))
        engines.add(open_bundle(tmp_path / name).files["fp32.engine"].sha256)
    assert len(engines) == 1


def test_receipts_follow_builds_and_self_tests(
    options: DeployOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    options = replace(options, precisions=("fp32", "fp16"))
    directory = deploy(options).directory
    roles = {name: file.role for name, file in open_bundle(directory).files.items()}
    assert roles["fp32.engine"] == "engine"
    assert roles["receipt.json"] == "receipt"
    assert main(["verify", str(directory), "--run", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "every file is as it was sealed" in said
    assert "Kept in receipt.json" in said
    assert [line.split()[-1] for line in said.splitlines() if line.startswith("fp") and "e+" in line] == [
        "ok",
        "ok",
    ]
    open_bundle(directory)
    tested = {
        variant.name: variant.self_test for variant in read_receipt(directory / "receipt.json").variants
    }
    assert isinstance(tested["fp32"], SelfTest)
    assert len(tested["fp32"].latency_ms) == 3
    assert isinstance(tested["fp16"], SelfTest)
    assert tested["fp16"].latency_ms == ()  # simulated: its time means nothing

    assert main(["build", str(directory), "--variant", "fp16"]) == 0
    report = read_receipt(directory / "receipt.json")
    built = report.variants[1]
    assert isinstance(built.engine, BuiltEngine)
    assert isinstance(built.engine_speed, NotMeasured)
    assert "built anew" in built.engine_speed.reason
    assert built.self_test == tested["fp16"]  # the graph that was tested is the same
    assert "built anew" in (directory / "report.txt").read_text()

    again = deploy(options).report
    assert {variant.name: variant.self_test for variant in again.variants} == tested
    open_bundle(directory)


def test_a_self_test_that_fails_is_kept_and_said(
    bundle: Path, small_spec: ModelSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = onnx.load(bundle / "fp32.onnx")
    bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "head.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * float("inf"), "head.bias"))
    onnx.save(graph, bundle / "fp32.onnx")
    seal_bundle(bundle, small_spec, {"fp32": VariantFiles("fp32.onnx")}, "fp32")
    assert main(["verify", str(bundle), "--run", "--variant", "fp32"]) == 1
    shown = capsys.readouterr()
    assert "FAILED" in shown.out
    assert "no receipt" in shown.out
    assert "fp32: outputs are not finite" in shown.err


def test_verify_shows_files_and_targets(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(bundle)]) == 0
    said = capsys.readouterr().out
    assert "fp32.engine was built for tensorrt 10.3.0, SM 87, Orin, aarch64" in said
    entry = json.loads((bundle / BUNDLE_FILE).read_text())["files"]["int8.onnx"]
    (line,) = (line for line in said.splitlines() if line.startswith("int8.onnx"))
    assert line.split()[1:4] == ["graph", str(entry["bytes"]), "bytes"]
    assert entry["sha256"].startswith(line.split()[-1].rstrip("."))


@pytest.mark.parametrize("choice", [["--variant", "fp32"], ["--threads", "2"]])
def test_verify_without_run_takes_no_choice_of_the_self_test(
    choice: list[str], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["verify", str(bundle), *choice])
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert "--variant and --threads go with --run" in shown.err
    assert shown.out == ""


def notes_of_verify(
    bundle: Path, spec: ModelSpec, target: Target, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """What `posedge verify` says after "note:" and in the lines that belong to it."""
    variants = {"fp32": VariantFiles("fp32.onnx", "fp32.engine", EngineBuild(target))}
    seal_bundle(bundle, spec, variants, "fp32")
    assert main(["verify", str(bundle)]) == 0  # it is no damage
    said = capsys.readouterr().out
    assert "every file is as it was sealed" in said
    lines = said.splitlines()
    return [line.removeprefix("note: ") for line in lines if line.startswith(("note: ", "  "))]


def test_verify_notes_what_does_not_run_here(
    bundle: Path,
    small_spec: ModelSpec,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    version = installed_version(flavour_named("tensorrt_rtx"))
    assert version is not None
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # as if it were not installed
    machine = platform.machine()
    ours = Target("tensorrt_rtx", version, PORTABLE_SMS, portable=True, machine=machine)
    monkeypatch.setattr(target_module, "gpus", lambda: Gpus((Gpu("RTX A2000", 86, 1 << 33),), "13.0", ""))
    assert notes_of_verify(bundle, small_spec, ours, capsys) == []
    note, here, cure = notes_of_verify(bundle, small_spec, replace(ours, version="1.0.0"), capsys)
    assert note.startswith("fp32.engine does not run here: an engine runs only with the version")
    assert f"here: tensorrt_rtx {version}, SM 86, RTX A2000" in here
    assert cure.endswith(f"posedge build '{bundle}' --variant fp32")
    (note,) = notes_of_verify(bundle, small_spec, replace(ours, library="another"), capsys)
    assert "'another' is no TensorRT flavour" in note
    (note,) = notes_of_verify(bundle, small_spec, ELSEWHERE.target, capsys)
    assert "tensorrt is not installed here; TensorRT comes with JetPack" in note
    monkeypatch.setattr(target_module, "gpus", lambda: Gpus((), None, "no driver"))
    note, here = notes_of_verify(bundle, small_spec, ours, capsys)  # no build would help
    assert "there is no GPU here" in note


def test_rebuild_and_self_test_import_with_numpy_alone() -> None:
    """A device has numpy and TensorRT, and that is enough to build there."""
    heavy = "torch onnx onnxruntime cv2 matplotlib rich tensorrt tensorrt_rtx PIL"
    program = (
        "import sys, posedge.rebuild, posedge.self_test_job\n"
        f"print([m for m in '{heavy}'.split() if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
