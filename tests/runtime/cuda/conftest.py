"""Tests of the GPU path on a machine without a GPU.

A test file that says ``pytestmark = pytest.mark.stand_in`` runs in one child process of its own, in which
``libcuda.so.1`` is the stand-in of ``fake_libcuda.cpp``: the real cuda-bindings, and all that posedge builds
on them, run on it, with host memory as device memory. It shows that calls, order, copies and arithmetic are
right. It measures nothing. What lies in ``fakes`` is imported there in place of the packages of those names.
"""

import ctypes
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import posedge
from posedge.runtime.cuda.context import Context
from posedge.runtime.cuda.driver import BINDINGS, open_driver
from posedge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from posedge.runtime.spec import ModelSpec

HERE = Path(__file__).parent
REPORT = "STAND_IN_REPORT"  # where the child writes what became of its tests
LIVING = ("device", "pinned", "streams", "events", "modules", "graphs", "executables", "contexts")
HEADERS = tuple(f"fake_{name}.hpp" for name in ("device", "work", "control", "kernels"))
INCLUDED = (*HEADERS, "shim.cpp", "../../../runtime/cuda/kernels.cu")

_outcomes: dict[Path, dict[str, tuple[str, str]]] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "stand_in: runs in a child process on a stand-in for libcuda")


