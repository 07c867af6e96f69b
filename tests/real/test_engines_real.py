"""Engines of a real trained network."""

import pytest

from posedge.engines import BatchProfile, build_engine
from posedge.engines.lint import lint_file

pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")


def test_pp_tinypose_becomes_an_engine(tinypose, tmp_path):
    """1,035 nodes of opset 13, with Split, Resize and channel shuffles by Reshape and Transpose."""
    assert lint_file(tinypose) == []
    engine = tmp_path / "tinypose.engine"
    result = build_engine(tinypose, engine, BatchProfile(1, 8, 32))
    content = engine.read_bytes()
    assert content.startswith(b"vtrt")
    assert result.engine_bytes == len(content) > tinypose.stat().st_size
    # the library names the input's and the output's shapes in the engine
    assert b"heatmaps" in content
    assert result.seconds > 0
