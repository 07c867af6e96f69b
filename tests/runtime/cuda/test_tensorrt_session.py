"""TensorRTSession on stand-ins for TensorRT and libcuda, against the same network in onnxruntime."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from posedge.errors import SessionError
from posedge.runtime.cuda.context import Context
from posedge.runtime.cuda.memory import DeviceBuffer
from posedge.runtime.cuda.streams import Stream
from posedge.runtime.cuda.workspace import Workspace
from posedge.runtime.sessions.tensorrt import TensorRTSession
from posedge.runtime.spec import ModelSpec

pytestmark = pytest.mark.stand_in

Engine = Callable[..., bytes]


@pytest.fixture(params=["8.6.2", "10.0.1", "10.3.0", "10.16.2", "11.4.1", "rtx"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, cuda) -> Iterator[str]:
    """Each kind of API, under the name by which it is imported."""
    if cuda is not None and request.param != "rtx":
        import fake_trt

        monkeypatch.setitem(sys.modules, "tensorrt", fake_trt.build(request.param))
    return "tensorrt_rtx" if request.param == "rtx" else "tensorrt"


def test_every_version_gives_what_the_network_gives(
    engine: Engine, small_spec: ModelSpec, batch: np.ndarray, expected: np.ndarray, library: str
) -> None:
    with TensorRTSession(engine(), small_spec, library=library) as session:
        assert (session.min_batch, session.max_batch, session.simulated) == (1, 8, False)
        for count in (1, 3, 8, 0, 21, 3):  # 21 runs as 8, 8 and 5
            (maps,) = session.run(batch[:count])
            assert maps.dtype == np.float32
            assert maps.shape == (count, 17, 16, 12)
            np.testing.assert_allclose(maps, expected[:count], atol=1e-5)
        if library == "tensorrt":
            assert session.graph_sizes == (1, 3, 5, 8)
            assert session.no_graphs is None
        else:
            assert session.graph_sizes == ()
            assert session.no_graphs == "tensorrt_rtx 1.7.1 captures CUDA graphs itself"


def test_float16_engines_take_and_give_float32(
    engine: Engine, small_spec: ModelSpec, batch: np.ndarray, expected: np.ndarray
) -> None:
    with TensorRTSession(engine(half=True), small_spec) as session:
        assert session.input_tensor.half
        assert session.input.size == 8 * 3 * 64 * 48 * 2
        (maps,) = session.run(batch)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, atol=2e-2)


def test_batches_below_the_smallest_are_padded(
    engine: Engine, small_spec: ModelSpec, batch: np.ndarray, expected: np.ndarray
) -> None:
    with TensorRTSession(engine(smallest=4), small_spec) as session:
        (maps,) = session.run(batch[:9])  # 8, and 1 as 4
        np.testing.assert_allclose(maps, expected[:9], atol=1e-5)
        assert session.graph_sizes == (4, 8)


def test_nothing_is_allocated_or_set_up_after_warm_up(
    engine: Engine, small_spec: ModelSpec, batch: np.ndarray, cuda
) -> None:
    import fake_trt

    with TensorRTSession(engine(), small_spec) as session:
        session.warmup([1, 5, 8])
        before, executed = cuda.live(), len(fake_trt.CALLS)
        allocations = [cuda.calls(name) for name in ("cuMemAlloc", "cuMemHostAlloc", "cuGraphInstantiate")]
        for _ in range(20):
            session.run(batch)  # 8, 8 and 5
            session.run(batch[:1])
        assert cuda.live() == before
        assert allocations == [
            cuda.calls(name) for name in ("cuMemAlloc", "cuMemHostAlloc", "cuGraphInstantiate")
        ]
        assert len(fake_trt.CALLS) == executed  # graphs ran, TensorRT was not called


def test_one_batch_is_one_upload_one_graph_and_one_download(
    engine: Engine, small_spec: ModelSpec, batch: np.ndarray, cuda
) -> None:
    with TensorRTSession(engine(), small_spec) as session:
        session.run(batch[:4])
        cuda.clear_log()
        session.run(batch[:4])
        calls = [name for name in cuda.log() if not name.startswith(("cuCtx", "cuLaunchHostFunc"))]
    assert calls == ["cuMemcpyHtoDAsync", "cuGraphLaunch", "cuMemcpyDtoHAsync", "cuStreamSynchronize"]


def test_outputs_stay_on_the_device(
    engine: Engine, small_spec: ModelSpec, batch: np.ndarray, expected: np.ndarray
) -> None:
    with Context() as context, Stream(context) as stream:
        with TensorRTSession(engine(), small_spec, context=context, stream=stream) as session:
            places = session.input.address, session.outputs[0].address
            session.input.upload(batch[:5], stream=stream)
            session.run_on_device(5)
            maps = np.empty((5, *session.output_tensors[0].shape), np.float32)
            session.outputs[0].download(maps, stream=stream)
            stream.synchronize()
            np.testing.assert_allclose(maps, expected[:5], atol=1e-5)
            session.run(batch)
            assert places == (session.input.address, session.outputs[0].address)
        assert not context.closed  # they are the caller's
        stream.synchronize()


def test_a_callers_graph_holds_the_engine(
    engine: Engine, small_spec: ModelSpec, batch: np.ndarray, expected: np.ndarray
) -> None:
    with (
        Context() as context,
        Stream(context) as stream,
        TensorRTSession(engine(), small_spec, context=context, stream=stream) as session,
    ):
        with pytest.raises(SessionError, match=r"call warmup\(\[2\]\)"):
            session.enqueue(2, stream=stream)
        session.warmup([2])
        maps = np.empty((2, 17, 16, 12), np.float32)

        def whole() -> None:
            session.input.upload(batch[:2], stream=stream)
            session.enqueue(2, stream=stream)
            session.outputs[0].download(maps, stream=stream)

        with stream.capture(whole) as graph:
            graph.launch(stream)
            stream.synchronize()
        np.testing.assert_allclose(maps, expected[:2], atol=1e-5)


def test_a_library_that_captures_itself_is_not_captured(engine: Engine, small_spec: ModelSpec) -> None:
    with TensorRTSession(engine(), small_spec, library="tensorrt_rtx") as session:
        session.warmup([1])
        with pytest.raises(SessionError, match="captures CUDA graphs itself"):
            session.enqueue(1, stream=session.stream)


def test_an_engine_that_cannot_be_captured_runs_without_graphs(
    engine: Engine, small_spec: ModelSpec, batch: np.ndarray, expected: np.ndarray
) -> None:
    with TensorRTSession(engine(waits=True), small_spec) as session:
        (maps,) = session.run(batch[:3])
        np.testing.assert_allclose(maps, expected[:3], atol=1e-5)
        assert session.graph_sizes == ()
        assert str(session.no_graphs).startswith("a capture was refused: ")
        session.run(batch)


def test_smaller_batches_are_padded_only_where_that_is_measured_faster(
    engine: Engine, small_spec: ModelSpec, batch: np.ndarray, expected: np.ndarray
) -> None:
    import fake_trt

    # by the stand-in's clock a graph is one operation and plain work of any size is two
    with TensorRTSession(engine(), small_spec, graphs=1) as session:
        session.warmup([4])
        (maps,) = session.run(batch[:3])
        np.testing.assert_allclose(maps, expected[:3], atol=1e-5)
        done = len(fake_trt.CALLS)
        session.run(batch[:3])
        assert len(fake_trt.CALLS) == done  # replayed as 4
        session.run(batch[:6])
        session.run(batch[:6])
        assert fake_trt.CALLS[-1] == ("execute", 6)  # nothing larger is captured
        assert session.graph_sizes == (4,)
    with TensorRTSession(engine(), small_spec, graphs=0) as session:
        session.warmup([4])
        session.run(batch[:3])
        assert session.graph_sizes == ()
        assert session.no_graphs == "CUDA graphs were not asked for"


def test_sessions_share_the_memory_that_they_work_in(
    engine: Engine, small_spec: ModelSpec, batch: np.ndarray, expected: np.ndarray, cuda
) -> None:
    with Context() as context, Workspace(context) as workspace:
        small, large = engine(workspace=1000), engine(workspace=300_000)
        with TensorRTSession(small, small_spec, context=context, workspace=workspace) as first:
            assert workspace.size == 1000
            first.run(batch[:4])
            generation = workspace.generation
            with TensorRTSession(large, small_spec, context=context, workspace=workspace) as second:
                assert workspace.size == 300_000
                assert workspace.generation == generation + 1
                for session in (first, second, first):  # the first is captured anew: its memory has moved
                    (maps,) = session.run(batch[:4])
                    np.testing.assert_allclose(maps, expected[:4], atol=1e-5)
                assert first.graph_sizes == second.graph_sizes == (4,)
                waits = cuda.calls("cuStreamWaitEvent")
                first.run(batch[:4])
                second.run(batch[:4])
                assert cuda.calls("cuStreamWaitEvent") == waits + 1  # the second waits for the first


def test_the_runtime_cache_is_kept_and_read_again(
    engine: Engine, small_spec: ModelSpec, tmp_path: Path
) -> None:
    import fake_trt

    cache = tmp_path / "kernels.cache"
    with TensorRTSession(engine(), small_spec, library="tensorrt_rtx", cache=cache) as session:
        session.warmup([1])
    assert cache.read_bytes() == b"kernels"
    with TensorRTSession(engine(), small_spec, library="tensorrt_rtx", cache=cache):
        assert fake_trt.CALLS == [("cache", b"kernels")]
    cache.write_bytes(b"of another version")
    with TensorRTSession(engine(), small_spec, library="tensorrt_rtx", cache=cache) as session:
        session.warmup([1])
    assert cache.read_bytes() == b"kernels"


def test_threads_take_turns(
    engine: Engine, small_spec: ModelSpec, batch: np.ndarray, expected: np.ndarray
) -> None:
    results: dict[int, np.ndarray] = {}
    with TensorRTSession(engine(), small_spec) as session:

        def work(first: int) -> None:
            for _ in range(5):
                results[first] = session.run(batch[first : first + 3])[0]

        threads = [threading.Thread(target=work, args=(first,)) for first in (0, 3, 6, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for first, maps in results.items():
        np.testing.assert_allclose(maps, expected[first : first + 3], atol=1e-5)
    assert len(results) == 4


def test_a_buffer_of_the_caller_survives_the_session(
    engine: Engine, small_spec: ModelSpec, batch: np.ndarray
) -> None:
    with Context() as context, DeviceBuffer(context, 64) as buffer:
        with TensorRTSession(engine(), small_spec, context=context) as session:
            session.run(batch[:1])
        assert not buffer.closed
