"""The child of a build: crashes, hangs, Ctrl-C and full disks leave a clear error and nothing else."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import onnx
import pytest
from onnx import helper

from posedge.engines import BuildOptions, build_engine
from posedge.engines.child import WorkerCrash, run_worker
from posedge.engines.messages import BuildRequest, Event
from posedge.errors import BuildError, OutputError

pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")

WORKER = b"posedge.engines.worker"
BUILD = """
import sys
from pathlib import Path
from posedge.engines import build_engine
build_engine(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def request(graph: Path, output: Path) -> BuildRequest:
    return BuildRequest(str(graph), str(output), ("tensorrt_rtx",), BuildOptions(), os.getpid())


def builds(process: int) -> list[int]:
    """Process ids of the builds that a process has under way (none when it is gone).

    Other children are not counted: libraries that earlier tests used may have left helpers of their own.
    """
    found = []
    for listing in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += [child for child in map(int, listing.read_text().split()) if is_build(child)]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def is_build(process: int) -> bool:
    """Whether a process runs the worker; one that has ended and was not waited for counts too."""
    command = Path(f"/proc/{process}/cmdline").read_bytes()
    return WORKER in command.split(b"\0") or not alive(process)


def alive(process: int) -> bool:
    """Whether a process still runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


@pytest.fixture
def crashing(conv_chain, saved) -> Path:
    """A graph whose last node has no outputs: TensorRT-RTX 1.7.1 dereferences a null pointer."""
    model = conv_chain()
    model.graph.node.append(helper.make_node("Relu", ["input"], [], "culprit"))
    return saved(model)


@pytest.fixture
def endless(conv_chain, saved) -> Path:
    """A sound graph of 20,000 nodes, on which the parser works for minutes."""
    return saved(conv_chain(layers=10_000))


def test_a_crash_names_the_signal_and_the_node(crashing, out):
    with pytest.raises(BuildError, match=r"crashed \(SIGSEGV\), while it parsed the node culprit \[Relu\]"):
        run_worker(request(crashing, out / "model.engine"), 60)
    assert builds(os.getpid()) == []


def without_outputs(conv_chain) -> onnx.ModelProto:
    model = conv_chain()
    model.graph.node.append(helper.make_node("Constant", [], [], "culprit"))
    return model


def function_that_calls(name: str, conv_chain) -> onnx.ModelProto:
    """A graph with the functions F and G; F calls the one of that name, G calls F."""
    model = conv_chain()
    model.graph.node.append(helper.make_node("F", ["input"], ["called"], "call", domain="local"))
    own = helper.make_opsetid("local", 1)
    model.opset_import.append(own)
    for caller, callee in (("F", name), ("G", "F")):
        call = helper.make_node(callee, ["a"], ["b"], "call", domain="local")
        model.functions.append(helper.make_function("local", caller, ["a"], ["b"], [call], [own]))
    return model


def computed_scale(conv_chain) -> onnx.ModelProto:
    """The scale depends on the image; one that is computed from constants is folded and builds."""
    model = conv_chain("int8", layers=1)
    model.graph.node.insert(0, helper.make_node("ReduceMax", ["input"], ["computed"], "max", keepdims=0))
    for node in model.graph.node:
        if node.name in ("quantize0", "dequantize0"):
            node.input[1] = "computed"
    return model


@pytest.mark.parametrize(
    "crash",
    [without_outputs, partial(function_that_calls, "F"), partial(function_that_calls, "G"), computed_scale],
    ids=[
        "node without outputs",
        "function that calls itself",
        "functions that call each other",
        "computed scale",
    ],
)
def test_every_known_way_to_crash_the_library_is_an_error_and_linted(crash, conv_chain, saved, out):
    graph = saved(crash(conv_chain))
    with pytest.raises(WorkerCrash, match="SIGSEGV"):
        run_worker(request(graph, out / "model.engine"), 60)
    with pytest.raises(BuildError, match="not fit to be built"):
        build_engine(graph, out / "model.engine")
    assert os.listdir(out) == []


def test_lint_refuses_the_graph_that_crashes_the_parser(crashing, out):
    with pytest.raises(BuildError, match="node-without-outputs at 'culprit'"):
        build_engine(crashing, out / "model.engine")
    assert os.listdir(out) == []


def test_a_hanging_build_is_stopped_by_its_time_limit(endless, out):
    with pytest.raises(BuildError, match=r"stopped after its time limit of 2 s, .* simplify it"):
        build_engine(endless, out / "model.engine", time_limit_s=2)
    assert builds(os.getpid()) == []
    assert os.listdir(out) == []


def test_a_child_killed_from_outside_points_to_the_memory(endless, out):
    def kill(event: Event) -> None:
        for child in builds(os.getpid()):
            os.kill(child, signal.SIGKILL)

    with pytest.raises(BuildError, match=r"crashed \(SIGKILL\).*memory runs out"):
        run_worker(request(endless, out / "model.engine"), 60, kill)


def test_an_exception_in_the_listener_ends_the_child(endless, out):
    def fail(event: Event) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_worker(request(endless, out / "model.engine"), 60, fail)
    assert builds(os.getpid()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_child_ends_with_its_parent(number, endless, out):
    """Ctrl-C also removes the half-written file; a parent that is killed has no time for that."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = [sys.executable, "-c", BUILD, endless, out / "model.engine"]
    with subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, text=True) as parent:
        try:
            wait_for(lambda: builds(parent.pid) or parent.poll() is not None, "the child")
            (child,) = builds(parent.pid)
            # wait until it is inside the library, which swallows what callbacks raise
            wait_for(lambda: "tensorrt_rtx" in Path(f"/proc/{child}/maps").read_text(), "the library")
            parent.send_signal(number)
            said = parent.communicate(timeout=30)[1]
        finally:
            parent.kill()
    wait_for(lambda: not alive(child), "the end of the child")
    assert not (out / "model.engine").exists()
    if number == signal.SIGINT:
        assert said.strip().endswith("KeyboardInterrupt")
        assert os.listdir(out) == []


