"""How sure an AP drop is: a paired bootstrap over images.

Two variants are measured on the same images, and other images would give another drop. The bootstrap draws as
many images as there are, with replacement, many times, and takes the drop on each draw; both variants see the
same draws, so what makes an image hard for both cancels out. The interval is that of percentiles: Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

Which detection finds whom is decided within an image, so it is decided once. What is drawn changes only how
often an image counts. The rules are those of COCO's keypoint evaluation,
https://cocodataset.org/#keypoints-eval, as pycocotools' ``COCOeval`` spells them out; faster-coco-eval keeps
its matches to itself, so they are repeated here.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .coco import Predictions, ScoringRules, evaluation_input
from .oks import COCO_SIGMAS, by_score

LEVEL = 0.95
SAMPLES = 1000

_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_MOST_DETECTIONS = 20  # of an image
# a detection that is exactly right must pass a threshold of 1
_ALMOST_ONE = 1 - 1e-10


class PerImage(Protocol):
    """What a variant found, such that its figure can be had for any choice of images."""

    @property
    def images(self) -> NDArray[np.int64]:
        """(N,) the images that count."""

    def headline(self, counts: NDArray[np.int64] | None = None) -> float:
        """The figure that drops are counted in, where image i counts ``counts[i]`` times."""


@dataclass(frozen=True, eq=False)
class Matches:
    """Which detections are right, at each of the ten OKS thresholds 0.50 to 0.95.

    images: (N,) int64 ids, ascending. persons: (N,) int64, how many are to be found in each.
    image_of: (D,) index into ``images`` of each detection, from the highest score to the lowest.
    found: (10, D) bool, detections that found a person. counted: (10, D) bool, those that are right or wrong;
    the others found somebody who is ignored, such as a crowd.
    """

    images: NDArray[np.int64]
    persons: NDArray[np.int64]
    image_of: NDArray[np.intp]
    found: NDArray[np.bool_]
    counted: NDArray[np.bool_]

    def ap(self, counts: NDArray[np.int64] | None = None) -> float:
        """COCO's AP, in [0, 1], of images of which the i-th counts ``counts[i]`` times; None for once each.

        Precision at a recall is the best at that recall or above, the mean is over 101 recalls and the ten
        thresholds. NaN where nobody is to be found. Raises DataError unless counts are (N,) and not negative.
        """
        weights = np.ones(len(self.images)) if counts is None else np.asarray(counts, np.float64)
        if weights.shape != self.images.shape or not (weights >= 0).all():
            raise DataError(
                f"counts of shape {weights.shape} were given for {len(self.images)} images; "
                "one that is not negative is needed for each"
            )
        persons = float(weights @ self.persons)
        if not persons:
            return float("nan")
        repeats = weights[self.image_of]
        right = np.cumsum(self._found_there * repeats[self._finds], axis=1)
        seen = np.cumsum(repeats)[self._finds] - self._ignored_until(repeats)
        precision = right / (seen + np.spacing(1))
        # a recall that is never reached has precision 0: the last column
        best = np.zeros((len(precision), precision.shape[1] + 1))
        best[:, :-1] = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = [np.searchsorted(recall, _RECALLS) for recall in right / persons]
        return float(np.take_along_axis(best, np.array(reached), axis=1).mean())

    headline = ap

    @cached_property
    def _finds(self) -> NDArray[np.intp]:
        """The detections that found somebody: after any other one precision is no better, recall the same."""
        return np.flatnonzero(self.found.any(axis=0))

    @cached_property
    def _found_there(self) -> NDArray[np.bool_]:
        return self.found[:, self._finds]

    @cached_property
    def _ignored(self) -> tuple[NDArray[np.intp], NDArray[np.bool_], NDArray[np.intp]]:
        """The detections that do not count at some threshold, (10, I) where, and how many of them come before
        each of ``_finds``: they are few, so most sums are the same for all thresholds."""
        ignored = np.flatnonzero(~self.counted.all(axis=0))
        return ignored, ~self.counted[:, ignored], np.searchsorted(ignored, self._finds, side="right")

    def _ignored_until(self, repeats: NDArray[np.float64]) -> NDArray[np.float64]:
        ignored, where, before = self._ignored
        sums = np.zeros((len(where), len(ignored) + 1))
        np.cumsum(where * repeats[ignored], axis=1, out=sums[:, 1:])
        return sums[:, before]


@dataclass(frozen=True)
class DropInterval:
    """The drop on all images, and the interval that holds the share ``level`` of the drops of ``samples``
    draws. AP, or top-1 of a classifier, in [-1, 1]; positive is worse."""

    drop: float
    low: float
    high: float
    level: float
    samples: int


def match_persons(
    annotations: Path,
    predictions: Predictions,
    rules: ScoringRules,
    image_ids: Collection[int] | None = None,
    person_ids: Collection[tuple[int, int]] | None = None,
) -> Matches:
    """Match what ``predictions`` found to the persons of a COCO keypoint annotation file.

    Arguments and DataError are those of ``evaluate_keypoints``, and ``ap()`` is the AP that it gives.
    """
    fed = evaluation_input(annotations, predictions, rules, image_ids, person_ids)
    truth, results = _by_image(fed.truth), _by_image(fed.results)
    parts = [_match_image(truth.get(image, []), results.get(image, [])) for image in fed.images]
    scores = np.concatenate([part.scores for part in parts])
    order = by_score(scores)
    return Matches(
        images=np.array(fed.images, np.int64),
        persons=np.array([part.persons for part in parts], np.int64),
        image_of=np.repeat(np.arange(len(parts)), [len(part.scores) for part in parts])[order],
        found=np.concatenate([part.found for part in parts], axis=1)[:, order],
        counted=np.concatenate([part.counted for part in parts], axis=1)[:, order],
    )


def paired_drop(
    reference: PerImage, other: PerImage, samples: int = SAMPLES, level: float = LEVEL, seed: int = 0
) -> DropInterval:
    """The figure of ``reference`` minus that of ``other``, with its interval.

    The same arguments give the same interval. A draw without anybody to find has no drop; another is drawn.
    Raises DataError when the two were not measured on the same images, when there is one image only or nobody
    to find, and for no samples or a level outside (0, 1).
    """
    if not np.array_equal(reference.images, other.images):
        raise DataError(
            f"the two variants were measured on other images ({len(reference.images)} and "
            f"{len(other.images)}); measure both on the same ones"
        )
    if len(reference.images) < 2:
        raise DataError("an interval over images needs two images at least; measure on more")
    if samples < 1 or not 0 < level < 1:
        raise DataError(
            f"{samples} samples and the level {level} were asked for; give at least one sample "
            "and a level between 0 and 1"
        )
    drop = reference.headline() - other.headline()
    if not np.isfinite(drop):
        raise DataError("there is nobody to find in the images, so there is no drop")
    draws = _draws(len(reference.images), seed)
    drops = (reference.headline(counts) - other.headline(counts) for counts in draws)
    drawn = np.fromiter(islice(filter(np.isfinite, drops), samples), np.float64, samples)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return DropInterval(drop, float(low), float(high), level, samples)


def _draws(images: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each image was drawn, (images,), without end."""
    random = np.random.default_rng(seed)
    while True:
        yield np.bincount(random.integers(images, size=images), minlength=images)


