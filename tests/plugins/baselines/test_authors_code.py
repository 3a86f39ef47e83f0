"""Picks and laws of coreset, cdal, badge and alfa_mix are those of their authors' public code, on small arrays made here.

That code was run unchanged, outside of this repository, which holds its results alone (tests/authors_arrays.py).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from authors_arrays import (
    CLASSES,
    LABELED,
    LABELS,
    MIXED,
    MIXED_BUDGETS,
    SIZE,
    features,
    linear_head,
    outputs,
    probs,
    relu_features,
)
from usb_active.plugins.baselines.alfa_mix import LinearHead, TorchHead, alfa_mix, class_anchors
from usb_active.plugins.baselines.badge import GradientSpace, badge
from usb_active.plugins.baselines.cdal import cdal, contextual_distance

from usb_active.numerics.greedy import k_center_greedy


@pytest.fixture(scope="module")
def theirs():
    return outputs()


def test_coreset_picks_what_the_authors_code_picks(theirs):
    """`kCenterGreedy` of github.com/google/active-learning at efedd8f (2019-05-10), after six labelled samples.

    `CoreSetSampling` of github.com/osimeoni/RethinkingDeepActiveLearning at 8a0056f (2021-03-01) gave the same picks.
    """
    picks = k_center_greedy(features(), LABELED, len(theirs["coreset"]))
    assert picks.tolist() == theirs["coreset"].tolist()


def test_contextual_distances_are_the_authors(theirs):
    """`kl` in CDAL_CS.py of github.com/sharat29ag/CDAL at a5697b5 (2024-02-09).

    It takes a matrix of 19 distributions for an image, one for each class, and averages over them: here all 19 are one.
    """
    rows = probs(19)
    np.testing.assert_allclose(contextual_distance(rows[0], rows), theirs["cdal_distances"], rtol=1e-12, atol=1e-14)


def test_cdal_picks_what_the_authors_code_picks(theirs):
    """`kCenterGreedy` in the same file. Its first pick is uniform whatever is labelled; it counts as labelled here."""
    first, *rest = theirs["cdal"].tolist()
    assert cdal(probs(19), [*LABELED, first], len(rest), np.random.default_rng(0)).tolist() == rest


def test_distances_of_badge_give_the_law_of_the_authors_code(theirs):
    """`init_centers` of github.com/JordanAsh/badge at a2d18ac (2024-06-04): the probabilities of each pick, given those before it."""
    space, former = GradientSpace(features(), probs()), theirs["badge"].tolist()
    assert len(theirs["badge_probs"]) == len(former) - 1
    for number, law in enumerate(theirs["badge_probs"], start=1):
        pairs = [space.squared(np.arange(SIZE), np.full(SIZE, centre)) for centre in former[:number]]
        nearest = np.min(pairs, axis=0)
        nearest[former[:number]] = 0
        np.testing.assert_allclose(nearest / nearest.sum(), law, rtol=1e-6, atol=1e-9)


def test_badges_first_pick_is_the_authors_and_its_second_follows_their_law(theirs):
    """The same function; the second pick of 4,000 draws against its probabilities, by chi-squared."""
    draws = 4_000
    pairs = [badge(features(), probs(), 2, np.random.default_rng(seed)).tolist() for seed in range(draws)]
    first = int(theirs["badge"][0])
    assert {pick for pick, _ in pairs} == {first}
    others = np.delete(np.arange(SIZE), first)
    seen = np.bincount([second for _, second in pairs], minlength=SIZE)[others]
    expected = draws * theirs["badge_probs"][0][others]
    assert expected.min() > 10 and seen.sum() == draws
    # Of 59 cells the mean is 58 and the deviation √(2 · 58) = 10.8: five of these above it.
    assert ((seen - expected) ** 2 / expected).sum() < 58 + 5 * 10.8
    by_distance = np.sqrt(expected) / np.sqrt(expected).sum() * draws
    assert ((seen - by_distance) ** 2 / by_distance).sum() > 58 + 5 * 10.8, "the law is not that of the distance itself"


def both_heads(weight, bias):
    return LinearHead(weight, bias), TorchHead(lambda z: z @ torch.as_tensor(weight).T + torch.as_tensor(bias))


@pytest.mark.parametrize("case", range(len(MIXED)))
def test_alfa_mix_finds_inconsistent_what_the_authors_code_does(theirs, case):
    """`AlphaMixSampling.query` of github.com/AminParvaneh/alpha_mix_active_learning at b79d954 (2022-11-27), by its closed form.

    The features have many zeros in common with the anchors, and samples of a class lack the same coordinates. That code then runs a k-means
    whose start is drawn: compared are the candidates for it, and the mixing at which they were more than the budget.
    """
    dim, classes, epsilon = MIXED[case]
    rows, idx = relu_features(dim, classes), np.delete(np.arange(SIZE), LABELED)
    anchors = class_anchors(rows[LABELED], LABELS, classes)
    assert np.mean([(rows[idx] == anchor).mean() for anchor in anchors.astype(np.float32)]) > 0.2
    for number, budget in enumerate(MIXED_BUDGETS):
        expected, mixing = np.flatnonzero(theirs["alfa_mix_inconsistent"][case, number]), theirs["alfa_mix_epsilon"][case, number]
        assert budget < len(expected) < len(idx)
        for head in both_heads(*linear_head(dim, classes)):
            found = head.changes(rows, idx, anchors)(mixing / np.sqrt(dim), np.arange(len(idx)))
            assert idx[found].tolist() == expected.tolist()
            rng = np.random.default_rng(budget)
            mixed = alfa_mix(rows, LABELED, LABELS, budget, rng, head=head, num_classes=classes, epsilon=epsilon)
            assert (mixed.num_inconsistent, mixed.epsilon) == (len(expected), pytest.approx(mixing))
            assert set(mixed.idx) <= set(expected)


def test_the_arrays_are_those_that_the_code_was_run_on(theirs):
    """The generator is frozen: other numbers would mean another comparison."""
    assert features()[0, :3].tolist() == pytest.approx([3.3528805, 0.6178988, 1.0107689], abs=1e-6)
    assert probs()[0].tolist() == pytest.approx([0.6930879, 0.1792960, 0.1276160], abs=1e-6) and probs().shape == (SIZE, CLASSES)
    assert relu_features(8, 3)[0, :4].tolist() == pytest.approx([0.0912047, 1.0912827, 0, 0], abs=1e-6)
    assert linear_head(8, 3)[1].tolist() == pytest.approx([0.0361632, -0.7236749, 0.3090912], abs=1e-6)
    assert {array.dtype.kind for array in theirs.values()} <= {"i", "f"}
