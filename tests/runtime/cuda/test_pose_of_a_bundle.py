"""Which device a bundle runs on, and what is said where it cannot be the GPU, on the stand-ins."""

import gc
import json
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from posedge.cli import main
from posedge.errors import BundleError, DeviceError, SessionError
from posedge.runtime.bundle import EngineBuild, VariantFiles, seal_bundle
from posedge.runtime.cuda import gpu
from posedge.runtime.images import write_png
from posedge.runtime.pose import PoseEstimator
from posedge.runtime.spec import ModelSpec
from posedge.runtime.target import Target

pytestmark = [pytest.mark.stand_in, pytest.mark.usefixtures("kernel_cache")]

BOX = (4.0, 4.0, 60.0, 90.0)
IMAGE = np.random.default_rng(0).integers(0, 256, (100, 80, 3), np.uint8)


@pytest.fixture
def bundle(
    engine: Callable[..., bytes], small_pose: Path, small_spec: ModelSpec, tmp_path: Path, cuda
) -> Path:
    """fp32 has an engine for the stand-in device, old one of another version, and bare none."""
    if cuda is None:
        return tmp_path
    import tensorrt
    import tensorrt_rtx

    here = Target("tensorrt", tensorrt.__version__, (86,), machine=platform.machine())
    elsewhere = Target("tensorrt", "8.6.1", (87,), machine=platform.machine())
    (tmp_path / "graph.onnx").write_bytes(small_pose.read_bytes())
    (tmp_path / "fp32.engine").write_bytes(engine())
    rtx = Target("tensorrt_rtx", tensorrt_rtx.__version__, (80,), portable=True, machine=platform.machine())
    variants = {
        "fp32": VariantFiles("graph.onnx", "fp32.engine", EngineBuild(here)),
        "rtx": VariantFiles("graph.onnx", "fp32.engine", EngineBuild(rtx)),
        "old": VariantFiles("graph.onnx", "fp32.engine", EngineBuild(elsewhere)),
        "bare": VariantFiles("graph.onnx"),
    }
    seal_bundle(tmp_path, small_spec, variants, "fp32")
    return tmp_path


def test_a_gpu_with_an_engine_is_taken(bundle: Path, cuda) -> None:
    with PoseEstimator(bundle) as pose, PoseEstimator(bundle, device="cpu") as on_cpu:
        assert (pose.device, pose.no_gpu) == ("stand-in device", None)
        assert (on_cpu.device, on_cpu.no_gpu) == ("cpu", "the CPU was asked for")
        np.testing.assert_allclose(pose(IMAGE, [BOX])[0], on_cpu(IMAGE, [BOX])[0], atol=0.05)
    assert not any(cuda.live().values())


def test_a_forgotten_estimator_warns(bundle: Path, cuda) -> None:
    pose = PoseEstimator(bundle)
    pipeline = pose._pipeline
    with pytest.warns(ResourceWarning, match=r"on stand-in device was forgotten.*Close it"):
        del pose
    pipeline.close()
    with PoseEstimator(bundle):
        pass  # no warning, which would be an error here
    gc.collect()


def test_what_tensorrt_rtx_compiles_is_kept(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda
) -> None:
    import fake_trt

    monkeypatch.setenv("POSEDGE_CACHE", str(tmp_path / "cache"))
    for process in (1, 2):
        with PoseEstimator(bundle, "rtx") as pose:
            pose.warmup((80, 100), [1])
            assert (("cache", b"kernels") in fake_trt.CALLS) == (process == 2)
    monkeypatch.setenv("POSEDGE_CACHE", str(bundle / "graph.onnx"))  # no directory
    with PoseEstimator(bundle, "rtx") as pose:
        pose.warmup((80, 100), [1])


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("bare", r"bare has no engine. Build one: posedge build .* --variant bare"),
        ("old", r"engine of old does not run here: .*built: tensorrt 8.6.1, SM 87.*here: .*SM 86"),
    ],
)
def test_without_an_engine_for_the_device(bundle: Path, variant: str, said: str, cuda) -> None:
    with pytest.raises(DeviceError, match=f"no GPU can be used: .*{said}"):
        PoseEstimator(bundle, variant, device="cuda")
    with PoseEstimator(bundle, variant) as pose:
        assert pose.device == "cpu"
        assert "engine" in str(pose.no_gpu)
        assert pose(IMAGE, [BOX])[0].shape == (1, 17, 2)
    assert not any(cuda.live().values())


