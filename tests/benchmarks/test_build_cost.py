"""The program that measures builds: its figures are there, and what goes wrong is told."""

from pathlib import Path

import onnx
import pytest

from posedge.benchmarks.build_cost import main
from posedge.engines.probe import probe_graph


def test_a_build_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    onnx.save(probe_graph("int8"), tmp_path / "probe.onnx")
    assert main([str(tmp_path / "probe.onnx"), "--flavour", "tensorrt_rtx", "--repeats", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("command  python -m posedge.benchmarks.build_cost ")
    wall, build, child, parent, total = map(float, lines[4].split())
    assert wall >= build >= 0
    assert child > 0
    assert parent > 0
    assert total == pytest.approx(child + parent, abs=2)
    assert lines[5] == f"median wall {wall:.1f} s, largest sum {total:.0f} MB"


def test_a_graph_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "absent.onnx"), "--repeats", "1"]) == 1
    assert "absent.onnx" in capsys.readouterr().err
