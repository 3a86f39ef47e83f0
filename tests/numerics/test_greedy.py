"""What picks by distance offer beyond the baselines that use them: weights of the rows, and a given first pick."""

from __future__ import annotations

import numpy as np
import pytest

from usb_active.numerics.greedy import kmeans_plus_plus


def test_weights_scale_the_rows():
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        features, weights = rng.standard_normal((200, 5)).astype(dtype), rng.random(200).astype(dtype)
        for seed in range(5):
            one = kmeans_plus_plus(features, 20, np.random.default_rng(seed), weights=weights)
            other = kmeans_plus_plus(features * weights[:, None], 20, np.random.default_rng(seed))
            assert one.tolist() == other.tolist()


def test_equal_weights_change_nothing_and_zeros_make_copies():
    features = np.random.default_rng(1).standard_normal((50, 3))
    plain = kmeans_plus_plus(features, 10, np.random.default_rng(0))
    assert kmeans_plus_plus(features, 10, np.random.default_rng(0), weights=np.full(50, 4.0)).tolist() == plain.tolist()
    # All but three rows are at the origin: four points in all.
    weights = np.zeros(50)
    weights[[3, 8, 40]] = 1
    for seed in range(20):
        picks = kmeans_plus_plus(features, 4, np.random.default_rng(seed), weights=weights)
        assert {3, 8, 40} < set(picks.tolist())


def test_the_first_pick_can_be_given():
    features = np.random.default_rng(2).standard_normal((30, 4))
    seconds = set()
    for seed in range(20):
        picks = kmeans_plus_plus(features, 5, np.random.default_rng(seed), candidates=np.arange(5, 30), first=17)
        assert picks[0] == 17 and len(set(picks.tolist())) == 5
        seconds.add(int(picks[1]))
    assert len(seconds) > 5


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"first": 2, "candidates": [3, 4]}, "^first: 2: not a candidate$"),
        ({"first": 2, "labeled": [0]}, "^first: 2: the labelled samples are the first centres$"),
        ({"weights": np.ones(4)}, r"^weights: expected one for each row of features, shape \(6,\), got \(4,\)$"),
        ({"weights": np.array([1, 1, np.nan, 1, np.inf, 1])}, "^weights: not finite for rows 2, 4$"),
        ({"weights": np.array([1, 1e300, 1, 1, 1, 1])}, "^features: not finite in row 1$"),
    ],
)
def test_bad_weights_and_first_picks(keywords, message):
    with pytest.raises(ValueError, match=message):
        kmeans_plus_plus(np.full((6, 2), 1e10), 1, np.random.default_rng(0), **keywords)
