"""DCoM against the paper's loop, closed forms and invariants."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare
from usb_active.plugins.low_budget import functional as F

from usb_active.testing import AcquisitionContract


def make_rng(seed=0):
    return np.random.default_rng(seed)


def made(seed=0, n=60, d=4, c=3):
    rng = make_rng(seed)
    return rng.standard_normal((n, d)), rng.dirichlet(np.full(c, 0.5), size=n)


def slow_radius(distances, same, purity, most):
    """Every radius that could be the largest, the largest first; a ball holds what is nearer."""
    for radius in sorted({most, *(d for d in distances if d < most)}, reverse=True):
        ball = [s for d, s in zip(distances, same, strict=True) if d < radius]
        if ball and sum(ball) / len(ball) >= purity:
            return radius
    return 0.0


def slow_dcom(features, probs, labeled, labels, budget, order, radii, delta, most, steepness, centre):
    rows = np.array([x / np.linalg.norm(x) for x in features])
    size = len(rows)
    d = np.array([[np.linalg.norm(x - y) for y in rows] for x in rows])

    def covered(radii):
        return {j for i, r in zip(labeled, radii, strict=True) for j in range(size) if d[i, j] < r}

    known = [r for r in radii if not math.isnan(r)]
    start = [(sum(known) / len(known) if known else delta) if math.isnan(r) else r for r in radii]
    purity = 0.4 + 0.2 * len(covered(start)) / size
    predicted = [int(np.argmax(p)) for p in probs]
    grown = [
        slow_radius(d[i], [p == y for p in predicted], purity, most) if math.isnan(r) else r
        for i, y, r in zip(labeled, labels, radii, strict=True)
    ]
    done = covered(grown)
    coverage = len(done) / size
    competence = (1 + math.exp(-steepness * (1 - centre))) / (1 + math.exp(-steepness * (coverage - centre)))
    radius = sum(grown) / len(grown) if any(grown) else delta
    unsure = [1 - (sorted(p)[-1] - sorted(p)[-2]) for p in probs]
    unsure = [(u - min(unsure)) / (max(unsure) - min(unsure)) for u in unsure]
    picks = []
    for _ in range(budget):
        left = [i for i in order if i not in picks]
        degree = {i: sum(d[i, j] < radius and j not in done for j in range(size)) for i in left}
        tops = max(unsure[i] for i in left) or 1, max(degree.values()) or 1
        scores = [competence * unsure[i] / tops[0] + (1 - competence) * degree[i] / tops[1] for i in left]
        picks.append(left[int(np.argmax(np.array(scores) >= max(scores) - 1e-12))])
        done |= {j for j in range(size) if d[picks[-1], j] < radius}
    return picks, grown, coverage, competence


@pytest.mark.parametrize("num_labeled", [0, 1, 8])
@pytest.mark.parametrize("centre", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("num_known", [0, 5])
def test_picks_equal_the_plain_loop(num_labeled, centre, num_known):
    features, probs = made(num_labeled + 1)
    labeled = make_rng(3).permutation(60)[:num_labeled]
    labels = make_rng(6).integers(0, 3, num_labeled)
    radii = np.where(np.arange(num_labeled) < num_known, make_rng(7).random(num_labeled), np.nan)
    candidates = np.setdiff1d(np.arange(5, 60), labeled)
    keys = {"delta": 0.5, "max_delta": 1.1, "steepness": 6.0, "centre": centre}
    found = F.dcom(features, probs, labeled, labels, 12, make_rng(4), radii=radii, candidates=candidates, **keys)
    order = make_rng(4).permutation(candidates)
    picks, grown, coverage, competence = slow_dcom(features, probs, labeled, labels, 12, order, radii, 0.5, 1.1, 6.0, centre)
    assert found.idx.tolist() == picks
    np.testing.assert_allclose(found.radii, grown, rtol=1e-6)
    assert found.coverage == pytest.approx(coverage) and found.competence == pytest.approx(competence)


@pytest.mark.parametrize("centre", [0.0, 0.4, 1.0])
def test_picks_among_copies_equal_the_plain_loop(centre):
    # Thirty samples twice, the copies beside them in the pool; two labelled ones have their copies among the candidates.
    features, probs = (np.repeat(array, 2, axis=0) for array in made(3, n=30))
    labeled, labels = np.array([4, 21]), np.array([0, 2])
    candidates = np.setdiff1d(np.arange(60), labeled)
    keys = {"delta": 0.5, "max_delta": 1.1, "steepness": 6.0, "centre": centre}
    found = F.dcom(features, probs, labeled, labels, 20, make_rng(4), **keys)
    order = make_rng(4).permutation(candidates)
    picks, grown, *_ = slow_dcom(features, probs, labeled, labels, 20, order, [math.nan] * 2, 0.5, 1.1, 6.0, centre)
    assert found.idx.tolist() == picks
    np.testing.assert_allclose(found.radii, grown, rtol=1e-6)


def test_copies_are_drawn_evenly_and_none_before_every_direction_has_a_pick():
    # Ten copies each of three directions. Nothing is labelled, so the competence is 4e-18 and coverage alone decides; then nothing does.
    features, rng, counts = np.repeat(np.eye(3), 10, axis=0), make_rng(0), Counter()
    for _ in range(300):
        picks = F.dcom(features, np.full((30, 3), 1 / 3), [], [], 4, rng, delta=0.5).idx
        assert sorted(picks[:3] // 10) == [0, 1, 2] and len(set(picks.tolist())) == 4
        counts.update(picks[:3].tolist())
    assert chisquare([counts[i] for i in range(30)]).pvalue > 1e-3


def test_the_competence_is_one_where_all_is_covered_and_a_half_of_that_at_the_centre():
    assert F.competence_score(1.0) == pytest.approx(1.0, rel=1e-15)
    # At the centre the denominator is 2: (1 + exp(-50 · 0.2)) / 2.
    assert F.competence_score(0.8) == pytest.approx((1 + math.exp(-10)) / 2, rel=1e-12)
    assert F.competence_score(0.0) == pytest.approx(math.exp(-40), rel=1e-4)
    assert F.competence_score(0.3, steepness=1e6) == 0.0
    values = [F.competence_score(c) for c in np.linspace(0, 1, 50)]
    assert values == sorted(values)


def test_a_ball_grows_as_long_as_it_is_pure_enough():
    # In order: right, right, wrong, right, wrong, wrong: shares 1, 1, 2/3, 3/4, 3/5, 1/2.
    distances, same = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.5]), np.array([True, True, False, True, False, False])
    assert F.pure_radius(distances, same, 0.7, 1.1) == 0.4
    assert F.pure_radius(distances, same, 0.6, 1.1) == 0.5
    assert F.pure_radius(distances, same, 0.5, 1.1) == 1.1
    assert F.pure_radius(distances, same, 0.6, 0.15) == 0.15
    assert F.pure_radius(distances, ~same, 1.0, 1.1) == 0.0
    # The second and the third as far: the ball holds both or none.
    assert F.pure_radius(np.array([0, 0.2, 0.2, 0.3]), np.array([True, True, False, False]), 0.9, 1.1) == 0.2


def test_a_purity_of_exactly_three_fifths_is_enough_where_that_is_wanted():
    # 0.4 + 0.2 · 1 is 0.6000000000000001. The first three of five are right.
    distances, same = np.array([0, 0.1, 0.2, 0.3, 0.4]), np.array([True, True, True, False, False])
    assert F.pure_radius(distances, same, 0.4 + 0.2 * 1.0, 1.1) == 1.1


def test_where_all_is_covered_it_is_margin_sampling():
    features, probs = made(2)
    found = F.dcom(features, probs, [0], [1], 9, make_rng(), delta=0.5, radii=[2.5])
    gaps = [sorted(p)[-1] - sorted(p)[-2] for p in probs]
    assert found.competence == 1 and found.idx.tolist() == sorted(range(1, 60), key=lambda i: gaps[i])[:9]


def test_where_nothing_is_covered_it_is_prob_cover():
    features, probs = made(2)
    found = F.dcom(features, probs, [], [], 9, make_rng(1), delta=0.4, steepness=1e4)
    assert found.competence == 0 and found.idx.tolist() == F.prob_cover(features, [], 9, make_rng(1), delta=0.4).idx.tolist()


def test_where_every_radius_is_zero_balls_are_those_of_delta():
    # The model predicts class 0 for all, and the labelled samples are of class 1: no ball is pure.
    features, _ = made(2)
    found = F.dcom(features, np.tile([0.8, 0.1, 0.1], (60, 1)), [0, 1], [1, 1], 9, make_rng(1), delta=0.4)
    assert found.radii.tolist() == [0, 0] and found.coverage == 0
    candidates = np.arange(2, 60)
    assert found.idx.tolist() == F.prob_cover(features, [], 9, make_rng(1), delta=0.4, candidates=candidates).idx.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 60}, "^budget: 60, expected an integer from 1 to the 59 candidates$"),
        ({"labels": [0, 1]}, r"^labels: expected one for each labelled sample, shape \(1,\), got \(2,\)$"),
        ({"labels": [3]}, "^labels: label 3 outside the 3 classes$"),
        ({"labels": [np.nan]}, "^labels: expected integers, got float64, such as nan first in row 0$"),
        ({"labels": [0.7]}, "^labels: expected integers, got float64, such as 0.7 first in row 0$"),
        ({"labels": [1.0]}, "^labels: expected integers, got float64$"),
        ({"labeled": [4], "radii": [-1.0]}, "^radii: -1 first for sample 4, expected numbers from 0 on, or NaN$"),
        ({"labeled": [4], "radii": [np.inf]}, "^radii: inf first for sample 4, expected numbers from 0 on, or NaN$"),
        ({"radii": [0.1, 0.2]}, r"^radii: expected one for each labelled sample, shape \(1,\), got \(2,\)$"),
        ({"delta": 0}, "^delta: 0, expected a number above 0$"),
        ({"max_delta": -1.0}, "^max_delta: -1.0, expected a number above 0$"),
        ({"steepness": np.inf}, "^steepness: inf, expected a number above 0$"),
        ({"centre": 1.5}, "^centre: 1.5, expected 0 to 1$"),
        ({"probs": made()[1][:50]}, "^probs: 50 rows, expected one for each of the 60 rows of features$"),
        ({"features": np.full((60, 2), np.nan)}, "^features: not finite in rows 0, 1, 2, 3, 4, ...$"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {"features": made()[0], "probs": made()[1], "labeled": [0], "labels": [1], "budget": 3, "rng": make_rng(), "delta": 0.5}
    with pytest.raises(ValueError, match=message):
        F.dcom(**(arguments | changes))


class TestDcom(AcquisitionContract):
    name = "dcom"
    config = {"delta": 0.1}

    def test_radii_are_kept_for_the_next_round(self, world):
        plugin = self.plugin()
        first = self.pick(world, 7, plugin)
        kept = dict(plugin.radii)
        assert sorted(kept) == world.pool.labeled.tolist() and all(0 <= r <= 1.1 for r in kept.values())
        world.pool.set_labels(first, world.dataset.targets[first], 1)
        view = self.view(world, plugin, cycle=2)
        plugin.select(view, 7)
        assert {i: plugin.radii[i] for i in kept} == kept and sorted(plugin.radii) == view.labeled.tolist()
        assert set(view._source.metrics) >= {"dcom/coverage", "dcom/competence", "dcom/mean_radius"}


class TestDcomByKeys(AcquisitionContract):
    name = "dcom"
    config = {"delta": 0.1, "max_delta": 0.05, "steepness": 3.0, "centre": 0.3}

    def test_the_keys_arrive(self, world):
        view = self.view(world, self.plugin())
        arrays = view.features, view.probs, view.labeled, view.labels, 7
        expected = F.dcom(*arrays, make_rng(), candidates=view.candidates, **self.config)
        plugin = self.plugin()
        assert plugin.select(view, 7).tolist() == expected.idx.tolist()
        assert list(plugin.radii.values()) == expected.radii.tolist()
        assert view._source.metrics["dcom/competence"] == expected.competence
        for key in ("max_delta", "steepness", "centre"):
            others = {k: v for k, v in self.config.items() if k != key}
            assert F.dcom(*arrays, make_rng(), candidates=view.candidates, **others).competence != expected.competence


class TestDcomByPurity(AcquisitionContract):
    name = "dcom"
    config = {"centre": 0.9}

    def test_the_first_radius_is_found_once_and_kept(self, world):
        plugin, restored = self.plugin(), self.plugin()
        assert plugin.state_dict()["delta"] == []
        first = self.pick(world, 7, plugin)
        restored.load_state_dict(plugin.state_dict())
        assert 0 < plugin.delta == restored.delta <= 2
        assert len(plugin.radii) == len(world.pool.labeled) and restored.radii == plugin.radii
        world.pool.set_labels(first, world.dataset.targets[first], 1)
        self.pick(world, 7, plugin, cycle=2)
        assert plugin.delta == restored.delta
