"""REVIVAL's picks: the boundary limitator (Eq. 6), the preselection, and the ablations that are its limits."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from revival_graphs import blobs
from usb_active.plugins.revival.functional import (
    Adversary,
    GcnSettings,
    adversarial_divergence,
    fit_propagator,
    limit,
    num_preselected,
    select,
    virtual_labels,
)

SHORT = GcnSettings(hidden=7, epochs=15)
TWO = {"budgets": 2}


def generator(seed=0):
    return np.random.default_rng(seed)


def pool(per_class=30):
    features, truth, labeled = blobs(per_class=per_class, spread=1.5)
    return features, labeled, truth[labeled]


def slow_entropy(row):
    return -sum(float(p) * math.log(float(p)) for p in row if p > 0)


def parts(features, labeled, labels, adversary, k=6):
    """Virtual labels and divergences as `select` makes them from a generator of the same seed."""
    rng = generator(4)
    propagator = fit_propagator(features, labeled, labels, 3, k=k, settings=SHORT, rng=rng)
    return propagator.probs(), adversarial_divergence(propagator, adversary, rng=rng)


# ------------------------------------------------------------------------------------------------- the whole
@pytest.mark.parametrize("preselect", [{"budgets": 2}, {"share": 0.4}])
def test_picks_are_the_papers_two_sorted_lists(preselect):
    features, labeled, labels = pool()
    adversary = Adversary(0.05)
    found = select(features, labeled, labels, 3, 8, preselect=preselect, k=6, settings=SHORT, adversary=adversary, rng=generator(4))
    probs, moved = parts(features, labeled, labels, adversary)
    free = [i for i in range(len(features)) if i not in set(labeled.tolist())]
    count = 16 if "budgets" in preselect else 36
    top = sorted(free, key=lambda i: -moved[i])[:count]
    assert found.tolist() == sorted(top, key=lambda i: -slow_entropy(probs[i]))[:8]


def test_m_equal_to_k_is_the_generator_alone():
    """LP+VAG of Table 1: the K that move most, whatever their entropy."""
    features, labeled, labels = pool()
    found = select(features, labeled, labels, 3, 8, preselect={"budgets": 1}, k=6, settings=SHORT, rng=generator(4))
    _, moved = parts(features, labeled, labels, Adversary())
    assert set(found.tolist()) == set(np.argsort(-moved)[:8].tolist())


def test_m_of_all_is_the_limitator_alone():
    """LP+BL of Table 1: the K of largest entropy, whatever pushes would do."""
    features, labeled, labels = pool()
    keys = {"preselect": "all", "k": 6, "settings": SHORT}
    runs = [select(features, labeled, labels, 3, 8, adversary=Adversary(epsilon), rng=generator(4), **keys) for epsilon in (0.1, 50)]
    probs = virtual_labels(features, labeled, labels, 3, k=6, settings=SHORT, rng=generator(4))
    free = np.setdiff1d(np.arange(len(features)), labeled)
    expected = sorted(free.tolist(), key=lambda i: -slow_entropy(probs[i]))[:8]
    assert runs[0].tolist() == runs[1].tolist() == expected
    large = select(features, labeled, labels, 3, 8, preselect={"budgets": 1000}, k=6, settings=SHORT, rng=generator(4))
    assert large.tolist() == expected


def test_only_candidates_are_picked_and_the_others_are_nodes_all_the_same():
    features, labeled, labels = pool()
    candidates = generator(7).permutation(np.setdiff1d(np.arange(len(features)), labeled))[:25]
    found = select(features, labeled, labels, 3, 8, candidates=candidates, preselect=TWO, k=6, settings=SHORT, rng=generator(4))
    assert np.isin(found, candidates).all() and len(set(found.tolist())) == 8
    # By the divergences on the whole graph.
    _, moved = parts(features, labeled, labels, Adversary())
    assert np.isin(found, candidates[np.argsort(-moved[candidates])[:16]]).all()


def test_the_same_generator_gives_the_same_picks():
    features, labeled, labels = pool()
    one, again = (select(features, labeled, labels, 3, 8, settings=SHORT, rng=generator(1)) for _ in range(2))
    assert one.tolist() == again.tolist()


# ------------------------------------------------------------------------------------------------- M
@pytest.mark.parametrize(
    ("preselect", "expected"),
    [
        ({"budgets": 1}, 20), ({"budgets": 1.0}, 20), ({"budgets": 3}, 60), ({"budgets": 2.21}, 45), ({"share": 0.5}, 500),
        ({"share": 0.02}, 20), ({"share": 0.0201}, 21), ("all", 900), ({"budgets": 45}, 900), ({"budgets": 1.1}, 22), ({"share": 0.9}, 900),
        ({"share": 1}, 900), ({"share": 1.0}, 900), ({"budgets": np.float32(2)}, 40), ({"budgets": 1e308}, 900),
        ({"budgets": 10**400}, 900), ({"budgets": np.int64(3)}, 60), ({"share": np.float64(0.5)}, 500),
    ],
)  # fmt: skip
def test_preselected_by_hand(preselect, expected):
    """K = 20 of N = 1000, 900 candidates: 2.21 · 20 = 44.2 → 45, 0.0201 · 1000 = 20.1 → 21, 45 · 20 = 900, 1.1 · 20 = 22."""
    assert num_preselected(preselect, 20, 1000, 900) == expected


def test_more_than_there_is_is_clipped_with_a_warning(caplog):
    assert num_preselected({"budgets": 10}, 20, 1000, 150) == 150
    assert "preselect: {'budgets': 10} is more than the 150 samples that can be queried" in caplog.text
    caplog.clear()
    assert num_preselected("all", 20, 1000, 150) == 150 and not caplog.text


@pytest.mark.parametrize(
    "preselect",
    [
        0, 1, 1.0, 0.5, True, np.True_, None, "none", {}, {"budget": 2}, {"budgets": 2, "share": 0.5}, {"budgets": 0.99}, {"budgets": True},
        {"budgets": np.True_}, {"budgets": "2"}, {"budgets": None}, {"budgets": math.nan}, {"budgets": math.inf}, {"share": 0},
        {"share": -0.1}, {"share": 1.01}, {"share": math.nan},
    ],
)  # fmt: skip
def test_a_preselection_that_is_none_is_refused(preselect):
    with pytest.raises(ValueError, match=rf"preselect: {re.escape(repr(preselect))}, expected auto, all, {{budgets: a number from 1}} or"):
        num_preselected(preselect, 20, 1000, 900)


@pytest.mark.parametrize("share", [0.019, 1e-9])
def test_a_share_below_the_budget_is_refused(share):
    with pytest.raises(ValueError, match=f"preselect: a share of {share} of the 1000 samples is .*, below the budget of 20"):
        num_preselected({"share": share}, 20, 1000, 900)


@pytest.mark.parametrize(
    ("budget", "candidates", "expected"), [(20, 900, 150), (50, 900, 150), (60, 900, 180), (20, 100, 100), (400, 900, 900)]
)
def test_without_a_number_it_is_a_share_of_the_pool_and_three_budgets_at_least(caplog, budget, candidates, expected):
    """15 % of 1,000 are 150, from a budget of 51 on three budgets are more; nobody asked for a number, so nobody is warned."""
    assert num_preselected("auto", budget, 1000, candidates) == expected and not caplog.text


def test_the_refusal_says_what_is_enough():
    enough = "give a share of at least 0.02, or {budgets: 1} or more"
    with pytest.raises(ValueError, match=f"0.01 of the 1000 samples is 10, below the budget of 20; {enough}"):
        num_preselected({"share": 0.01}, 20, 1000, 900)


# ------------------------------------------------------------------------------------------------- the limitator alone
def made_probs(size=40, seed=0):
    return generator(seed).dirichlet(np.ones(3), size)


def test_ties_are_drawn():
    probs, counts = np.full((40, 3), 1 / 3), np.zeros(40, int)
    for seed in range(200):
        counts[limit(probs, np.zeros(40), np.ones((40, 2)), 10, np.arange(40), 20, rng=generator(seed))] += 1
    # 2,000 picks over 40 candidates are 50 each, with a standard deviation of about 6.
    assert counts.min() > 25 and counts.max() < 75


def test_diversity_spreads_over_groups_that_the_entropy_would_leave_out():
    """Two far groups; one has slightly more entropy. By entropy alone all picks come from it, by k-means++ they do not."""
    rng = generator(0)
    features = np.concatenate([rng.normal([5, 0], 0.1, (20, 2)), rng.normal([0, 5], 0.1, (20, 2))])
    probs = np.repeat([[0.5, 0.5], [0.45, 0.55]], 20, axis=0)
    plain = limit(probs, np.ones(40), features, 6, np.arange(40), 40, rng=generator(1))
    spread = [limit(probs, np.ones(40), features, 6, np.arange(40), 40, diversity=True, rng=generator(seed)) for seed in range(20)]
    assert (plain < 20).all()
    for picks in spread:
        assert len(set(picks.tolist())) == 6 and picks[0] < 20 and (picks >= 20).any()


def test_diversity_leaves_what_is_certain_for_last():
    """Entropy zero is the origin for all directions: one point, that is drawn once at most while others are left."""
    features, probs = generator(0).standard_normal((40, 4)), made_probs()[:, :2]
    probs = probs / probs.sum(axis=1, keepdims=True)
    probs[20:] = [1, 0]
    picks = limit(probs, np.ones(40), features, 12, np.arange(40), 40, diversity=True, rng=generator(2))
    assert (picks >= 20).sum() <= 1
    assert limit(probs, np.ones(40), features, 40, np.arange(40), 40, diversity=True, rng=generator(2)).size == 40


def test_diversity_stays_within_the_preselection():
    features, moved = generator(0).standard_normal((40, 4)), generator(1).random(40)
    picks = limit(made_probs(), moved, features, 5, np.arange(40), 9, diversity=True, rng=generator(3))
    assert np.isin(picks, np.argsort(-moved)[:9]).all()


# ------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 0}, "budget: 0, expected an integer from 1 to the 84 candidates"),
        ({"budget": 85}, "budget: 85"),
        ({"candidates": [1, 1]}, "candidates: more than once"),
        ({"candidates": [90]}, "candidates: index 90 outside"),
        ({"labeled": []}, "labels: expected 0 integers|nothing is labelled"),
        ({"adversary": Adversary(0.0)}, "epsilon: 0.0"),
        ({"k": 91}, "k: 91"),
    ],
)
def test_bad_input_is_named(change, message):
    features, labeled, labels = pool()
    arguments = {"labeled": labeled, "budget": 5, "rng": generator(), **change}
    with pytest.raises(ValueError, match=message):
        select(features, labels=labels, num_classes=3, **arguments)


def test_labelled_candidates_are_named():
    features, labeled, labels = pool()
    with pytest.raises(ValueError, match=f"candidates: labelled already: index {labeled[0]}"):
        select(features, labeled, labels, 3, 1, candidates=[int(labeled[0])], rng=generator())
