"""Object keypoint similarity (OKS) between predictions, and the suppression of duplicates by it.

The rule is COCO's keypoint similarity, https://cocodataset.org/#keypoints-eval, applied between two
predictions as mmpose's ``oks_nms`` and ``soft_oks_nms`` do: the area is the mean of both, and every joint
counts, whatever its score.
"""

import numpy as np
from numpy.typing import NDArray

# the spread of human annotators, joint by joint, as COCO measured it
COCO_SIGMAS: NDArray[np.float64] = (
    np.array(
        [0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89]
    )
    / 10
)

SOFT_NMS_LIMIT = 20  # COCO looks at no more than 20 persons in an image


def oks_matrix(keypoints: NDArray[np.floating], areas: NDArray[np.floating]) -> NDArray[np.float64]:
    """Similarity of each prediction of an image with each other one.

    keypoints: (N, 17, 2) in image pixels; areas: (N,) in square pixels, of the padded boxes.
    Returns (N, N), symmetric, in [0, 1], ones on the diagonal.
    """
    points = keypoints.astype(np.float64)
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=-1)
    pair_areas = (areas[:, None].astype(np.float64) + areas[None]) / 2
    variances = (2 * COCO_SIGMAS) ** 2
    exponents = squared / variances / (pair_areas[..., None] + np.spacing(1)) / 2
    similarity: NDArray[np.float64] = np.exp(-exponents).mean(axis=-1)
    return similarity


def by_score(scores: NDArray[np.floating]) -> NDArray[np.intp]:
    """Indices from the highest score to the lowest; equal scores keep their order, on every machine."""
    return np.argsort(-scores, kind="stable")


def hard_nms(
    similarity: NDArray[np.floating], scores: NDArray[np.floating], threshold: float
) -> NDArray[np.intp]:
    """Keep the best prediction, drop all that are more alike than ``threshold`` to it, and so on.

    similarity: (N, N) of ``oks_matrix``; scores: (N,). Returns the kept indices, best first.
    """
    order = by_score(scores)
    kept: list[np.intp] = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        order = rest[similarity[best, rest] <= threshold]
    return np.array(kept, dtype=np.intp)


def soft_nms(
    similarity: NDArray[np.floating], scores: NDArray[np.floating], threshold: float
) -> NDArray[np.intp]:
    """Take the best prediction and let the scores of those alike decay by exp(-similarity^2 / threshold).

    The decayed scores decide only the order and which 20 are kept: like mmpose, the caller goes on with
    the scores from before. Returns at most 20 indices in the order taken.
    """
    order = by_score(scores)
    decayed = scores[order].astype(np.float64)
    kept: list[np.intp] = []
    while len(order) and len(kept) < SOFT_NMS_LIMIT:
        best, rest = order[0], order[1:]
        kept.append(best)
        decayed = decayed[1:] * np.exp(-(similarity[best, rest] ** 2) / threshold)
        again = by_score(decayed)
        order, decayed = rest[again], decayed[again]
    return np.array(kept, dtype=np.intp)
