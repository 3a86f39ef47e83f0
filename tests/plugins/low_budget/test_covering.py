"""ProbCover against the paper's loop, closed forms and invariants."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare
from usb_active.plugins.low_budget import balls as B
from usb_active.plugins.low_budget import functional as F

from usb_active.testing import AcquisitionContract
from usb_active.testing.pool import World, made_images


def make_rng(seed=0):
    return np.random.default_rng(seed)


def made(seed=0, n=60, d=4):
    return make_rng(seed).standard_normal((n, d))


def unit(features):
    return np.array([x / (np.linalg.norm(x) or 1.0) for x in np.asarray(features, float)])


def slow_cover(features, labeled, budget, order, delta):
    """The paper's loop over sets of neighbours."""
    rows, size = unit(features), len(features)
    neighbors = [{j for j in range(size) if np.linalg.norm(rows[i] - rows[j]) < delta} for i in range(size)]
    left, picks = set(range(size)).difference(*(neighbors[i] for i in labeled)), []
    for _ in range(budget):
        best = max((i for i in order if i not in picks), key=lambda i: len(neighbors[i] & left))
        picks.append(best)
        left -= neighbors[best]
    return picks, 1 - len(left) / size


# ------------------------------------------------------------------------------------------ the picks
@pytest.mark.parametrize("num_labeled", [0, 1, 6])
@pytest.mark.parametrize("delta", [0.05, 0.4, 0.8, 2.5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_picks_equal_the_plain_loop(num_labeled, delta, dtype):
    features = made(num_labeled).astype(dtype)
    features[10:15] = features[5]
    labeled = make_rng(3).permutation(60)[:num_labeled]
    candidates = np.setdiff1d(np.arange(5, 60), labeled)
    found = F.prob_cover(features, labeled, 12, make_rng(4), delta=delta, candidates=candidates)
    picks, coverage = slow_cover(features, labeled, 12, make_rng(4).permutation(candidates), delta)
    assert found.idx.tolist() == picks and found.coverage == pytest.approx(coverage)


def test_every_sample_has_a_ball_the_last_ones_too():
    # 503 samples, the last three at one place and one beside them, all others scattered: a ball at the place holds most.
    angles = np.concatenate([np.linspace(0, np.pi, 499), [4.0, 4.01, 4.02, 4.01]])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert F.prob_cover(features, [], 1, make_rng(), delta=0.0125).idx[0] in (500, 502)


def test_a_pair_at_the_radius_itself_is_outside():
    # Opposite each other, exactly 2 apart: |x - y| < 2 does not hold, so each covers itself alone.
    rows = np.array([[1.0, 0], [-1, 0]], np.float32)
    counts = [B.Balls(rows, radius).counts(np.arange(2), np.arange(2)).tolist() for radius in (2.0, 2.0 + 1e-15)]
    assert counts == [[1, 1], [2, 2]]


def test_picks_do_not_depend_on_blocks(monkeypatch):
    features = made(n=300)
    expected = F.prob_cover(features, np.arange(9), 40, make_rng(0), delta=0.3)
    monkeypatch.setattr(B, "_ROWS", 7)
    monkeypatch.setattr(B, "_COLUMNS", 50)
    assert F.prob_cover(features, np.arange(9), 40, make_rng(0), delta=0.3).idx.tolist() == expected.idx.tolist()


def test_pairs_near_the_radius_are_decided_in_double_precision():
    # Products of 300 numbers in single precision are wrong by about 1e-7: the radius of a real pair, and a hair more or less.
    rows = unit(made(5, n=40, d=300)).astype(np.float32)
    idx = np.arange(40)
    for i, j in ((0, 1), (2, 3), (4, 5)):
        distance = np.linalg.norm(rows[i].astype(float) - rows[j])
        for radius in (distance * (1 - 1e-12), distance * (1 + 1e-12)):
            inside = B.Balls(rows, radius).within(idx, idx)
            assert inside[i, j] == inside[j, i] == (distance < radius)
            assert (inside == inside.T).all()


def test_ties_are_drawn_evenly():
    features, rng, counts = np.repeat(np.eye(3), 10, axis=0), make_rng(0), Counter()
    for _ in range(300):
        picks = F.prob_cover(features, [], 3, rng, delta=0.5).idx
        assert sorted(picks // 10) == [0, 1, 2]
        counts.update(picks.tolist())
    assert chisquare([counts[i] for i in range(30)]).pvalue > 1e-3


def test_the_order_of_the_pool_does_not_matter():
    # Stars: a middle, which alone has all its 7, 6, 5 … 2 points in its ball, for these are 0.73 apart. So no two candidates are equal.
    sizes = (7, 6, 5, 4, 3, 2)
    axes, leaves, middles = np.eye(len(sizes) + sum(sizes)), [], np.cumsum([0, *(n + 1 for n in sizes[:-1])])
    for star, size in enumerate(sizes):
        at = len(sizes) + sum(sizes[:star])
        leaves += [axes[star], *(axes[star] + 0.6 * axes[at + leaf] for leaf in range(size))]
    features, labeled = np.array(leaves), middles[[1]]
    expected = F.prob_cover(features, labeled, 5, make_rng(0), delta=0.6).idx
    # The largest first, but for the second, whose middle is labelled.
    assert expected.tolist() == middles[[0, 2, 3, 4, 5]].tolist()
    for seed in range(5):
        order = make_rng(seed).permutation(len(features))
        found = F.prob_cover(features[order], np.flatnonzero(order == labeled), 5, make_rng(seed + 9), delta=0.6)
        assert order[found.idx].tolist() == expected.tolist() and found.coverage == 1


# ------------------------------------------------------------------------------------------ the radius
def test_strangers_are_those_of_the_plain_loop(monkeypatch):
    features, groups = made(3, n=90), make_rng(1).integers(0, 4, 90)
    rows = unit(features)
    slow = [min(np.linalg.norm(rows[i] - rows[j]) for j in range(90) if groups[j] != groups[i]) for i in range(90)]
    for sizes in ((512, 2048), (7, 20)):
        monkeypatch.setattr(B, "_ROWS", sizes[0])
        monkeypatch.setattr(B, "_COLUMNS", sizes[1])
        np.testing.assert_allclose(B.nearest_stranger(rows.astype(np.float32), groups), slow, rtol=1e-6)
    assert np.isinf(B.nearest_stranger(rows.astype(np.float32), np.zeros(90, int))).all()


def test_strangers_that_are_near_copies_are_told_apart_in_double_precision():
    # Bunches far narrower than what a product of 256 numbers in single precision resolves, each with rows of several groups.
    features = np.repeat(made(1, n=8, d=256), 5, axis=0) + 3e-4 * made(2, n=40, d=256) * make_rng(3).random((40, 1))
    rows, groups = unit(features).astype(np.float32), np.arange(40) % 3
    rows[7] = rows[5]
    distances = np.linalg.norm(rows[:, None].astype(float) - rows, axis=2)
    distances[groups[:, None] == groups] = np.inf
    found = B.nearest_stranger(rows, groups)
    np.testing.assert_allclose(found, distances.min(axis=1), rtol=1e-12)
    assert found[5] == found[7] == 0


@pytest.mark.parametrize("purity", [0.5, 0.8, 0.95, 1.0])
def test_it_is_the_largest_radius_of_that_purity(purity):
    # Three bunches on the circle, which k-means finds.
    angles = np.concatenate([make_rng(i).normal(2.1 * i, 0.3, 40) for i in range(3)])
    rows, groups = np.stack([np.cos(angles), np.sin(angles)], axis=1), np.arange(120) // 40
    radius = F.purity_radius(rows, 3, make_rng(0), purity=purity)

    def pure(r):
        distances = np.linalg.norm(rows[:, None] - rows, axis=2)
        return np.mean([len(set(groups[distances[i] < r])) == 1 for i in range(120)])

    assert pure(radius * (1 - 1e-6)) >= purity > pure(radius * (1 + 1e-6)) - (purity == 1.0) * 1e-9


def test_two_bunches_in_closed_form():
    # Ten copies at each end of a right angle: every stranger is sqrt(2) away, at any purity.
    features = np.repeat([[2.0, 0], [0, 3]], 10, axis=0)
    assert F.purity_radius(features, 2, make_rng()) == pytest.approx(np.sqrt(2), rel=1e-6)
    # One cluster: no ball is impure, and none can be larger than all.
    assert F.purity_radius(features[:10], 1, make_rng()) == 2.0


def test_copies_in_different_clusters_leave_no_radius(monkeypatch):
    monkeypatch.setattr("usb_active.plugins.low_budget.covering.nearest_centres", lambda rows, centres: (None, np.arange(20) % 2))
    with pytest.raises(ValueError, match="^features: no radius has 0.95 of its balls pure, for copies in different clusters; give delta a"):
        F.purity_radius(np.ones((20, 3)), 2, make_rng())


# ------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 60}, "^budget: 60, expected an integer from 1 to the 59 candidates$"),
        ({"labeled": [60]}, "^labeled: index 60 outside the 60 rows of features$"),
        ({"candidates": [0, 1]}, "^candidates: labelled already: index 0$"),
        ({"delta": 0.0}, "^delta: 0.0, expected a number above 0$"),
        ({"delta": np.nan}, "^delta: nan, expected a number above 0$"),
        ({"features": np.full((60, 2), np.inf)}, "^features: not finite in rows 0, 1, 2, 3, 4, ...$"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {"features": made(), "labeled": [0], "budget": 3, "rng": make_rng(), "delta": 0.5} | changes
    with pytest.raises(ValueError, match=message):
        F.prob_cover(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clusters": 0}, "^clusters: 0, expected an integer, 1 to the 60 rows of features$"),
        ({"clusters": 61}, "^clusters: 61, expected an integer, 1 to the 60 rows of features$"),
        ({"purity": 0}, "^purity: 0, expected above 0 and at most 1$"),
        ({"features": np.full((3, 2), np.nan)}, "^features: not finite in rows 0, 1, 2$"),
        ({"features": np.ones(3)}, r"^features: expected shape \(N, D\), got \(3,\)$"),
    ],
)
def test_bad_input_of_the_radius_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        F.purity_radius(**{"features": made(), "clusters": 3, "rng": make_rng(), **changes})


# ------------------------------------------------------------------------------------------ the plugin
class TestProbCover(AcquisitionContract):
    name = "prob_cover"
    config = {"delta": 0.03}
    # Many balls hold equally many: which of them is drawn.
    deterministic = False

    def test_it_is_the_function(self, world):
        view = self.view(world, self.plugin())
        expected = F.prob_cover(view.features, view.labeled, 7, self.view(world, self.plugin()).rng, delta=0.03, candidates=view.candidates)
        assert self.plugin().select(view, 7).tolist() == expected.idx.tolist()
        assert view._source.metrics["prob_cover/coverage"] == expected.coverage


class TestProbCoverByPurity(AcquisitionContract):
    name = "prob_cover"
    deterministic = False

    def test_the_radius_is_logged_and_every_class_is_picked_where_classes_are_clusters(self, tmp_path):
        means = made_images().reshape(3, 20, 8, 8).mean(axis=1)
        images = np.float32(0.2) * made_images() + 4 * means.repeat(20, axis=0)
        world = World(tmp_path, images, fresh=True)
        view = world.view({"features"}, self.source("pixels"), cycle=0, role="initial")
        assert sorted(self.plugin().select(view, 3) // 20) == [0, 1, 2]
        assert 0 < view._source.metrics["prob_cover/delta"] <= 2


class TestProbCoverByKeys(AcquisitionContract):
    name = "prob_cover"
    config = {"purity": 0.5}
    deterministic = False

    def test_the_key_arrives(self, world):
        view = self.view(world, self.plugin())

        def radius(**keys):
            return F.purity_radius(view.features, view.num_classes, self.view(world, self.plugin()).rng, **keys)

        self.plugin().select(view, 7)
        assert view._source.metrics["prob_cover/delta"] == radius(purity=0.5) != radius()


def test_errors_of_the_arithmetic_name_the_plugin(tmp_path):
    contract, world = TestProbCover(), World(tmp_path)
    with pytest.raises(ValueError, match="acquisition 'prob_cover': budget: 46, expected an integer from 1 to the 45 candidates"):
        contract.plugin().select(contract.view(world, contract.plugin()), 46)
