"""From heatmaps to keypoints: the three decoders, the flip test, and the way back to image pixels.

All of it works on whole batches (N persons, K joints, h x w pixels), float32 or float16, in numpy alone.
Keypoints are x, y in pixels of the heatmap until ``to_image``.

At borders, ties and empty maps the decoders do what mmpose 1.3 does, so that a deployed model is read as it
was evaluated: a map without a positive value gives the keypoint (-1, -1), and the first of several equal
maxima, row by row, wins.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import GraphError
from .blur import binomial_blur, gaussian_band
from .spec import ModelSpec

Maps = NDArray[np.floating[Any]]
Poses = tuple[NDArray[np.float32], NDArray[np.float32]]

# the floor that mmpose puts under a blurred map before its logarithm
_LOG_FLOOR = np.float32(1e-10)
# maps with NaN or infinite values show in the scores and keypoints, not in numpy's warnings
_quietly = np.errstate(divide="ignore", invalid="ignore", over="ignore")


def decode(heatmaps: Maps, spec: ModelSpec) -> Poses:
    """Read heatmaps (N, K, h, w) as the spec's codec says.

    Returns keypoints (N, K, 2), x and y in heatmap pixels, and their scores (N, K), both float32.
    Raises GraphError when the maps do not have the spec's joints and size, or its codec reads no maps.
    """
    width, height = spec.heatmap_wh
    if heatmaps.ndim != 4 or heatmaps.shape[1:] != (spec.num_joints, height, width):
        raise GraphError(
            f"{spec.name}: the heatmaps have shape {heatmaps.shape}, but the spec promises "
            f"(N, {spec.num_joints}, {height}, {width}). Correct num_joints or heatmap_wh in the spec."
        )
    if spec.codec == "msra":
        return decode_msra(heatmaps)
    if spec.codec == "unbiased":
        return decode_unbiased(heatmaps, spec.blur_kernel)
    if spec.codec == "megvii":
        return decode_megvii(heatmaps)
    raise GraphError(f"{spec.name}: the codec {spec.codec!r} of the spec does not read heatmaps.")


@_quietly
def decode_msra(heatmaps: Maps) -> Poses:
    """The maximum, moved a quarter of a pixel toward the higher neighbour (Xiao et al., Simple Baselines).

    heatmaps (N, K, h, w); returns keypoints (N, K, 2) in heatmap pixels and scores (N, K), the maxima.
    Along x it moves where 1 < x < w - 1 and y > 0, along y where 1 < y < h - 1 and x > 0.
    """
    maps = _flat_maps(heatmaps)
    _, height, width = maps.shape
    keypoints, scores = _maxima(maps)
    x, y = keypoints.astype(np.intp).T
    inside_x = (x > 1) & (x < width - 1) & (y > 0)
    inside_y = (y > 1) & (y < height - 1) & (x > 0)
    inside = np.stack([inside_x, inside_y], axis=1)
    keypoints += np.where(inside, np.float32(0.25) * np.sign(_slopes(maps, x, y)), 0)
    return _per_person(heatmaps, keypoints, scores)


@_quietly
def decode_megvii(heatmaps: Maps) -> Poses:
    """The maximum of the blurred map, and half a pixel, and a quarter toward the higher neighbour (CPN, RSN).

    heatmaps (N, K, h, w), trained to reach 255; returns keypoints (N, K, 2) in heatmap pixels and scores
    (N, K), maximum / 255 + 0.5. The blur is the 5x5 binomial. Nothing is added at the two outer columns
    and rows on the left and top, nor at the outermost on the right and bottom. An all-zero map gives (0, 0)
    with a NaN score.
    """
    maps = _flat_maps(heatmaps)
    _, height, width = maps.shape
    blurred = binomial_blur(maps)
    # mmpose rescales each blurred map to its old maximum. Where the blur left a positive peak that changes
    # no comparison; elsewhere it may turn the map's sign, or make it NaN.
    odd = ~(_tops(blurred) > 0)
    if odd.any():
        blurred[odd] *= _rescaling(maps[odd], blurred[odd])
    keypoints, maxima = _maxima(blurred)
    maxima = np.where(odd, maxima, _tops(maps))
    scores = np.asarray(maxima / np.float32(255) + np.float32(0.5))
    x, y = keypoints.astype(np.intp).T
    inside = ((x > 1) & (x < width - 1) & (y > 1) & (y < height - 1))[:, None]
    keypoints += np.where(inside, np.float32(0.25) * np.sign(_slopes(blurred, x, y)) + np.float32(0.5), 0)
    return _per_person(heatmaps, keypoints, scores)


@_quietly
def decode_unbiased(heatmaps: Maps, blur_kernel: int) -> Poses:
    """The maximum, moved by one Newton step on the logarithm of the blurred map (Zhang et al., DARK).

    heatmaps (N, K, h, w); returns keypoints (N, K, 2) in heatmap pixels and scores (N, K), the maxima.
    ``blur_kernel`` is the side of the Gaussian: 11 at 64x48, 17 at 96x72. A maximum in the two outer rows
    or columns stays where it is.
    """
    maps = _flat_maps(heatmaps)
    _, height, width = maps.shape
    keypoints, scores = _maxima(maps)
    x, y = keypoints.astype(np.intp).T
    inside = np.flatnonzero((x > 1) & (x < width - 2) & (y > 1) & (y < height - 2))
    patches = _log_patches(maps[inside], x[inside], y[inside], blur_kernel)
    keypoints[inside] += _newton_steps(patches)
    return _per_person(heatmaps, keypoints, scores)


def merge_flip(
    heatmaps: Maps, mirrored: Maps, flip_pairs: Sequence[tuple[int, int]], shift: bool
) -> NDArray[np.float32]:
    """The mean of the maps of a batch and the maps of the mirrored batch, turned back, all (N, K, h, w).

    Left and right joints (``flip_pairs``) change places. ``shift`` moves the turned maps one pixel to the
    right, column 0 keeping its value: for networks whose strides put the mirrored maps one pixel off
    (mmpose's ``shift_heatmap``).
    """
    joints = mirrored_joints(heatmaps.shape[1], flip_pairs)
    merged = np.ascontiguousarray(mirrored[..., ::-1], np.float32).take(joints, axis=1)
    if shift:
        merged[..., 1:] = merged[..., :-1]
    merged += heatmaps
    merged *= np.float32(0.5)
    return merged


def mirrored_joints(num_joints: int, flip_pairs: Sequence[tuple[int, int]]) -> NDArray[np.intp]:
    """Which joint (K,) of a mirrored image each joint is: left and right change places."""
    joints = np.arange(num_joints)
    for left, right in flip_pairs:
        joints[[left, right]] = right, left
    return joints


def to_image(
    keypoints: NDArray[np.float32],
    centre: NDArray[np.float32],
    scale: NDArray[np.float32],
    grid_wh: tuple[int, int],
) -> NDArray[np.float32]:
    """Keypoints (N, K, 2) to image pixels, for crops of this centre and scale (N, 2).

    grid_wh: width and height of what they are pixels of: the heatmaps, or SimCC's input.
    """
    pixel = scale / np.asarray(grid_wh, np.float32)
    corner = centre - scale * np.float32(0.5)
    return np.asarray(keypoints * pixel[:, None] + corner[:, None], np.float32)


def _flat_maps(heatmaps: Maps) -> NDArray[np.float32]:
    """(N, K, h, w) of any float type as (N * K, h, w) float32."""
    persons, joints, height, width = heatmaps.shape
    return np.asarray(heatmaps, np.float32).reshape(persons * joints, height, width)


def _per_person(heatmaps: Maps, keypoints: NDArray[np.float32], scores: NDArray[np.float32]) -> Poses:
    persons, joints = heatmaps.shape[:2]
    return keypoints.reshape(persons, joints, 2), scores.reshape(persons, joints)


def _maxima(maps: NDArray[np.float32]) -> Poses:
    """x and y (M, 2) of the first maximum of each map, -1 where it is not positive, and the maxima (M,)."""
    count, height, width = maps.shape
    flat = maps.reshape(count, height * width)
    index = flat.argmax(axis=1)
    maxima = flat[np.arange(count), index]
    keypoints = np.stack([index % width, index // width], axis=1).astype(np.float32)
    keypoints[maxima <= 0] = -1
    return keypoints, maxima


def _slopes(maps: NDArray[np.float32], x: NDArray[np.intp], y: NDArray[np.intp]) -> NDArray[np.float32]:
    """Right minus left and lower minus upper neighbour (M, 2) of a pixel in each map; wrong at borders."""
    count, height, width = maps.shape
    flat = maps.reshape(-1)
    centre = (np.arange(count) * height + y) * width + x

    def at(offset: int) -> NDArray[np.float32]:
        return np.asarray(flat.take(centre + offset, mode="clip"))

    return np.stack([at(1) - at(-1), at(width) - at(-width)], axis=1)


def _log_patches(
    maps: NDArray[np.float32], x: NDArray[np.intp], y: NDArray[np.intp], blur_kernel: int
) -> NDArray[np.float32]:
    """Logarithm (M, 5, 5) of the 5x5 pixels around x, y (M,) of each blurred map.

    mmpose blurs a whole map, rescales it to its old maximum, lifts it to at least 1e-10 and takes the
    logarithm. The rescaling adds a constant to the logarithm, which no derivative sees, and, its factor
    being at least 1 (a mean is not above the maximum), lifts values away from the floor. So these 25 pixels
    are enough, unless one of them is below the floor: then the factor matters, and the whole map is blurred.
    """
    _, height, width = maps.shape
    down, across = gaussian_band(height, blur_kernel), gaussian_band(width, blur_kernel)
    around = np.arange(-2, 3)
    rows, columns = down[y[:, None] + around], across[x[:, None] + around]
    patches = rows @ maps @ columns.transpose(0, 2, 1)
    low = ~(patches.min(axis=(1, 2)) >= _LOG_FLOOR)
    if low.any():
        patches[low] *= _rescaling(maps[low], down @ maps[low] @ across)
    return np.asarray(np.log(np.maximum(patches, _LOG_FLOOR)))


def _newton_steps(log_patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """The step (M, 2) from the middle of each patch (M, 5, 5) to the top of the parabola there.

    Differences over two pixels, as in DARK; no step where the Hessian is singular.
    """
    patch = log_patches.transpose(1, 2, 0)
    dx = 0.5 * (patch[2, 3] - patch[2, 1])
    dy = 0.5 * (patch[3, 2] - patch[1, 2])
    dxx = 0.25 * (patch[2, 4] - 2 * patch[2, 2] + patch[2, 0])
    dyy = 0.25 * (patch[4, 2] - 2 * patch[2, 2] + patch[0, 2])
    dxy = 0.25 * (patch[3, 3] - patch[1, 3] - patch[3, 1] + patch[1, 1])
    determinant = dxx * dyy - dxy * dxy
    regular = determinant != 0
    inverse = regular / np.where(regular, determinant, 1)
    steps = np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], axis=1) * inverse[:, None]
    return np.asarray(steps, np.float32)


def _rescaling(maps: NDArray[np.float32], blurred: NDArray[np.float32]) -> NDArray[np.float32]:
    """The factors (M, 1, 1) that bring the maxima of blurred maps to the old ones: NaN for all-zero maps."""
    return np.asarray(_tops(maps) / _tops(blurred))[:, None, None]


def _tops(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(maps.max(axis=(1, 2)))
