"""The decoding kernels against the CPU's decoders, which the reference fixtures hold to the originals."""

import itertools
import json

import numpy as np
import pytest

from posedge.errors import DataError, GraphError
from posedge.runtime.cuda.decode import Decoder
from posedge.runtime.joints import find_joints
from posedge.runtime.spec import COCO_FLIP_PAIRS, ModelSpec

SIZES = [(48, 64), (7, 5), (2, 3), (1, 1)]
TYPES = [np.float32, np.float16]
CODECS = ["msra", "unbiased", "megvii"]
# numpy says on the CPU what a map of NaN or infinity is; the kernels say nothing
quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def heatmap_spec(codec, size=(48, 64), joints=17, pairs=COCO_FLIP_PAIRS, shift=True, blur=11):
    return ModelSpec(
        codec,
        heatmap_wh=size,
        codec=codec,
        num_joints=joints,
        flip_pairs=pairs,
        flip_shift=shift,
        blur_kernel=blur,
    )


def grid_rectangle(count, spec):
    """Centre and scale for which image pixels are pixels of the maps (or of SimCC's input)."""
    grid = np.array(spec.input_wh if spec.codec == "simcc" else spec.heatmap_wh, np.float32)
    return np.tile(grid / 2, (count, 1)), np.tile(grid, (count, 1))


def rectangles(count, seed=0):
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, 900, (count, 2)).astype(np.float32)
    return centre, rng.uniform(30, 700, (count, 2)).astype(np.float32)


def peaks(count, spec, seed=0):
    """Maps as networks make them: a Gaussian a joint, and noise around zero."""
    rng = np.random.default_rng(seed)
    width, height = spec.heatmap_wh
    x, y = (
        rng.uniform(-2, width + 2, (count, spec.num_joints)),
        rng.uniform(-2, height + 2, (count, spec.num_joints)),
    )
    across = (np.arange(width) - x[..., None]) ** 2
    down = (np.arange(height) - y[..., None]) ** 2
    maps = (
        np.exp(-(down[..., :, None] + across[..., None, :]) / 8)
        * rng.uniform(0.1, 1, x.shape)[..., None, None]
    )
    maps += rng.normal(0, 0.003, maps.shape)
    return (maps * (255 if spec.codec == "megvii" else 1)).astype(np.float32)