def test_without_a_driver(bundle: Path, monkeypatch: pytest.MonkeyPatch, cuda) -> None:
    monkeypatch.setattr(gpu, "DRIVER_LIBRARY", "libabsent.so.1")
    for variant in ("fp32", "bare"):
        with pytest.raises(DeviceError, match="no GPU can be used: there is no NVIDIA driver here"):
            PoseEstimator(bundle, variant, device="cuda")
    with PoseEstimator(bundle) as pose:
        assert pose.device == "cpu"
        assert "there is no NVIDIA driver here" in str(pose.no_gpu)
    with pytest.raises(DeviceError, match="'gpu' is no device; choose one of auto, cpu, cuda"):
        PoseEstimator(bundle, device="gpu")  # type: ignore[arg-type]


def test_a_device_that_nvrtc_does_not_serve_is_not_taken(
    bundle: Path, small_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, cuda
) -> None:
    import tensorrt

    monkeypatch.setenv("FAKE_CUDA_SM", "72")
    built = EngineBuild(Target("tensorrt", tensorrt.__version__, (72,), machine=platform.machine()))
    seal_bundle(bundle, small_spec, {"fp32": VariantFiles("graph.onnx", "fp32.engine", built)}, "fp32")
    with PoseEstimator(bundle) as pose:
        assert pose.device == "cpu"
        assert "compute capability 7.2" in str(pose.no_gpu)
        assert pose(IMAGE, [BOX])[0].shape == (1, 17, 2)
    with pytest.raises(DeviceError, match=r"pip install 'posedge\[cuda12\]'"):
        PoseEstimator(bundle, device="cuda")
    assert not any(cuda.live().values())


def test_an_altered_engine_is_not_loaded(bundle: Path, cuda) -> None:
    (bundle / "fp32.engine").write_bytes((bundle / "fp32.engine").read_bytes().replace(b"fake", b"FAKE"))
    for device in ("auto", "cpu", "cuda"):
        with pytest.raises(BundleError, match="not what was sealed"):
            PoseEstimator(bundle, device=device)


def test_an_engine_that_the_library_refuses(
    bundle: Path, engine: Callable[..., bytes], small_spec: ModelSpec, cuda
) -> None:
    import tensorrt

    built = EngineBuild(Target("tensorrt", tensorrt.__version__, (86,), machine=platform.machine()))
    (bundle / "fp32.engine").write_bytes(engine(refuse="it was not meant to be"))
    variants = {"fp32": VariantFiles("graph.onnx", "fp32.engine", built)}
    seal_bundle(bundle, small_spec, variants, "fp32")
    with pytest.raises(SessionError, match="refuses the engine: it was not meant to be"):
        PoseEstimator(bundle)
    assert not any(cuda.live().values())


def test_posedge_run_on_a_device(bundle: Path, capsys: pytest.CaptureFixture[str], cuda) -> None:
    picture, drawn = bundle / "picture.png", bundle / "drawn.png"
    write_png(picture, IMAGE)
    command = ["run", str(bundle), str(picture), "--json", "-o", str(drawn), "--boxes", "4,4,60,90"]
    found = []
    for options, where in (
        (["--device", "cuda"], " on stand-in device"),
        (["--device", "cpu"], ""),
        (["--engine", str(bundle / "fp32.engine"), "--trust"], " on stand-in device"),
    ):
        assert main([*command, *options]) == 0
        said = capsys.readouterr()
        assert f"1 person(s){where} drawn into" in said.err
        found.append(json.loads(said.out)[0]["keypoints"])
    np.testing.assert_allclose(found[0], found[1], atol=0.05)
    np.testing.assert_array_equal(found[0], found[2])
    for options, said_why in (
        (["--engine", str(bundle / "fp32.engine")], "no bundle vouches for this engine"),
        (["--engine", str(bundle / "fp32.engine"), "--trust", "--device", "cpu"], "runs on a GPU"),
        (["--device", "cuda", "--variant", "bare"], "bare has no engine"),
        (["--trust"], "--trust is of --engine"),
    ):
        assert main([*command, *options]) == 1
        assert said_why in capsys.readouterr().err
    for options, noted in (
        (["--variant", "old"], True),
        (["--variant", "old", "--device", "cpu"], False),
        (["--variant", "bare"], False),
        ([], False),
    ):
        assert main([*command, *options]) == 0
        note = "note: it ran on the CPU: " + str(bundle) + ": the engine of old does not run here"
        assert (note in capsys.readouterr().err) == noted
    assert not any(cuda.live().values())
