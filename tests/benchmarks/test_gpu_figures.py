"""Figures of the GPU benchmark: when a target is met, when it counts, and what is said of it."""

import numpy as np
import pytest

from posedge.benchmarks.gpu.figures import Check, Target, figure_record, table
from posedge.benchmarks.gpu.scenes import crops_of, draw_boxes, draw_frame, exact_batch, pixels_read
from posedge.runtime.preprocess import Preprocessor
from posedge.runtime.spec import ModelSpec

CEILING = Target("time", 1.5, True, "of its bytes")
FLOOR = Target("speed", 5, False, "times")


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [(CEILING, 1.5, True), (CEILING, 1.6, False), (FLOOR, 5.0, True), (FLOOR, 4.9, False)],
)
def test_a_target_is_met_or_not(target: Target, value: float, met: bool) -> None:
    figure = target.measured(value, {"us": 3.0})
    assert figure.met is met
    record = figure_record(figure, None)
    assert (record["met"], record["counts"], record["value"]) == (met, True, value)
    assert ("NOT met" in table([], [figure], None)) is not met


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    figure = FLOOR.not_measured("there is no network here")
    record = figure_record(figure, None)
    assert (record["met"], record["counts"], record["value"]) == (None, False, None)
    assert record["not_measured"] == "there is no network here"
    assert "not measured (at least 5): there is no network here" in table([], [figure], None)


def test_figures_of_a_stand_in_never_count() -> None:
    figure = CEILING.measured(1.0, {})
    record = figure_record(figure, "of a stand-in")
    assert (record["met"], record["counts"]) == (None, False)
    said = table([Check("warp", 1e-4, 1e-3, "levels")], [figure], "of a stand-in")
    assert "figures (of a stand-in)" in said
    assert "does not count" in said


@pytest.mark.parametrize(("largest", "passed"), [(0.0, True), (1.0, True), (1.1, False), (np.nan, False)])
def test_a_check_passes_within_its_limit_and_never_with_nan(largest: float, passed: bool) -> None:
    assert Check("warp", largest, 1.0, "levels").passed is passed


def test_the_exact_batch_is_what_the_cpu_makes_before_rounding() -> None:
    spec = ModelSpec("small", input_wh=(48, 64))
    frame, boxes = draw_frame((160, 90)), np.float32([[20, 10, 60, 80], [-30, -20, 200, 120]])
    exact = exact_batch(frame, *crops_of(boxes, spec), spec)
    found = Preprocessor(spec)(frame, boxes).batch
    level = 1 / min(spec.std)
    assert np.abs(found - exact).max() < 0.6 * level


def test_pixels_are_counted_once() -> None:
    """A box that is magnified reads each pixel of its crop, whoever else reads it too."""
    spec = ModelSpec("small", input_wh=(48, 64), box_padding=1.0)
    frame = draw_frame((160, 90))
    box = np.float32([[10, 10, 34, 42]])  # half the input's size
    once = pixels_read(frame, *crops_of(box, spec), spec)
    assert once == 25 * 33  # the last sample lies between two pixels
    assert pixels_read(frame, *crops_of(box.repeat(3, axis=0), spec), spec) == once
    apart = np.concatenate([box, box + np.float32([60, 0, 60, 0])])
    assert pixels_read(frame, *crops_of(apart, spec), spec) == 2 * once


def test_a_crop_that_is_reduced_does_not_read_every_pixel() -> None:
    spec = ModelSpec("small", input_wh=(3, 4), box_padding=1.0)
    frame = draw_frame((160, 90))
    box = np.float32([[10, 10, 58, 74]])  # sixteen pixels of the frame for one of the crop
    assert pixels_read(frame, *crops_of(box, spec), spec) <= 4 * 3 * 4


def test_boxes_are_inside_the_frame() -> None:
    boxes = draw_boxes(50, (640, 360))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [640, 360]).all()