def test_a_full_device_is_reported_with_its_errno(conv_chain, saved):
    with pytest.raises(OSError) as caught:
        run_worker(request(saved(conv_chain()), Path("/dev/full")), 60)
    assert caught.value.errno == errno.ENOSPC


def test_a_full_disk_is_an_output_error(conv_chain, saved, out, tmp_path):
    """A file system of 64 KiB, in a mount namespace of its own, for an engine of 280 KiB."""
    inside = "mount -t tmpfs -o size=64k none " + str(out)
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*namespace, inside], capture_output=True).returncode
    ):
        pytest.skip("this machine allows no mount namespaces")
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    finished = subprocess.run(
        [*namespace, f'{inside} && "$@"; status=$?; ls -A {out}; exit $status', "sh",
         sys.executable, script, saved(conv_chain()), out / "model.engine"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip
    assert finished.returncode == 1
    assert "OutputError" in finished.stderr
    assert "the disk is full" in finished.stderr
    assert finished.stdout == ""  # nothing is left there


def test_a_limit_on_file_sizes_is_an_output_error(conv_chain, saved, out):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    graph = saved(conv_chain())
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"model\.engine: cannot be written \(File too large\)"):
            build_engine(graph, out / "model.engine")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(out) == []


def test_a_child_that_ends_without_a_word_is_a_build_error(conv_chain, saved, out, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(BuildError, match=r"without a result \(exit status 1\), before it came to the graph"):
        build_engine(saved(conv_chain()), out / "model.engine")


def test_a_child_that_cannot_start_is_a_build_error(conv_chain, saved, out, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(out / "no-python"))
    with pytest.raises(BuildError, match="cannot be started"):
        build_engine(saved(conv_chain()), out / "model.engine")
    assert os.listdir(out) == []
