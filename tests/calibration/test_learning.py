"""Learning makes INT8's outputs nearer to float32's, and on crops that it did not learn from never worse."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from posedge.calibration.calibrate import Calibration, calibrate
from posedge.calibration.learning import KINDS, learn
from posedge.calibration.recipe import Recipe
from posedge.errors import CalibrationError
from posedge.export.graphs import load_graph, run_graph
from posedge.progress import SilentProgress

STEPS = 40


def picture(seed: int, count: int) -> NDArray[np.float32]:
    """Crops (count, 3, 16, 12) in which neighbours are alike."""
    noise = np.random.default_rng(seed).normal(size=(count, 3, 4, 3)).astype(np.float32)
    return noise.repeat(4, 2).repeat(4, 3)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stem, a residual block and a head."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[n, 3, 16, 12] x) => (float[n, 4, 8, 6] y) {'
        "a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w1, b1) r = Relu(a)"
        "c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2) s = Relu(c) d = Conv <pads = [1, 1, 1, 1]> (s, w3)"
        "e = Add(d, r) t = Relu(e) y = Conv(t, w4, b4) }"
    )
    rng = np.random.default_rng(0)
    shapes = {"w1": (12, 3, 3, 3), "w2": (12, 12, 3, 3), "w3": (12, 12, 3, 3), "w4": (4, 12, 1, 1)}
    for name, shape in shapes.items():
        value = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    for name, size in {"b1": 12, "b2": 12, "b4": 4}.items():
        value = rng.normal(0, 0.1, size).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    path = tmp_path_factory.mktemp("learning") / "net.onnx"
    onnx.save(model, path)
    return path


def distance(graph: Path, calibration: Calibration, crops: NDArray[np.float32]) -> float:
    """The mean distance of onnxruntime's INT8 outputs from its float32 outputs, over their size."""
    model, quantized = load_graph(graph), calibration.quantized()
    found = []
    for crop in crops[:, None]:
        (expected,), (actual,) = run_graph(model, crop).values(), run_graph(quantized, crop).values()
        found.append([np.square(actual - expected).sum(), np.square(expected).sum()])
    errors, sizes = np.transpose(found)
    return float(np.sqrt(errors / sizes.mean()).mean())


