"""CLUE, DropQuery and their k-means against slow loops, closed forms and invariants."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare
from usb_active.plugins.low_budget import clusters as K
from usb_active.plugins.low_budget import functional as F
from usb_active.plugins.low_budget.clustered import disagreements

from usb_active.numerics.kmeans import as_points
from usb_active.testing import AcquisitionContract


def make_rng(seed=0):
    return np.random.default_rng(seed)


def blobs(seed=0, each=20, count=3, d=4, spread=0.1):
    """(N, D) round well separated corners, sorted by blob."""
    return 10 * np.repeat(np.eye(max(count, d))[:count, :d], each, axis=0) + spread * make_rng(seed).standard_normal((count * each, d))


def probs_of(values):
    """(N, 2) with these smaller probabilities."""
    return np.stack([1 - np.asarray(values, float), values], axis=1)


def matrix(seed=0, d=4, c=3):
    weight = make_rng(seed).standard_normal((d, c)).astype(np.float32)
    return lambda rows: (rows @ weight).argmax(axis=1)


def squared(x, y):
    return sum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True))


def slow_representatives(rows, weights, count, rng, found=None):
    """Weighted k-means++ and Lloyd's iteration, then for each centre, the heaviest first, the nearest row that none has taken.

    Two samples of one weight are equally far from their mean: of equals it takes that which was `found` in its place.
    """
    size = len(rows)
    seeds = []
    for _ in range(count):
        nearest = [0.0 if i in seeds else min((squared(rows[i], rows[s]) for s in seeds), default=1.0) for i in range(size)]
        chances = [weight * near for weight, near in zip(weights, nearest, strict=True)]
        if sum(chances) == 0:
            seeds.append(int(rng.choice([i for i in range(size) if i not in seeds])))
            continue
        drawn, at = rng.random() * sum(chances), 0
        while drawn >= chances[at]:
            drawn, at = drawn - chances[at], at + 1
        seeds.append(at)
    centres, cluster = [[float(v) for v in rows[s]] for s in seeds], None
    for _ in range(100):
        before, cluster = cluster, [min(range(count), key=lambda k: squared(x, centres[k])) for x in rows]
        if before == cluster:
            break
        for k in range(count):
            mine = [i for i in range(size) if cluster[i] == k]
            mass = sum(weights[i] for i in mine)
            if mass > 0:
                centres[k] = [sum(weights[i] * float(rows[i][d]) for i in mine) / mass for d in range(len(rows[0]))]
    mass = [sum(weights[i] for i in range(size) if cluster[i] == k) for k in range(count)]
    taken = []
    for k in sorted(range(count), key=lambda k: -mass[k]):
        far = {i: squared(rows[i], centres[k]) for i in range(size) if i not in taken}
        equals = [i for i, value in far.items() if value <= min(far.values()) + 1e-6]
        taken.append(found[len(taken)] if found and found[len(taken)] in equals else min(far, key=far.get))
    return taken


def slow_clue(features, probs, budget, candidates, temperature, rng):
    """Prabhu et al. 2021, section 3.3: the entropy of softmax(logits / T), of the logarithms of the probabilities here, is the weight."""
    order = rng.permutation(candidates)
    weights = []
    for i in order:
        powers = [p ** (1 / temperature) for p in probs[i]]
        weights.append(-sum(p / sum(powers) * math.log(p / sum(powers)) for p in powers if p > 0))
    return [int(order[i]) for i in slow_representatives([features[i] for i in order], weights, budget, rng)]


def slow_drop_query(features, classify, budget, candidates, passes, rate, rng, picks):
    """Gupte et al. 2024, section 5: more than half of the predictions under dropout are another one; then clusters, or random ones."""
    order = rng.permutation(candidates)
    changes = [0] * len(order)
    for _ in range(passes):
        draws = rng.random((len(order), features.shape[1]), np.float32)
        for i, sample in enumerate(order):
            dropped = [0.0 if u < rate else x / (1 - rate) for x, u in zip(features[sample], draws[i], strict=True)]
            changes[i] += int(classify(np.array([dropped], np.float32))[0] != classify(features[[sample]].astype(np.float32))[0])
    unsure = [i for i in range(len(order)) if changes[i] > passes / 2]
    chosen = unsure
    if len(unsure) > budget:
        rows = [features[order[i]] / math.sqrt(squared(features[order[i]], [0] * features.shape[1])) for i in unsure]
        found = [[order[i] for i in unsure].index(pick) for pick in picks]
        chosen = [unsure[i] for i in slow_representatives(rows, [1.0] * len(unsure), budget, rng, found)]
    others = [i for i in range(len(order)) if i not in chosen]
    return [int(order[i]) for i in chosen + others[: budget - len(chosen)]], len(unsure)


# ------------------------------------------------------------------------------------------ weighted k-means
def test_centres_are_weighted_means_of_what_is_nearest_to_them():
    points, weights = as_points(make_rng(0).standard_normal((80, 3))), make_rng(1).random(80)
    centres, assignment = K.weighted_kmeans(points, weights, 5, make_rng(2))
    for k in range(5):
        mine = assignment == k
        np.testing.assert_allclose(centres[k], np.average(points[mine], axis=0, weights=weights[mine]), rtol=1e-5, atol=1e-6)
    squared = [[float(((x - c) ** 2).sum()) for c in centres] for x in points.astype(float)]
    assert assignment.tolist() == np.argmin(squared, axis=1).tolist()


def test_whole_weights_are_copies():
    # A sample of weight 3 is three samples. Seeds apart, both find the two ends of a line.
    points = np.array([[0.0], [0.1], [5.0], [5.2]], np.float32)
    one = K.weighted_kmeans(points, np.array([3.0, 1, 1, 1]), 2, make_rng(0))[0]
    other = K.weighted_kmeans(np.repeat(points, [3, 1, 1, 1], axis=0), np.ones(6), 2, make_rng(0))[0]
    # (3 · 0 + 0.1) / 4 and (5 + 5.2) / 2.
    np.testing.assert_allclose(np.sort(one.ravel()), [0.025, 5.1], rtol=1e-5)
    np.testing.assert_allclose(np.sort(one.ravel()), np.sort(other.ravel()), rtol=1e-5)


def test_seeds_follow_the_law_of_weighted_kmeans_plus_plus():
    # Weights 1, 2, 1 at 0, 1, 3. First by weight; then by weight times squared distance: from 0: 2 · 1, 9; from 1: 1, 4; from 3: 9, 2 · 4.
    points, weights, rng, draws = np.array([[0.0], [1], [3]], np.float32), np.array([1.0, 2, 1]), make_rng(4), 4000
    expected = {(0, 1): 2 / 44, (0, 2): 9 / 44, (1, 0): 1 / 10, (1, 2): 4 / 10, (2, 0): 9 / 68, (2, 1): 8 / 68}
    counts = Counter(tuple(K._seeds(points, weights, 2, rng).tolist()) for _ in range(draws))
    assert chisquare([counts[s] for s in expected], [p * draws for p in expected.values()]).pvalue > 1e-3
    # Copies, and samples of no weight, only when nothing else is left; none twice.
    assert sorted(K._seeds(np.zeros((4, 1), np.float32), np.array([0.0, 0, 1, 0]), 4, rng).tolist()) == [0, 1, 2, 3]


def test_each_centre_takes_the_nearest_that_is_left_heaviest_first():
    points = make_rng(1).standard_normal((40, 3)).astype(np.float32)
    centres, mass = make_rng(2).standard_normal((9, 3)), np.arange(9.0)
    taken = []
    for k in range(8, -1, -1):
        left = [i for i in range(40) if i not in taken]
        taken.append(min(left, key=lambda i: float(((points[i] - centres[k]) ** 2).sum())))
    assert K.nearest_samples(points, centres, mass).tolist() == taken
    assert sorted(K.nearest_samples(np.zeros((5, 2), np.float32), np.zeros((5, 2)), np.ones(5)).tolist()) == [0, 1, 2, 3, 4]


# ------------------------------------------------------------------------------------------ CLUE
@pytest.mark.parametrize("temperature", [0.3, 1.0])
@pytest.mark.parametrize("budget", [1, 4, 12])
@pytest.mark.parametrize("seed", range(3))
def test_clue_equals_the_plain_loop(seed, budget, temperature):
    features, probs = make_rng(seed).standard_normal((45, 4)), make_rng(seed + 20).dirichlet(np.full(3, 0.5), 45)
    candidates = make_rng(3).permutation(45)[:38]
    picks = F.clue(features, probs, budget, make_rng(seed), candidates=candidates, temperature=temperature)
    assert picks.tolist() == slow_clue(features, probs, budget, candidates, temperature, make_rng(seed))


def test_the_order_of_the_pool_does_not_matter_to_clue():
    # Blobs far apart, of different uncertainty: whatever is drawn, each is a cluster, and the heaviest comes first.
    unsure = np.repeat([0.05, 0.4, 0.2], 20) * make_rng(1).uniform(0.8, 1.2, 60)
    expected = F.clue(blobs(), probs_of(unsure), 3, make_rng(0))
    assert (expected // 20).tolist() == [1, 2, 0]
    for seed in range(5):
        order = make_rng(seed).permutation(60)
        assert order[F.clue(blobs()[order], probs_of(unsure[order]), 3, make_rng(seed))].tolist() == expected.tolist()


def test_copies_are_drawn_evenly_by_clue_and_none_twice():
    features, rng, counts = np.repeat(np.eye(3), 10, axis=0), make_rng(0), Counter()
    for _ in range(300):
        picks = F.clue(features, probs_of(np.full(30, 0.3)), 3, rng)
        assert sorted(picks // 10) == [0, 1, 2]
        counts.update(picks.tolist())
    assert chisquare([counts[i] for i in range(30)]).pvalue > 1e-3
    # More clusters than there are different samples.
    assert len(set(F.clue(features, probs_of(np.full(30, 0.3)), 8, rng).tolist())) == 8


def test_one_cluster_is_the_sample_nearest_to_the_weighted_mean():
    features, unsure = make_rng(0).standard_normal((50, 3)), make_rng(1).uniform(0.01, 0.5, 50)
    weights = [-(p * np.log(p) + (1 - p) * np.log(1 - p)) for p in unsure]
    mean = np.average(features, axis=0, weights=weights)
    expected = min(range(50), key=lambda i: np.linalg.norm(features[i] - mean))
    assert F.clue(features, probs_of(unsure), 1, make_rng()).tolist() == [expected]


def test_what_is_certain_weighs_nothing_and_the_heaviest_cluster_comes_first():
    # Of three blobs the first is certain, the third less sure than the second: two picks, from the third and the second.
    unsure = np.repeat([0.0, 0.1, 0.5], 20)
    for seed in range(5):
        picks = F.clue(blobs(), probs_of(unsure), 2, make_rng(seed))
        assert (picks // 20).tolist() == [2, 1]
    # Temperature makes all equally unsure, nearly; three picks are of three blobs then.
    unsure = np.repeat([0.01, 0.1, 0.5], 20)
    assert sorted(F.clue(blobs(), probs_of(unsure), 3, make_rng(1), temperature=50.0) // 20) == [0, 1, 2]


def test_where_all_is_certain_all_weigh_the_same():
    assert sorted(F.clue(blobs(), probs_of(np.zeros(60)), 3, make_rng(0)) // 20) == [0, 1, 2]


def test_only_candidates_are_clustered():
    candidates = np.arange(20, 60)
    picks = F.clue(blobs(), probs_of(np.full(60, 0.3)), 2, make_rng(0), candidates=candidates)
    assert sorted(picks // 20) == [1, 2]
    every = F.clue(blobs(), probs_of(np.full(60, 0.3)), 40, make_rng(0), candidates=candidates)
    assert sorted(every.tolist()) == candidates.tolist()


@pytest.mark.parametrize("exponent", [-400, 400])
def test_clue_takes_features_of_any_scale(exponent):
    probs = probs_of(np.full(60, 0.3))
    expected = F.clue(blobs(), probs, 5, make_rng(0)).tolist()
    assert F.clue(np.ldexp(blobs(), exponent), probs, 5, make_rng(0)).tolist() == expected


# ------------------------------------------------------------------------------------------ DropQuery
@pytest.mark.parametrize("budget", [1, 4, 12, 36])
@pytest.mark.parametrize("passes", [1, 3, 4])
@pytest.mark.parametrize("seed", range(2))
def test_drop_query_equals_the_plain_loop(seed, passes, budget):
    # A rate of one half, so that divisions by what is kept round nothing.
    features, candidates = make_rng(seed).standard_normal((45, 4)), make_rng(3).permutation(45)[:38]
    found = F.drop_query(features, matrix(seed), budget, make_rng(seed), candidates=candidates, passes=passes, rate=0.5)
    picks, disagreeing = slow_drop_query(features, matrix(seed), budget, candidates, passes, 0.5, make_rng(seed), found.idx.tolist())
    assert found.idx.tolist() == picks and found.num_disagreeing == disagreeing and 0 < disagreeing < 38


def lacks_none(rows):
    """(B,) 1 where no coordinate is zero: of rows of many coordinates, dropout changes those alone, and always."""
    return rows.all(axis=1).astype(int)


def test_the_order_of_the_pool_does_not_matter_to_drop_query():
    # Blobs of 25, 20 and 15 samples in directions far apart, and 20 that never disagree, for a coordinate of theirs is zero.
    sizes = (25, 20, 15, 20)
    features = np.repeat(np.eye(40)[: len(sizes)], sizes, axis=0) + 0.02 * (1 + make_rng(0).random((80, 40)))
    features[60:, 5] = 0
    expected = F.drop_query(features, lacks_none, 3, make_rng(0))
    assert expected.num_disagreeing == 60 and np.searchsorted([25, 45, 60], expected.idx, side="right").tolist() == [0, 1, 2]
    for seed in range(5):
        order = make_rng(seed).permutation(80)
        found = F.drop_query(features[order], lacks_none, 3, make_rng(seed))
        assert order[found.idx].tolist() == expected.idx.tolist() and found.num_disagreeing == 60


def test_the_order_of_the_pool_does_not_matter_to_the_law_of_drop_query():
    # Twelve samples without any structure; the same draws would give other picks, but not more of one than of another.
    features, order = make_rng(5).standard_normal((12, 4)), make_rng(6).permutation(12)
    counts = np.zeros((2, 12), int)
    for seed in range(600):
        counts[0, F.drop_query(features, matrix(), 3, make_rng(seed)).idx] += 1
        counts[1, order[F.drop_query(features[order], matrix(), 3, make_rng(9000 + seed)).idx]] += 1
    assert chi2_contingency(counts).pvalue > 1e-3 > chisquare(counts.sum(axis=0)).pvalue


def test_copies_are_drawn_evenly_by_drop_query_and_none_twice():
    features, rng, counts = np.repeat(np.eye(40)[:3] + 0.01, 10, axis=0), make_rng(0), Counter()
    for _ in range(300):
        found = F.drop_query(features, lacks_none, 3, rng)
        assert found.num_disagreeing == 30 and sorted(found.idx // 10) == [0, 1, 2]
        counts.update(found.idx.tolist())
    assert chisquare([counts[i] for i in range(30)]).pvalue > 1e-3
    assert len(set(F.drop_query(features, lacks_none, 8, rng).idx.tolist())) == 8


def test_disagreements_are_those_of_the_same_masks():
    features, classify = make_rng(0).standard_normal((30, 4)), matrix()
    counts = disagreements(features, np.arange(30), classify, make_rng(5), passes=4, rate=0.6)
    rng, slow = make_rng(5), np.zeros(30, int)
    for _ in range(4):
        kept = rng.random((30, 4), np.float32) >= 0.6
        for i in range(30):
            row = np.array([x / 0.4 if k else 0.0 for x, k in zip(features[i], kept[i], strict=True)], np.float32)
            slow[i] += classify(row[None])[0] != classify(features[[i]].astype(np.float32))[0]
    assert counts.tolist() == slow.tolist() and 0 < counts.sum() < 120


def test_a_share_of_the_coordinates_is_dropped():
    # Class 1 where any coordinate is left: with one of three, a row of ones disagrees when all are dropped, 0.5^3 of the time.
    features = np.ones((20_000, 3))
    counts = disagreements(features, np.arange(20_000), lambda x: x.any(axis=1).astype(int), make_rng(), passes=1, rate=0.5)
    assert abs(counts.mean() - 0.125) < 4 * np.sqrt(0.125 * 0.875 / 20_000)


def test_picks_are_of_the_disagreeing_or_fill_up_at_random():
    # The classifier looks at one coordinate; where it is zero, or the only class is predicted, nothing changes.
    features = np.abs(blobs())
    features[:40, 0] = 0

    def classify(rows):
        return (rows[:, 0] > 0).astype(int)

    found = F.drop_query(features, classify, 5, make_rng(0), passes=3, rate=0.9)
    assert 5 < found.num_disagreeing <= 20 and (found.idx >= 40).all() and len(set(found.idx.tolist())) == 5
    counts = Counter()
    for seed in range(200):
        found = F.drop_query(features, classify, 30, make_rng(seed), passes=3, rate=0.9)
        assert (found.idx[: found.num_disagreeing] >= 40).all() and len(set(found.idx.tolist())) == 30
        counts.update((found.idx[found.num_disagreeing :] // 20).tolist())
    # What fills up is drawn from 40 samples that never disagree and a few that did not this time.
    assert chisquare([counts[0], counts[1]]).pvalue > 1e-3


def test_where_nothing_disagrees_it_is_random():
    rng, counts = make_rng(0), Counter()
    for _ in range(300):
        found = F.drop_query(blobs(), lambda rows: np.zeros(len(rows), int), 4, rng)
        assert found.num_disagreeing == 0
        counts.update(found.idx.tolist())
    assert chisquare([counts[i] for i in range(60)]).pvalue > 1e-3


# ------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 61}, "^budget: 61, expected an integer from 1 to the 60 candidates$"),
        ({"candidates": [60]}, "^candidates: index 60 outside the 60 rows of features$"),
        ({"temperature": 0.0}, "^temperature: 0.0, expected a number above 0$"),
        ({"probs": probs_of(np.zeros(50))}, "^probs: 50 rows, expected one for each of the 60 rows of features$"),
        ({"features": np.full((60, 2), np.nan)}, "^features: not finite in rows 0, 1, 2, 3, 4, ...$"),
    ],
)
def test_bad_input_of_clue_is_named(changes, message):
    arguments = {"features": blobs(), "probs": probs_of(np.full(60, 0.2)), "budget": 3, "rng": make_rng()} | changes
    with pytest.raises(ValueError, match=message):
        F.clue(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 61}, "^budget: 61, expected an integer from 1 to the 60 candidates$"),
        ({"passes": 0}, "^passes: 0, expected an integer, at least 1$"),
        ({"features": 1e38 * blobs()}, "^features: too large for single precision in rows 0, 1, 2, 3, 4, ..., expected at most 8.5e.37$"),
        ({"rate": 1.0}, "^rate: 1.0, expected above 0 and below 1$"),
        ({"features": np.full((60, 2), np.inf)}, "^features: not finite in rows 0, 1, 2, 3, 4, ...$"),
    ],
)
def test_bad_input_of_drop_query_is_named(changes, message):
    arguments = {"features": blobs(), "classify": matrix(), "budget": 3, "rng": make_rng()} | changes
    with pytest.raises(ValueError, match=message):
        F.drop_query(**arguments)


# ------------------------------------------------------------------------------------------ the plugins
class TestClue(AcquisitionContract):
    name = "clue"
    deterministic = False

    def test_it_is_the_function(self, world):
        view = self.view(world, self.plugin())
        expected = F.clue(view.features, view.probs, 7, self.view(world, self.plugin()).rng, candidates=view.candidates)
        assert self.plugin().select(view, 7).tolist() == expected.tolist()


class TestClueByKeys(AcquisitionContract):
    name = "clue"
    config = {"temperature": 0.1}
    deterministic = False

    def test_the_key_arrives(self, world):
        view = self.view(world, self.plugin())

        def picks(**keys):
            return F.clue(view.features, view.probs, 7, self.view(world, self.plugin()).rng, candidates=view.candidates, **keys).tolist()

        assert self.plugin().select(view, 7).tolist() == picks(temperature=0.1) != picks()


class TestDropQuery(AcquisitionContract):
    name = "drop_query"
    config = {"rate": 0.9}
    deterministic = False

    def test_it_is_the_function_with_the_head_of_the_model(self, world):
        view = self.view(world, self.plugin())
        weight = world.net.classifier.weight.detach().numpy()
        bias = world.net.classifier.bias.detach().numpy()

        def classify(rows):
            return (rows @ weight.T + bias).argmax(axis=1)

        rng = self.view(world, self.plugin()).rng
        expected = F.drop_query(view.features, classify, 7, rng, candidates=view.candidates, rate=0.9)
        assert self.plugin().select(view, 7).tolist() == expected.idx.tolist()
        assert view._source.metrics["drop_query/disagreeing"] == expected.num_disagreeing
