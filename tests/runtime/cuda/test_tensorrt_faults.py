"""What goes wrong with an engine, and what TensorRTSession says of it, on the stand-ins."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from posedge.errors import DeviceError, GraphError, MissingExtraError, SessionError
from posedge.runtime.cuda.context import Context
from posedge.runtime.sessions.tensorrt import TensorRTSession
from posedge.runtime.spec import ModelSpec

pytestmark = pytest.mark.stand_in

Engine = Callable[..., bytes]


def test_a_refused_engine_says_what_is_here_and_what_to_do(engine: Engine, small_spec: ModelSpec) -> None:
    words = "The engine plan file is generated on an incompatible device"
    with pytest.raises(SessionError) as caught:
        TensorRTSession(engine(refuse=words), small_spec, where="out/int8.engine")
    for part in ("out/int8.engine", words, "tensorrt 10.3.0", "stand-in device", "8.6", "posedge build"):
        assert part in str(caught.value)
    with pytest.raises(SessionError, match="magicTag"):
        TensorRTSession(b"no engine at all", small_spec)


def test_an_engine_of_another_model_is_refused(engine: Engine, small_spec: ModelSpec) -> None:
    for wrong, said in (
        (replace(small_spec, input_name="picture"), "input_name is 'picture'"),
        (replace(small_spec, output_name="simcc"), "none of the engine's outputs"),
        (replace(small_spec, input_wh=(64, 64)), "by the spec it is"),
    ):
        with pytest.raises(GraphError, match=said):
            TensorRTSession(engine(), wrong)


def test_no_room_says_how_much_was_asked_and_nothing_is_left(
    engine: Engine, small_spec: ModelSpec, cuda
) -> None:
    cuda.limit(1 << 20)
    with Context() as context:
        large = engine(weights=1 << 24)
        said = rf"its file has {len(large):,} bytes, [\d,]+ of 1,048,576 are free, .* does not say how much"
        with pytest.raises(DeviceError, match=said):
            TensorRTSession(large, small_spec, context=context)
        for header in ({"workspace": 1 << 24}, {"largest": 64}):
            with pytest.raises(DeviceError, match=r"bytes were asked for, [\d,]+ of 1,048,576 are free"):
                TensorRTSession(engine(**header), small_spec, context=context)
        assert cuda.live() == {name: int(name == "contexts") for name in cuda.live()}
        TensorRTSession(engine(), small_spec, context=context).close()  # one that fits still does


def test_a_lost_device_is_said_and_the_session_closes(
    engine: Engine, small_spec: ModelSpec, batch: np.ndarray, cuda
) -> None:
    session = TensorRTSession(engine(), small_spec)
    session.run(batch[:2])
    cuda.fail("cuStreamSynchronize", 1, 700)
    with pytest.raises(DeviceError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        session.run(batch[:2])
    with pytest.raises(DeviceError, match="the device was lost"):
        session.run(batch[:2])
    session.close()
    session.close()
    cuda.lost = True


def test_a_failed_run_leaves_the_session_usable(
    engine: Engine, small_spec: ModelSpec, batch: np.ndarray, expected: np.ndarray, cuda
) -> None:
    with TensorRTSession(engine(), small_spec, graphs=0) as session:
        session.run(batch[:2])
        cuda.fail("cuLaunchHostFunc", 1, 1)
        with pytest.raises(SessionError, match=r"tensorrt 10.3.0 cannot run: it gives no reason"):
            session.run(batch[:2])
        np.testing.assert_allclose(session.run(batch[:2])[0], expected[:2], atol=1e-5)


def test_a_size_whose_setup_failed_is_set_up_again(
    engine: Engine, small_spec: ModelSpec, batch: np.ndarray, expected: np.ndarray, cuda
) -> None:
    with TensorRTSession(engine(), small_spec) as session:
        cuda.fail("cuLaunchHostFunc", 2, 1)  # in its second trial
        with pytest.raises(SessionError, match="cannot run"):
            session.run(batch[:2])
        assert session.graph_sizes == ()
        np.testing.assert_allclose(session.run(batch[:2])[0], expected[:2], atol=1e-5)
        assert session.graph_sizes == (2,)


def test_a_forked_worker_is_told_to_be_spawned(
    engine: Engine, small_spec: ModelSpec, batch: np.ndarray
) -> None:
    with TensorRTSession(engine(), small_spec) as session:
        session.run(batch[:2])
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                session.run(batch[:2])
            except DeviceError as error:
                session.close()
                os.write(write, str(error).encode())
            finally:
                os._exit(0)
        os.close(write)
        with open(read) as said:
            assert "get_context('spawn')" in said.read()
        os.waitpid(child, 0)
        session.run(batch[:2])  # the parent's still works


@pytest.mark.parametrize("own", [True, False])
def test_closing_the_context_closes_the_session(
    engine: Engine, small_spec: ModelSpec, batch: np.ndarray, cuda, own: bool
) -> None:
    session = TensorRTSession(engine(), small_spec, context=None if own else Context())
    session.run(batch[:2])
    session.context.close()
    assert not any(cuda.live().values())
    with pytest.raises(SessionError, match="the session is closed"):
        session.run(batch[:2])
    session.close()


def test_what_does_not_fit_is_refused(engine: Engine, small_spec: ModelSpec, batch: np.ndarray) -> None:
    with TensorRTSession(engine(), small_spec) as session:
        for wrong in (batch[0], batch.astype(np.float64), batch[:, :, 1:]):
            with pytest.raises(SessionError, match=r"a batch is float32 \(N, 3, 64, 48\)"):
                session.run(wrong)
        for count in (0, 9):
            with pytest.raises(SessionError, match="takes 1 to 8"):
                session.run_on_device(count)
    with pytest.raises(SessionError, match="the session is closed"):
        session.run(batch)


def test_a_library_that_is_not_there(
    engine: Engine, small_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtraError, match=r"posedge\[tensorrt-rtx\]"):
        TensorRTSession(engine(), small_spec, library="tensorrt_rtx")
    with pytest.raises(SessionError, match="is no TensorRT library"):
        TensorRTSession(engine(), small_spec, library="openvino")