def compiled(source: Path, name: str, *flags: str) -> Path:
    """``source`` compiled by g++ into a shared library ``name``, once for the same content.

    Skips the test where there is no g++, and fails it under CI.
    """
    if shutil.which("g++") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("g++ is not installed")
    content = source.read_bytes() + b"".join((HERE / other).read_bytes() for other in INCLUDED)
    key = hashlib.sha256(content + " ".join(flags).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"posedge-stand-in-{os.getuid()}-{key}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if not (folder / name).exists():
        aside = folder / f"{name}.{os.getpid()}"
        command = ["g++", "-std=c++17", "-O1", "-Wall", "-shared", "-fPIC", f"-I{HERE}", "-o", str(aside)]
        subprocess.run([*command, str(source), *flags, "-ldl"], check=True)
        aside.rename(folder / name)
    return folder / name


def stand_in_environment(**settings: str) -> dict[str, str]:
    """The environment of a child process in which libcuda.so.1 is the stand-in.

    settings: what its first lines name, such as FAKE_CUDA_DEVICES.
    """
    driver = compiled(HERE / "fake_libcuda.cpp", "libcuda.so.1", "-Wl,-soname,libcuda.so.1")
    own = compiled(HERE / "fake_test_kernels.cpp", "kernels.so")
    cuda = HERE.parent.parent.parent / "runtime" / "cuda"
    exact = ("-O2", "-ffp-contract=off", f"-I{cuda}")  # as the kernels are compiled: --fmad=false
    kernels = compiled(HERE / "fake_posedge_kernels.cpp", "posedge.so", *exact)
    paths = [str(Path(posedge.__file__).parent.parent), str(HERE / "fakes"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": f"{driver.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "FAKE_CUDA_KERNELS": f"{own}:{kernels}",
        **settings,
    }


def pytest_collection_finish() -> None:
    if REPORT in os.environ:
        gc.freeze()  # each test collects what it left; modules need no second look


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Report what became of the test in the child, instead of running it here."""
    if REPORT in os.environ or pyfuncitem.get_closest_marker("stand_in") is None:
        return None
    if pyfuncitem.path not in _outcomes:
        _outcomes[pyfuncitem.path] = _run_in_child(pyfuncitem)
    outcome, words = _outcomes[pyfuncitem.path][pyfuncitem.nodeid]
    if outcome == "failed":
        pytest.fail(words, pytrace=False)
    if outcome == "skipped":
        pytest.skip(words)
    return True


def _run_in_child(item: pytest.Function) -> dict[str, tuple[str, str]]:
    """Outcome and words of every selected test of a file, by node id."""
    selected = [
        other.nodeid
        for other in item.session.items
        if other.path == item.path and other.get_closest_marker("stand_in")
    ]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        report.touch()
        program = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *selected]
        done = subprocess.run(
            [sys.executable, *program],
            cwd=item.config.rootpath,
            env=stand_in_environment(**{REPORT: str(report)}),
            capture_output=True,
            text=True,
            timeout=300,
        )
        outcomes: dict[str, tuple[str, str]] = {}
        finished = set()
        for line in report.read_text().splitlines():
            name, when, outcome, words = json.loads(line)
            if when == "teardown":
                finished.add(name)
            if outcomes.get(name, ("passed", ""))[0] == "passed":  # setup, call and teardown: the worst stays
                outcomes[name] = outcome, words
    ended = f"the child process ended before this test did:\n{done.stdout[-2000:]}\n{done.stderr[-5000:]}"
    return {name: outcomes[name] if name in finished else ("failed", ended) for name in selected}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if REPORT in os.environ:
        words = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        with open(os.environ[REPORT], "a") as file:
            file.write(json.dumps([report.nodeid, report.when, report.outcome, words]) + "\n")


class StandIn:
    """What tests ask of the stand-in driver and tell it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._library.fake_log.restype = ctypes.c_char_p
        self._library.fake_calls.restype = ctypes.c_long
        self._library.fake_used.restype = ctypes.c_size_t
        self.lost = False  # set it where the device is lost: nothing can be freed then

    def calls(self, name: str) -> int:
        """How often a driver function was called, named without its version suffix."""
        return int(self._library.fake_calls(name.encode()))

    def fail(self, name: str, nth: int, code: int) -> None:
        """Let the ``nth`` call of a function from now on (1 is the next) answer with a CUresult.

        700 and 719 stay: every later call answers with them too, as on a device that is lost.
        """
        self._library.fake_fail(name.encode(), ctypes.c_long(nth), code)

    def limit(self, size: int) -> None:
        """Give the device ``size`` bytes of memory."""
        self._library.fake_limit(ctypes.c_size_t(size))

    @property
    def used(self) -> int:
        """Bytes of device memory that are allocated."""
        return int(self._library.fake_used())

    def live(self) -> dict[str, int]:
        """How many objects of each kind exist now."""
        counts = (ctypes.c_long * len(LIVING))()
        self._library.fake_live(counts)
        return dict(zip(LIVING, counts, strict=True))

    def log(self) -> list[str]:
        """The driver functions called since ``clear_log``, in order."""
        return str(self._library.fake_log().decode()).split()

    def clear_log(self) -> None:
        self._library.fake_clear_log()

    def forget_everything(self) -> None:
        """Drop all that exists, as the end of a process does."""
        self._library.fake_forget_everything()

    def reset(self) -> None:
        """Take back faults and limits. What is allocated stays."""
        self._library.fake_reset()


@pytest.fixture(scope="session")
def stand_in_process() -> dict[str, str]:
    """The environment for a program that a test starts on the stand-in."""
    return stand_in_environment()


@pytest.fixture(scope="session")
def wrong_kernels() -> Path:
    """posedge's kernels for the stand-in with one mistake: grey levels are cut instead of rounded."""
    cuda = HERE.parent.parent.parent / "runtime" / "cuda"
    return compiled(HERE / "fake_wrong_kernels.cpp", "wrong.so", "-O2", f"-I{cuda}")


@pytest.fixture(params=BINDINGS)
def context(request: pytest.FixtureRequest, cuda: StandIn | None) -> Iterator[Context | None]:
    """A context on each binding, closed afterwards."""
    if cuda is None:
        yield None
        return
    with Context(driver=open_driver(request.param)) as opened:
        yield opened


@pytest.fixture
def cuda() -> Iterator[StandIn | None]:
    """The stand-in driver of the child process; afterwards, nothing that the test made may be left."""
    if REPORT not in os.environ:
        yield None  # the test itself runs in the child
        return
    stand_in = StandIn()
    stand_in.reset()
    yield stand_in
    gc.collect()
    stand_in.reset()
    left = {name: count for name, count in stand_in.live().items() if count}
    stand_in.forget_everything()  # so that one leak is one failure
    if not stand_in.lost:
        assert not left, f"left behind: {left}"


@pytest.fixture
def kernel_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of compiled kernels that is kept from run to run, apart from the user's."""
    monkeypatch.setenv("POSEDGE_CACHE", f"{tempfile.gettempdir()}/posedge-stand-in-{os.getuid()}-cache")


@pytest.fixture
def engine(small_pose: Path) -> Callable[..., bytes]:
    """Makes engines of the small network for the stand-in."""

    def make(**header: object) -> bytes:
        import fake_trt

        fake_trt.CALLS.clear()
        return fake_trt.engine_bytes(small_pose.read_bytes(), **header)

    return make


@pytest.fixture
def batch(small_spec: ModelSpec) -> np.ndarray:
    width, height = small_spec.input_wh
    return np.random.default_rng(0).standard_normal((21, 3, height, width), np.float32)


@pytest.fixture
def expected(small_pose: Path, small_spec: ModelSpec, batch: np.ndarray) -> np.ndarray:
    """What the network gives for ``batch``."""
    with OnnxRuntimeSession(small_pose, small_spec) as session:
        return session.run(batch)[0]
