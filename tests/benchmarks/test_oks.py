"""Similarity between predictions and the two suppressions, by their properties."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from posedge.benchmarks.oks import SOFT_NMS_LIMIT, by_score, hard_nms, oks_matrix, soft_nms

SEEDS = st.integers(0, 2**32 - 1)


def crowd(seed: int, persons: int) -> tuple[np.ndarray, np.ndarray]:
    """Similarities and scores of a crowd in which some are near-copies of others, with some equal scores."""
    random = np.random.default_rng(seed)
    keypoints = random.uniform(0, 300, (persons, 17, 2))
    copies = random.random(persons) < 0.5
    keypoints[copies] = keypoints[0] + random.normal(0, 5, (int(copies.sum()), 17, 2))
    areas = random.uniform(5e3, 5e4, persons)
    return oks_matrix(keypoints, areas), random.integers(0, 8, persons) / 8


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(1, 30))
def test_similarity_is_symmetric_and_one_with_itself(seed: int, persons: int) -> None:
    similarity, _ = crowd(seed, persons)
    assert similarity.shape == (persons, persons)
    np.testing.assert_array_equal(similarity, similarity.T)
    np.testing.assert_allclose(np.diag(similarity), 1)
    assert (similarity >= 0).all()


def test_a_shift_counts_more_on_a_small_person_and_less_on_a_loose_joint() -> None:
    base = np.full((17, 2), 100.0)
    nose, hip = base.copy(), base.copy()
    nose[0, 0] += 10
    hip[11, 0] += 10
    small, large = np.full(3, 3e3), np.full(3, 3e4)
    on_small = oks_matrix(np.stack([base, nose, hip]), small)[0]
    on_large = oks_matrix(np.stack([base, nose, hip]), large)[0]
    assert on_small[1] < on_large[1] < 1
    assert on_small[1] < on_small[2] < 1


def test_equal_scores_keep_their_order() -> None:
    assert by_score(np.array([0.5, 0.9, 0.5, 0.9, 0.1])).tolist() == [1, 3, 0, 2, 4]


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.integers(0, 30), st.sampled_from([0.3, 0.5, 0.9]))
def test_hard_nms_keeps_the_best_of_those_alike(seed: int, persons: int, threshold: float) -> None:
    similarity, scores = crowd(seed, persons) if persons else (np.zeros((0, 0)), np.zeros(0))
    kept = hard_nms(similarity, scores, threshold)
    assert (np.diff(scores[kept]) <= 0).all()
    among = similarity[np.ix_(kept, kept)][~np.eye(len(kept), dtype=bool)]
    assert (among <= threshold).all()
    for dropped in set(range(persons)) - set(kept.tolist()):
        better = kept[scores[kept] >= scores[dropped]]
        assert (similarity[dropped, better] > threshold).any()


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.integers(1, 40))
def test_soft_nms_keeps_at_most_twenty_and_takes_the_best_first(seed: int, persons: int) -> None:
    similarity, scores = crowd(seed, persons)
    kept = soft_nms(similarity, scores, 0.9)
    assert len(kept) == len(set(kept.tolist())) == min(persons, SOFT_NMS_LIMIT)
    assert scores[kept[0]] == scores.max()


def test_soft_nms_moves_a_copy_behind_a_weaker_stranger() -> None:
    similarity = np.array([[1, 0.95, 0], [0.95, 1, 0], [0, 0, 1]])
    assert soft_nms(similarity, np.array([0.9, 0.8, 0.5]), 0.5).tolist() == [0, 2, 1]
