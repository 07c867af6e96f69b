"""Facts of NVIDIA hardware from what the system says."""

import shutil
import subprocess
from pathlib import Path

import pytest

from posedge.runtime import devices

DRIVER = """
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) { return STATUS; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Orin", length); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 8000000000u; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (attribute != 75 && attribute != 76) return 1;
    *value = attribute == 75 ? 8 : 7;
    return 0;
}
"""


def stand_in_driver(directory: Path, status: int = 0, count: int = 1) -> str:
    """A library with the entry points of the CUDA driver that the doctor asks, and known answers."""
    compiler = shutil.which("cc") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, library = directory / "cuda.c", directory / "libcuda.so"
    source.write_text(DRIVER.replace("STATUS", str(status)).replace("COUNT", str(count)))
    command = [compiler, "-x", "c", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return str(library)


def test_a_gpu_is_described_as_its_driver_does(tmp_path: Path) -> None:
    found = devices.gpus(stand_in_driver(tmp_path, count=2))
    assert (found.cuda, found.problem) == ("12.6", "")
    assert found.gpus == (devices.Gpu("Orin", 87, 8_000_000_000),) * 2


def test_a_driver_that_does_not_start(tmp_path: Path) -> None:
    found = devices.gpus(stand_in_driver(tmp_path, status=999))
    assert (found.gpus, found.problem) == ((), "the driver cannot be started (CUDA error 999)")


def test_a_driver_without_a_gpu(tmp_path: Path) -> None:
    assert devices.gpus(stand_in_driver(tmp_path, count=0)).problem == "the driver finds no GPU"


def test_no_driver() -> None:
    found = devices.gpus("libnot-there.so.1")
    assert found.problem == "no driver (libnot-there.so.1 cannot be loaded)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "36.4.3, JetPack 6.2"),
        ("# R36 (release), REVISION: 3.0, GCID: 36923193", "36.3.0, JetPack 6.0"),
        ("# R36 (release), REVISION: 4, GCID: 1", "36.4, JetPack 6.1"),
        ("# R35 (release), REVISION: 2.1, GCID: 1", "35.2.1, JetPack 5.1"),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "99.1.0, JetPack not known for this release"),
    ],
)
def test_jetpack_follows_from_the_release(text: str, expected: str) -> None:
    assert devices.jetpack(text + "\nmore") == f"Jetson Linux {expected}"


@pytest.mark.parametrize("text", ["", "DISTRIB_ID=Ubuntu"])
def test_other_machines_are_no_jetson(text: str) -> None:
    assert devices.jetpack(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Sat Feb 17 22:55:48 UTC 2024",
            "535.161.08",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build",
            "580.65.06",
        ),
        ("", None),
    ],
)
def test_the_version_of_the_driver(text: str, expected: str | None) -> None:
    assert devices.driver_version(text) == expected
