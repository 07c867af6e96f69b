"""A calibration read back from its files is the one that wrote them."""

from dataclasses import replace
from pathlib import Path

import pytest

from posedge.calibration.calibrate import calibrate
from posedge.calibration.recipe import DEFAULT
from posedge.calibration.reread import read_calibration
from posedge.errors import CalibrationError
from posedge.export.graphs import load_graph, save_graph


def files(directory: Path) -> tuple[Path, Path]:
    return directory / "calibration.json", directory / "int8.onnx"


@pytest.mark.parametrize("changes", [{}, {"rounded": False}, {"corrected": False}, {"equalized": False}])
def test_what_is_read_back_gives_the_same_graph(
    residual_net: Path, residual_crops, tmp_path: Path, changes: dict[str, bool]
) -> None:
    written = calibrate(residual_net, residual_crops[:1], replace(DEFAULT, **changes))
    table, int8 = files(tmp_path)
    written.table.save(table)
    save_graph(written.quantized(), int8)
    found = read_calibration(residual_net, table, int8)
    assert found.table == written.table
    assert found.quantized() == load_graph(int8)
    # and so do the layers one by one
    layers = [site.node for site in written.placement().weights]
    assert found.quantized(layers[1:]) == written.quantized(layers[1:])


def test_files_that_do_not_belong_together_are_refused(
    residual_net: Path, residual_crops, tmp_path: Path
) -> None:
    written = calibrate(residual_net, residual_crops[:1])
    table, int8 = files(tmp_path)
    written.table.save(table)
    layers = [site.node for site in written.placement().weights]
    save_graph(written.quantized(layers[:1]), int8)
    with pytest.raises(CalibrationError, match=r"is not in INT8 there.*Calibrate again"):
        read_calibration(residual_net, table, int8)
    with pytest.raises(CalibrationError, match="belongs to another graph"):
        read_calibration(int8, table, int8)