@pytest.fixture(scope="module")
def crops(residual_crops: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return picture(5, 24)


@pytest.fixture(scope="module")
def start(net: Path, crops: NDArray[np.float32]) -> Calibration:
    return calibrate(net, [crops])


def shifted(start: Calibration) -> Calibration:
    """The start with biases that are off, as after a bad correction."""
    rng = np.random.default_rng(2)
    shifts = {
        layer: change + rng.normal(0, 0.02, len(change)) for layer, change in start.corrections().items()
    }
    return replace(start, rounded=replace(start.rounded, bias_changes=shifts))


def disturbed(start: Calibration) -> Calibration:
    """The start with every tenth level one too high."""
    weights = {}
    for name, array in start.rounded.weights.items():
        values = array.values.copy()
        values.reshape(-1)[::10] = np.minimum(values.reshape(-1)[::10], 126) + 1
        weights[name] = replace(array, values=values)
    return replace(start, rounded=replace(start.rounded, weights=weights))


@pytest.mark.parametrize(("harm", "kinds"), [(shifted, ("biases",)), (disturbed, ("levels",))])
def test_what_calibration_did_badly_is_mended_for_crops_that_were_never_seen(
    harm: Callable[[Calibration], Calibration],
    kinds: tuple[str, ...],
    net: Path,
    start: Calibration,
    crops: NDArray[np.float32],
) -> None:
    harmed = harm(start)
    others = picture(6, 16)
    before, after, good = (
        distance(net, found, others)
        for found in (harmed, learn(harmed, [crops[:10], crops[10:]], steps=80, kinds=kinds), start)
    )
    assert before > 1.1 * good, "nothing was harmed"
    assert after - good < 0.75 * (before - good)


def test_what_is_learned_and_what_stays(start: Calibration, crops: NDArray[np.float32]) -> None:
    start = disturbed(shifted(start))
    learned = learn(start, [crops], steps=100, kinds=KINDS)
    assert learned.model is start.model
    assert learned.placement() == start.placement()
    old, new = start.table, learned.table
    assert replace(new, tensors=old.tensors) == old
    for name, found in new.tensors.items():
        assert replace(found, amax=old.tensors[name].amax) == old.tensors[name]
        assert 0.5 * old.tensors[name].amax < found.amax < 2 * old.tensors[name].amax
    assert any(found.amax != old.tensors[name].amax for name, found in new.tensors.items())
    moved = 0
    for name, array in start.rounded.weights.items():
        levels = learned.rounded.weights[name]
        np.testing.assert_array_equal(levels.scale, array.scale)
        steps = np.abs(levels.values.astype(int) - array.values)
        assert steps.max() <= 1
        moved += np.count_nonzero(steps)
    assert 0 < moved < 0.2 * sum(array.values.size for array in start.rounded.weights.values())


def test_it_is_never_worse_than_its_start_on_crops_held_out(net: Path, crops: NDArray[np.float32]) -> None:
    """Crops to learn from that are nothing like those held out: what suits the ones harms the others."""
    crops = crops.copy()
    held = np.arange(len(crops)) % 8 == 7
    crops[~held] = np.float32(0.01) * crops[~held] + np.float32(1)
    start = calibrate(net, [crops])
    for seed in range(3):
        learned = learn(start, [crops], steps=STEPS, seed=seed, kinds=KINDS)
        before, after = (distance(net, found, crops[held]) for found in (start, learned))
        assert after <= before * 1.001  # onnxruntime may round the middle of two levels otherwise than torch


def test_no_step_gives_the_start(start: Calibration, crops: NDArray[np.float32]) -> None:
    same = learn(start, [crops], steps=0)
    assert same.quantized() == start.quantized()


def test_equal_seeds_give_equal_graphs_and_others_do_not(
    start: Calibration, crops: NDArray[np.float32]
) -> None:
    harmed = shifted(start)
    first, again, other = (learn(harmed, [crops], steps=10, seed=seed).quantized() for seed in (0, 0, 1))
    assert again == first
    assert other != first


def test_the_recipe_learns_from_the_same_crops(
    net: Path, start: Calibration, crops: NDArray[np.float32]
) -> None:
    notes: list[str] = []

    class Notes(SilentProgress):
        def note(self, text: str) -> None:
            notes.append(text)

    # an iterator: the crops come once
    found = calibrate(net, iter([crops[:4], crops[4:8]]), Recipe(learned=True), progress=Notes())
    (note,) = notes
    assert "error on 1 crop held out was" in note
    assert found.table.crops == 8
    assert found.placement() == start.placement()


def test_biases_are_learned_where_they_are_not_corrected(net: Path, crops: NDArray[np.float32]) -> None:
    crops = np.abs(crops)  # with a mean that rounded weights change
    start = calibrate(net, [crops], Recipe(rounded=False, corrected=False))
    assert not start.corrections()
    learned = learn(start, [crops], steps=STEPS)
    in_int8 = {site.node for site in learned.placement().weights}
    assert set(learned.corrections()) == in_int8
    assert all(np.any(change) for change in learned.corrections().values())
    before, after = (distance(net, found, crops[7::8]) for found in (start, learned))
    assert after < before


def test_too_few_crops_are_refused(start: Calibration, crops: NDArray[np.float32]) -> None:
    with pytest.raises(CalibrationError, match="7 crops are too few to learn from: 8 are needed"):
        learn(start, [crops[:7]])
    with pytest.raises(CalibrationError, match="0 crops are too few"):
        learn(start, [])


def test_an_unknown_operator_is_named_before_any_crop_is_run(tmp_path: Path) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[n, 3, 8, 8] x) => (float[n, 4, 8, 8] y)'
        "{ a = Conv(x, w) y = Erf(a) }"
    )
    weights = np.ones((4, 3, 1, 1), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    onnx.save(model, tmp_path / "erf.onnx")

    def never():
        pytest.fail("a crop was asked for")
        yield np.zeros((1, 3, 8, 8), np.float32)

    with pytest.raises(CalibrationError, match=r"does not know the operator Erf \(y\)"):
        calibrate(tmp_path / "erf.onnx", never(), Recipe(learned=True))