@dataclass(frozen=True, eq=False)
class _ImageMatches:
    """Of one image: persons to find; scores (D,) from the highest to the lowest; found, counted (10, D)."""

    persons: int
    scores: NDArray[np.float64]
    found: NDArray[np.bool_]
    counted: NDArray[np.bool_]


def _by_image(records: Sequence[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(record["image_id"], []).append(record)
    return groups


def _match_image(truth: list[dict[str, Any]], results: list[dict[str, Any]]) -> _ImageMatches:
    """Greedily, the best detection first: each takes the most similar person that is still free.

    One who is ignored is taken only where no other fits, and a crowd by any number of detections.
    """
    scores = np.array([result["score"] for result in results], np.float64)
    order = by_score(scores)[:_MOST_DETECTIONS]
    crowd = np.array([record["iscrowd"] for record in truth], bool)
    ignored = crowd | np.array([record["num_keypoints"] == 0 for record in truth], bool)
    found = np.zeros((len(_THRESHOLDS), len(order)), bool)
    counted = np.ones_like(found)
    matches = _ImageMatches(int((~ignored).sum()), scores[order], found, counted)
    if not truth or not results:
        return matches
    limits = np.minimum(_THRESHOLDS, _ALMOST_ONE)[:, None]
    taken = np.zeros((len(_THRESHOLDS), len(truth)), bool)
    for rank, row in enumerate(_similarity([results[i] for i in order], truth)):
        fits = (row >= limits) & (~taken | crowd)
        to_find = fits & ~ignored
        fits = np.where(to_find.any(axis=1, keepdims=True), to_find, fits)
        # of equally similar persons COCO takes the last
        best = len(truth) - 1 - np.where(fits, row, -1.0)[:, ::-1].argmax(axis=1)
        matched = fits.any(axis=1)
        taken[matched, best[matched]] = True
        found[:, rank] = matched & ~ignored[best]
        counted[:, rank] = ~(matched & ignored[best])
    return matches


def _similarity(results: list[dict[str, Any]], truth: list[dict[str, Any]]) -> NDArray[np.float64]:
    """OKS of each detection with each person, (D, G), over the joints that are labelled.

    Of a person without labelled joints the distance is that from the box, widened by its size on each side.
    """
    points = np.array([result["keypoints"] for result in results], np.float64)
    x, y = points[:, 0::3], points[:, 1::3]
    variances = (2 * COCO_SIGMAS) ** 2
    columns = []
    for person in truth:
        joints = np.array(person["keypoints"], np.float64)
        labelled = joints[2::3] > 0
        if labelled.any():
            dx, dy = x - joints[0::3], y - joints[1::3]
        else:
            labelled = np.ones_like(labelled)
            left, top, width, height = person["bbox"]
            dx = np.maximum(0, left - width - x) + np.maximum(0, x - left - 2 * width)
            dy = np.maximum(0, top - height - y) + np.maximum(0, y - top - 2 * height)
        exponents = (dx**2 + dy**2) / variances / (person["area"] + np.spacing(1)) / 2
        columns.append(np.exp(-exponents[:, labelled]).mean(axis=1))
    return np.stack(columns, axis=1)
