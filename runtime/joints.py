"""What a pose network says of a batch becomes joints in the image, by the codec of its spec."""

import numpy as np
from numpy.typing import NDArray

from .heatmaps import Poses, decode, merge_flip, to_image
from .sessions import Outputs
from .simcc import decode_simcc, merge_flip_simcc
from .spec import ModelSpec


def find_joints(
    outputs: Outputs,
    mirrored: Outputs | None,
    spec: ModelSpec,
    centre: NDArray[np.float32],
    scale: NDArray[np.float32],
) -> Poses:
    """Decode what a session returned for N crops of this centre and scale, each (N, 2) in image pixels.

    mirrored: what it returned for the mirrored crops, to be averaged with (the flip test), or None.

    Returns keypoints (N, K, 2) in image pixels and scores (N, K) as decoded, both float32. Scores are not
    clipped, and both may be NaN where the network's outputs are. Raises GraphError when heatmaps do not have
    the spec's joints and size.
    """
    if spec.codec == "simcc":
        x, y = outputs
        if mirrored is not None:
            x, y = merge_flip_simcc((x, y), (mirrored[0], mirrored[1]), spec.flip_pairs)
        points, scores = decode_simcc(x, y, spec.split_ratio)
        return to_image(points, centre, scale, spec.input_wh), scores
    (heatmaps,) = outputs
    if mirrored is not None:
        heatmaps = merge_flip(heatmaps, mirrored[0], spec.flip_pairs, spec.flip_shift)
    points, scores = decode(heatmaps, spec)
    return to_image(points, centre, scale, spec.heatmap_wh), scores
