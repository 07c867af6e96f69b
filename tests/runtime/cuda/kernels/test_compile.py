"""The kernels compiled by NVRTC, which needs no GPU, for every architecture, and their cache."""

import os
import re
import subprocess
import sys

import pytest

import posedge.runtime.cuda.compile as compiling
from posedge.errors import MissingExtraError, SessionError, UnservedDeviceError
from posedge.runtime.cuda.compile import SOURCE, Nvrtc, choose_architecture, compile_kernels
from posedge.runtime.cuda.kernels import KERNELS


@pytest.fixture(scope="module")
def nvrtc():
    try:
        return Nvrtc()
    except MissingExtraError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


def names_in(cubin):
    """The kernels whose machine code an ELF image has: each has a section of its own."""
    return sorted(name.decode() for name in set(re.findall(rb"\.text\.(\w+)\0", cubin)))


def test_the_list_of_kernels_is_that_of_the_source():
    found = re.findall(r'extern "C" __global__ void (\w+)\(', SOURCE.read_text())
    assert sorted(found) == sorted(KERNELS)


def test_every_kernel_compiles_for_every_architecture(nvrtc):
    source = SOURCE.read_text()
    served = nvrtc.architectures()
    assert served[0] <= 75
    assert served[-1] >= 120
    for number in served:
        kernels = set(KERNELS)
        assert kernels <= set(names_in(nvrtc.compile(source, f"sm_{number}"))), number


def test_a_device_newer_than_nvrtc_gets_ptx(nvrtc, tmp_path):
    newest = nvrtc.architectures()[-1]
    compiled = compile_kernels((99, 0), tmp_path)
    assert compiled.architecture == f"compute_{newest}"
    assert compiled.image.endswith(b"\0")
    for kernel in KERNELS:
        assert f".entry {kernel}(".encode() in compiled.image
    simcc = compiled.image.partition(b".entry decode_simcc(")[2].partition(b".entry ")[0]
    assert b"mul.rn.f32" in simcc
    assert b"fma.rn.f32" not in simcc, "a contraction would round otherwise than numpy"


@pytest.mark.parametrize(
    ("capability", "architecture"),
    [((8, 7), "sm_87"), ((12, 1), "sm_121"), ((8, 8), "compute_87"), ((13, 0), "compute_121")],
)
def test_the_architecture_of_a_device(capability, architecture):
    assert choose_architecture(capability, [75, 80, 87, 90, 121], "13.5") == architecture


def test_a_device_too_old_for_nvrtc():
    with pytest.raises(
        UnservedDeviceError, match=r"compute capability 7\.2: NVRTC 13\.5 serves 7\.5 and later.*cuda12"
    ):
        choose_architecture((7, 2), [75, 80], "13.5")


def test_source_that_nvrtc_refuses(nvrtc):
    with pytest.raises(SessionError, match=r"sm_75.*NVRTC_ERROR_COMPILATION.*\"missing\" is undefined"):
        nvrtc.compile("void broken() { missing = 1; }", "sm_75")


@pytest.fixture
def compilations(monkeypatch, nvrtc):
    """The architectures that were really compiled for, in order; what is compiled is one small kernel."""
    done = []
    real = Nvrtc.compile

    def count(self, source, architecture):
        done.append(architecture)
        return real(self, 'extern "C" __global__ void small(int* x) { *x = 1; }', architecture)

    monkeypatch.setattr(Nvrtc, "compile", count)
    return done


def test_the_second_time_comes_from_the_cache(compilations, tmp_path):
    first = compile_kernels((7, 5), tmp_path)
    second = compile_kernels((7, 5), tmp_path)
    assert first == second
    assert first.architecture == "sm_75"
    assert names_in(first.image) == ["small"]
    compile_kernels((9, 0), tmp_path)
    assert compilations == ["sm_75", "sm_90"]
    assert len(list(tmp_path.iterdir())) == 2


def test_other_options_or_another_source_are_other_entries(compilations, tmp_path, monkeypatch):
    compile_kernels((7, 5), tmp_path)
    monkeypatch.setattr(compiling, "OPTIONS", ("--std=c++17", "--fmad=true"))
    compile_kernels((7, 5), tmp_path)
    edited = tmp_path / "edited" / "kernels.cu"
    edited.parent.mkdir()
    edited.write_text(SOURCE.read_text() + "\n")
    monkeypatch.setattr(compiling, "SOURCE", edited)
    compile_kernels((7, 5), tmp_path)
    assert len(compilations) == 3


@pytest.mark.parametrize("damage", ["empty", "cut", "changed"])
def test_a_damaged_entry_is_compiled_anew(compilations, tmp_path, damage):
    expected = compile_kernels((7, 5), tmp_path)
    (entry,) = tmp_path.iterdir()
    content = bytearray(entry.read_bytes())
    if damage == "changed":
        content[-10] ^= 1
    entry.write_bytes({"empty": b"", "cut": content[:-7], "changed": content}[damage])
    assert compile_kernels((7, 5), tmp_path) == expected
    assert compile_kernels((7, 5), tmp_path) == expected
    assert len(compilations) == 2, "the entry was mended"


def test_a_cache_that_cannot_be_written_is_done_without(compilations, tmp_path):
    occupied = tmp_path / "file"
    occupied.write_text("")
    first = compile_kernels((7, 5), occupied / "kernels")
    assert compile_kernels((7, 5), occupied / "kernels") == first
    assert len(compilations) == 2
    assert occupied.read_text() == ""


def test_the_usual_place_of_the_cache(compilations, tmp_path, monkeypatch):
    monkeypatch.setenv("POSEDGE_CACHE", str(tmp_path))
    compile_kernels((7, 5))
    (entry,) = (tmp_path / "kernels").iterdir()
    assert entry.name.startswith("sm_75-")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("sys.modules['cuda.bindings.nvrtc'] = None", "cuda.bindings.nvrtc is needed"),
        # cuda-bindings without the library: its loader finds no libnvrtc
        (
            "import cuda.bindings.nvrtc as n\n"
            "def missing(): raise RuntimeError('Failure finding libnvrtc.so')\n"
            "n.nvrtcVersion = missing",
            "Failure finding libnvrtc.so",
        ),
    ],
    ids=["no binding", "no library"],
)
def test_without_nvrtc_the_extra_is_named(nvrtc, code, said):
    program = (
        f"import sys\n{code}\nfrom posedge.errors import MissingExtraError\n"
        "from posedge.runtime.cuda.compile import compile_kernels\n"
        "try:\n    compile_kernels((9, 0))\nexcept MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert said in done.stdout, done.stderr
    assert "pip install 'posedge[cuda]'" in done.stdout