def odd_maps(width, height):
    """Maps (M, height, width) at which decoders part: ties, borders, nothing found, not numbers."""
    rng = np.random.default_rng(1)
    found = [np.zeros((height, width)), np.full((height, width), -0.5), np.full((height, width), 0.25)]
    found += [np.full((height, width), value) for value in (np.nan, np.inf, -np.inf)]
    found += [rng.integers(-2, 3, (height, width)) / 4 for _ in range(8)]  # many ties
    found += [rng.normal(size=(height, width)) for _ in range(4)]
    for y, x in itertools.product(
        *({0, 1, 2, side // 2, side - 3, side - 2, side - 1} for side in (height, width))
    ):
        if not (0 <= y < height and 0 <= x < width):
            continue
        single = np.zeros((height, width))
        single[y, x] = 0.75  # all zero but one: the unbiased decoder's floor
        found.append(single)
        found.append(single - 0.125)  # one positive among negative: Megvii's rescaling turns the sign
    balanced = np.zeros((height, width))  # blurred it has no positive pixel, and zeros
    balanced[: min(3, height), : min(3, width)] = -1
    balanced[min(1, height - 1), min(1, width - 1)] = 0.5
    found.append(balanced)
    for value in (np.nan, np.inf, -np.inf):
        spoiled = rng.normal(size=(height, width))
        spoiled[height // 2, width // 2] = value
        found.append(spoiled)
    return np.array(found)


def compare(kernels, spec, outputs, mirrored=(), rectangle=None, atol=1e-4):
    """Decode on both sides; NaN must be where NaN is."""
    centre, scale = rectangle or grid_rectangle(len(outputs[0]), spec)
    expected, expected_scores = find_joints(tuple(outputs), tuple(mirrored) or None, spec, centre, scale)
    keypoints, scores = kernels.decode(spec, outputs, centre, scale, mirrored)
    np.testing.assert_allclose(keypoints, expected, rtol=0, atol=atol)
    np.testing.assert_array_equal(scores, expected_scores)
    return keypoints


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("codec", CODECS)
def test_peaks(kernels, codec, dtype):
    spec = heatmap_spec(codec)
    maps = peaks(6, spec).astype(dtype)
    found = compare(kernels, spec, [maps])
    assert (found % 1 != 0).any(), "no decoder stops at whole pixels"


@pytest.mark.parametrize("codec", CODECS)
def test_image_coordinates(kernels, codec):
    spec = heatmap_spec(codec)
    # 700 pixels of image for 48 of a map, and float32's last digit at 1000
    compare(kernels, spec, [peaks(6, spec)], rectangle=rectangles(6), atol=2e-3)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("codec", ["msra", "megvii"])
@quiet
def test_odd_maps(kernels, codec, size, dtype):
    maps = odd_maps(*size).astype(dtype)[None]
    compare(kernels, heatmap_spec(codec, size, maps.shape[1], ()), [maps])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("blur", [5, 11])
@quiet
def test_odd_maps_of_the_unbiased_decoder(kernels, size, dtype, blur):
    # without the last: one -inf far from the peak makes NaN of the CPU's matrix product, and of nothing else
    maps = odd_maps(*size)[:-1].astype(dtype)[None]
    compare(kernels, heatmap_spec("unbiased", size, maps.shape[1], (), blur=blur), [maps])


@pytest.mark.parametrize("codec", ["msra", "megvii"])
def test_a_symmetric_peak_is_moved_to_no_side(kernels, codec):
    """Both neighbours of the peak must be rounded alike."""
    half = np.random.default_rng(3).uniform(0, 1, (1, 50, 15, 7)).astype(np.float32)
    half[..., 5:10, 6] += 4  # so that the blurred peak is in the middle too
    half[..., 7, 6] += 4
    maps = np.concatenate([half, half[..., -2::-1]], axis=3)
    maps += maps[..., ::-1, :]
    found = compare(kernels, heatmap_spec(codec, (13, 15), 50, ()), [maps], atol=0)
    np.testing.assert_array_equal(
        found, np.broadcast_to(np.array([6, 7]) + (codec == "megvii") / 2, found.shape)
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("codec", CODECS)
def test_flip_test(kernels, codec, shift, dtype):
    spec = heatmap_spec(codec, shift=shift)
    maps = peaks(3, spec).astype(dtype)
    mirrored = maps[:, :, :, ::-1] + np.random.default_rng(2).normal(0, 0.02, maps.shape).astype(dtype)
    compare(kernels, spec, [maps], [mirrored.astype(dtype)])


@pytest.mark.parametrize("case", ["plain", "edge", "flip_shift1", "flip_shift0"])
@pytest.mark.parametrize("codec", ["msra", "msra_unbiased", "megvii"])
def test_the_original_implementation(kernels, reference, codec, case):
    info = json.loads((reference / "fixtures" / "decode_info.json").read_text("utf-8"))
    with np.load(reference / "fixtures" / "decode_256x192.npz") as arrays:
        prefix = f"256x192/{codec}/{case}"
        factor = np.float32(info[prefix]["multiplied_by"])
        spec = heatmap_spec({"msra_unbiased": "unbiased"}.get(codec, codec), shift=case == "flip_shift1")
        maps = arrays["256x192/edge_heatmaps" if case == "edge" else "256x192/heatmaps"] * factor
        mirrored = ()
        if case.startswith("flip"):
            mirrored = (arrays["256x192/heatmaps_from_flipped_input"] * factor,)
        centre, scale = (arrays[f"256x192/{name}"][: len(maps)] for name in ("center", "scale"))
        on_grid, scores = kernels.decode(spec, [maps], *grid_rectangle(len(maps), spec), mirrored)
        in_image, _ = kernels.decode(spec, [maps], centre, scale, mirrored)
        np.testing.assert_allclose(on_grid, arrays[f"{prefix}/keypoints_heatmap"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(scores, arrays[f"{prefix}/scores"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(in_image, arrays[f"{prefix}/keypoints_image"], rtol=0, atol=2e-4)


def distributions(count, spec, seed, dtype):
    """Distributions over x and y with ties, negative ones, and some that are no numbers."""
    rng = np.random.default_rng(seed)
    found = [rng.integers(-8, 9, (count, *shape)) / 8 for shape in spec.output_shapes]
    found[0][0, 0], found[1][0, 1] = -1, -0.5
    found[0][0, 2, -1] = np.nan
    found[1][0, 3, 0] = np.nan
    found[0][0, 4], found[1][0, 5] = np.inf, 0
    return [array.astype(dtype) for array in found]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("input_wh", "split_ratio"), [((192, 256), 2.0), ((7, 5), 3.0), ((2, 1), 1.0)])
@quiet
def test_simcc(kernels, input_wh, split_ratio, flip, dtype):
    spec = ModelSpec("simcc", codec="simcc", input_wh=input_wh, split_ratio=split_ratio)
    outputs = distributions(3, spec, 0, dtype)
    mirrored = distributions(3, spec, 1, dtype) if flip else ()
    compare(kernels, spec, outputs, mirrored)
    compare(kernels, spec, outputs, mirrored, rectangles(3), atol=1e-3)


@quiet
def test_clipped_scores_are_in_0_to_1_and_numbers(kernels):
    spec = heatmap_spec("msra", (2, 1), 6, ())
    maps = np.zeros((1, 6, 1, 2), np.float32)
    maps[0, :, 0, 1] = [0.5, 3, np.inf, np.nan, 0, 1]
    maps[0, 4] = -2
    _, scores = kernels.decode(spec, [maps], *grid_rectangle(1, spec), clip=True)
    np.testing.assert_array_equal(scores, [[0.5, 1, 0, 0, 0, 1]])


@pytest.mark.parametrize("codec", [*CODECS, "simcc"])
def test_a_smaller_batch_uses_the_workspace_of_a_larger_one(kernels, codec):
    spec = ModelSpec(codec, codec=codec)
    rng = np.random.default_rng(0)
    outputs = [rng.normal(size=(2, *shape)).astype(np.float32) for shape in spec.output_shapes]
    rectangle = rectangles(2)
    for mirrored in ((), outputs):
        few = kernels.decode(spec, outputs, *rectangle, mirrored)
        many = kernels.decode(spec, outputs, *rectangle, mirrored, max_batch=7)
        for one, other in zip(few, many, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("codec", [*CODECS, "simcc"])
def test_no_person_is_no_launch(codec):
    spec = ModelSpec(codec, codec=codec)
    outputs = [1] * len(spec.output_names)
    assert Decoder(spec, 4, flip_test=True).launches(0, outputs, outputs, 1, 1, 1) == []


def test_what_a_decoder_refuses():
    with pytest.raises(GraphError, match="classification"):
        Decoder(ModelSpec("net", "classification"), 4)
    with pytest.raises(DataError, match="batch of 5 persons"):
        Decoder(ModelSpec("net"), 4).launches(5, [1], [], 1, 1, 1)
    with pytest.raises(DataError, match="smaller batches"):
        Decoder(ModelSpec("net"), 2**20, flip_test=True).launches(2**20, [1], [1], 1, 1, 1)
