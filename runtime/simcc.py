"""SimCC (Li et al. 2022; RTMPose): two 1-D distributions a joint, over x and over y, become keypoints.

A pixel of the input is ``split_ratio`` bins wide, so its maximum is finer than a pixel. What
happens at ties, and where nothing is found, is as in mmpose 1.3's ``get_simcc_maximum``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .heatmaps import Poses, mirrored_joints

Distributions = NDArray[np.floating[Any]]


def decode_simcc(x: Distributions, y: Distributions, split_ratio: float) -> Poses:
    """The maxima of the distributions x (N, K, bins) and y (N, K, other bins).

    Returns keypoints (N, K, 2), x and y in pixels of the input, and scores (N, K), the lower of the two
    maxima, both float32. The first of several equal maxima wins. A joint whose score is not positive was not
    found: bin -1 of both axes.
    """
    bins = np.stack([x.argmax(axis=-1), y.argmax(axis=-1)], axis=-1).astype(np.float32)
    scores = np.minimum(x.max(axis=-1), y.max(axis=-1)).astype(np.float32)
    bins[scores <= 0] = -1
    return bins / np.float32(split_ratio), scores


def merge_flip_simcc(
    outputs: tuple[Distributions, Distributions],
    mirrored: tuple[Distributions, Distributions],
    flip_pairs: Sequence[tuple[int, int]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The means of a batch's distributions (x, y) and those of the mirrored batch, turned back.

    Only x runs the other way in a mirrored image; left and right joints (``flip_pairs``) change places in
    both.
    """
    joints = mirrored_joints(outputs[0].shape[1], flip_pairs)
    x = (outputs[0] + mirrored[0][:, joints, ::-1]) * np.float32(0.5)
    y = (outputs[1] + mirrored[1][:, joints]) * np.float32(0.5)
    return np.asarray(x, np.float32), np.asarray(y, np.float32)
