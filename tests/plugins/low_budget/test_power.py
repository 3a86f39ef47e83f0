"""Power acquisition against its law, closed forms and invariants."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare
from usb_active.plugins.low_budget import functional as F

from usb_active.testing import AcquisitionContract


def make_rng(seed=0):
    return np.random.default_rng(seed)


def law(weights, budget):
    """Probability of every ordered draw without replacement, one pick after the other."""
    result = {}
    for picks in itertools.permutations(range(len(weights)), budget):
        probability, left = 1.0, sum(weights)
        for i in picks:
            probability *= weights[i] / left
            left -= weights[i]
        result[picks] = probability
    return result


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_draws_follow_the_law(beta):
    scores, rng, draws = np.array([0.9, 0.5, 0.3, 0.05]), make_rng(11), 6000
    expected = law(scores**beta, 2)
    counts = Counter(tuple(map(int, F.power_sample(scores, np.arange(4), 2, rng, beta=beta))) for _ in range(draws))
    # Chi-square wants five of each: the rarest are pooled.
    common = [s for s in expected if expected[s] * draws >= 5]
    observed, theory = [counts[s] for s in common], [expected[s] * draws for s in common]
    if len(common) < len(expected):
        observed.append(draws - sum(observed))
        theory.append(draws - sum(theory))
    assert chisquare(observed, theory).pvalue > 1e-3


def test_the_score_is_one_minus_the_margin():
    # Margins 0.8, 0.4, 0: scores 0.2, 0.6, 1 of 1.8.
    probs, rng = np.array([[0.9, 0.1], [0.3, 0.7], [0.5, 0.5], [1.0, 0.0]]), make_rng(5)
    counts = Counter(int(F.power_margin(probs, 1, rng, candidates=[0, 1, 2])[0]) for _ in range(1800))
    assert chisquare([counts[i] for i in range(3)], [200, 600, 1000]).pvalue > 1e-3


def test_scores_of_zero_come_last_and_are_drawn_evenly():
    rng, counts = make_rng(3), Counter()
    for _ in range(900):
        picks = F.power_sample([0.0, 1e-300, 0.0, 5.0, 0.0], np.arange(5), 3, rng).tolist()
        assert set(picks[:2]) == {1, 3}
        counts[picks[2]] += 1
    assert chisquare([counts[i] for i in (0, 2, 4)]).pvalue > 1e-3
    counts = Counter(int(F.power_sample(np.zeros(4), np.arange(4), 1, rng)[0]) for _ in range(800))
    assert chisquare([counts[i] for i in range(4)]).pvalue > 1e-3


def test_a_high_power_is_the_top_and_a_low_one_uniform():
    scores = make_rng(1).random(50)
    assert F.power_sample(scores, np.arange(50), 10, make_rng(), beta=1e6).tolist() == np.argsort(-scores)[:10].tolist()
    first = Counter(int(F.power_sample([1e-3, 1.0, 10.0], np.arange(3), 1, make_rng(s), beta=1e-9)[0]) for s in range(900))
    assert chisquare([first[i] for i in range(3)]).pvalue > 1e-3


@pytest.mark.parametrize("beta", [1e18, 1e308])
def test_equals_are_drawn_evenly_however_high_the_power_is(beta):
    # The largest is first, then one of four equals, and zeros last.
    scores, rng, counts = np.array([0.3, 0.3, 0, 0.3, 0.3, 0.7, 0]), make_rng(5), Counter()
    for _ in range(400):
        picks = F.power_sample(scores, np.arange(7), 7, rng, beta=beta).tolist()
        assert picks[0] == 5 and set(picks[5:]) == {2, 6}
        counts.update([("equal", picks[1]), ("zero", picks[5])])
    assert chisquare([counts["equal", i] for i in (0, 1, 3, 4)]).pvalue > 1e-3
    assert chisquare([counts["zero", i] for i in (2, 6)]).pvalue > 1e-3


def test_the_scale_of_scores_does_not_matter():
    scores = make_rng(1).random(50)
    picks = [F.power_sample(scale * scores, np.arange(50), 20, make_rng(7), beta=2).tolist() for scale in (1e-100, 1, 1e100)]
    assert picks[0] == picks[1] == picks[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 4}, "^budget: 4, expected an integer from 1 to the 3 candidates$"),
        ({"beta": 0}, "^beta: 0, expected a number above 0$"),
        ({"beta": np.inf}, "^beta: inf, expected a number above 0$"),
        ({"scores": [1.0, -1.0, 2.0]}, "^scores: expected finite numbers from 0 on, not so for sample 8$"),
        ({"scores": [np.nan, 1.0, np.inf]}, "^scores: expected finite numbers from 0 on, not so for samples 7, 9$"),
        ({"scores": [1.0]}, r"^scores: expected one score per candidate, shape \(3,\), got \(1,\)$"),
        ({"candidates": [7, 7, 8]}, "^candidates: more than once: index 7$"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {"scores": [1.0, 2.0, 3.0], "candidates": [7, 8, 9], "budget": 2, "rng": make_rng()} | changes
    with pytest.raises(ValueError, match=message):
        F.power_sample(**arguments)


def test_probs_that_are_no_distribution_are_named():
    with pytest.raises(ValueError, match="^probs: rows must sum to 1 .* first in rows 0, 1$"):
        F.power_margin(np.ones((2, 3)), 1, make_rng())
    with pytest.raises(ValueError, match="^candidates: index 5 outside the 2 rows of probs$"):
        F.power_margin(np.full((2, 2), 0.5), 1, make_rng(), candidates=[5])


class TestPowerMargin(AcquisitionContract):
    name = "power_margin"
    config = {"beta": 2.0}
    deterministic = False

    def test_it_is_the_function(self, world):
        view = self.view(world, self.plugin())
        expected = F.power_margin(view.probs, 7, self.view(world, self.plugin()).rng, candidates=view.candidates, beta=2.0)
        assert self.plugin().select(view, 7).tolist() == expected.tolist()
