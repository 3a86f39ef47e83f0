"""ASSAL's losses against the formulas as slow loops, against closed forms, their signs and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from usb_active.plugins.assal.functional import (
    BETA,
    Coded,
    adversarial_loss,
    balanced_accuracy,
    check_weights,
    classifier_loss,
    discriminator_loss,
    gaussian_kl,
    gaussian_log_likelihood,
    pool_mean,
    rank_average,
    representation_loss,
    rotated,
    sample_code,
    weighted_loss,
)


def values(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pool(size, seed=0, dim=3):
    parts = [values(size, 2, 4, 4, seed=seed), values(size, 2, 4, 4, seed=seed + 1), values(size, dim, seed=seed + 2)]
    return Coded(*(part.requires_grad_() for part in (*parts, values(size, dim, seed=seed + 3))))


def slow_kl(mu, log_var):
    return sum(0.5 * (m * m + math.exp(v) - v - 1) for m, v in zip(mu.tolist(), log_var.tolist(), strict=True))


def slow_bound(part, scale):
    """Eq. 1 of one pool: E[log p(x|z)] − KL, to be maximised."""
    total = 0.0
    for row in range(len(part.x)):
        pairs = zip(part.x[row].flatten().tolist(), part.reconstruction[row].flatten().tolist(), strict=True)
        total += sum(-0.5 * ((x - mean) / scale) ** 2 for x, mean in pairs) - slow_kl(part.mu[row], part.log_var[row])
    return total / len(part.x)


# ------------------------------------------------------------------------------------------------- the code
def test_the_kl_of_a_unit_gaussian_is_zero_and_of_others_the_closed_form():
    assert gaussian_kl(torch.zeros(2, 5), torch.zeros(2, 5)).tolist() == [0, 0]
    # μ = 3, σ = 1: 9/2. μ = 0, σ² = e: (e − 1 − 1)/2.
    assert gaussian_kl(torch.tensor([[3.0]]), torch.tensor([[0.0]])).item() == pytest.approx(4.5)
    assert gaussian_kl(torch.tensor([[0.0]]), torch.tensor([[1.0]])).item() == pytest.approx((math.e - 2) / 2)
    mu, log_var = values(4, 6), values(4, 6, seed=1)
    torch_own = torch.distributions.kl_divergence(
        torch.distributions.Normal(mu, (0.5 * log_var).exp()), torch.distributions.Normal(0.0, 1.0)
    ).sum(dim=1)
    assert torch.allclose(gaussian_kl(mu, log_var), torch_own, atol=1e-5)


def test_the_kl_is_never_negative_by_rounding():
    tiny = torch.linspace(-1e-3, 1e-3, 2001)[:, None]
    assert (gaussian_kl(torch.zeros_like(tiny), tiny) >= 0).all()


def test_a_sampled_code_has_the_mean_and_variance_asked_for():
    mu, log_var = torch.full((200_000, 1), 2.0), torch.full((200_000, 1), math.log(9.0))
    z = sample_code(mu, log_var, values(200_000, 1))
    # The error of the mean is 3/√200000 = .007, of the standard deviation .005.
    assert z.mean().item() == pytest.approx(2, abs=0.04) and z.std().item() == pytest.approx(3, abs=0.03)


def test_the_log_likelihood_is_that_of_a_gaussian_up_to_its_constant():
    x, mean = values(3, 1, 2, 2), values(3, 1, 2, 2, seed=1)
    whole = torch.distributions.Normal(mean, 0.7).log_prob(x).flatten(1).sum(dim=1)
    constant = -4 * (math.log(0.7) + 0.5 * math.log(2 * math.pi))
    assert torch.allclose(gaussian_log_likelihood(x, mean, 0.7) + constant, whole, atol=1e-5)


# ------------------------------------------------------------------------------------------------- Eq. 1
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_eq_1_is_minimised_as_minus_the_bound_of_each_pool(scale):
    labeled, unlabeled = pool(2), pool(5, seed=10)
    expected = -(slow_bound(labeled, scale) + slow_bound(unlabeled, scale))
    assert representation_loss(labeled, unlabeled, scale).item() == pytest.approx(expected, rel=1e-5)


def test_means_are_per_pool_so_that_a_larger_pool_counts_no_more():
    one, other = pool(2), pool(3, seed=10)
    doubled = Coded(*(torch.cat([part, part]) for part in (other.x, other.reconstruction, other.mu, other.log_var)))
    assert representation_loss(one, doubled).item() == pytest.approx(representation_loss(one, other).item(), rel=1e-5)


def test_a_better_reconstruction_and_a_code_nearer_to_the_prior_are_a_smaller_loss():
    one, other = pool(3), pool(4, seed=10)
    loss = representation_loss(one, other)
    loss.backward()
    for part in (one, other):
        assert torch.allclose(part.reconstruction.grad, (part.reconstruction - part.x).detach() / len(part.x), atol=1e-5)
        assert torch.allclose(part.mu.grad, part.mu.detach() / len(part.x), atol=1e-5)


# ------------------------------------------------------------------------------------------------- Eq. 2, 3 and 7
@pytest.mark.parametrize("beta", [0.0, 0.01, 1.0])
def test_eq_2_3_and_7_are_cross_entropy_and_beta_times_the_kl(beta):
    logits, mu, log_var, targets = values(4, 3), values(4, 2, seed=1), values(4, 2, seed=2), [2, 0, 1, 1]
    total = 0.0
    for row, target in enumerate(targets):
        exponentials = [math.exp(value) for value in logits[row].tolist()]
        total += -math.log(exponentials[target] / sum(exponentials)) + beta * slow_kl(mu[row], log_var[row])
    assert classifier_loss(logits, torch.tensor(targets), mu, log_var, beta).item() == pytest.approx(total / 4, rel=1e-5)


def test_samples_that_do_not_count_are_in_the_denominator_alone():
    logits, mu, log_var, targets = values(4, 3), values(4, 2, seed=1), values(4, 2, seed=2), torch.tensor([2, 0, 1, 1])
    counted = torch.tensor([True, False, True, False])
    two = sum(classifier_loss(logits[[i]], targets[[i]], mu[[i]], log_var[[i]], 0.3).item() for i in (0, 2))
    assert classifier_loss(logits, targets, mu, log_var, 0.3, counted).item() == pytest.approx(two / 4, rel=1e-5)
    assert classifier_loss(logits, targets, mu, log_var, 0.3, torch.zeros(4, dtype=torch.bool)).item() == 0


def test_the_default_beta_is_far_below_one_and_as_printed_the_best_code_is_the_empty_one():
    assert BETA <= 0.05
    # Two classes with codes at ±s, unit variance: E log p(y|z) − β · KL by quadrature, with p(y|z) the posterior.
    z = torch.linspace(-12, 12, 4001)
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)

    def bound(s, beta):
        likelihood = torch.nn.functional.logsigmoid(2 * s * (z + s))
        return float((density * likelihood).sum() * (z[1] - z[0])) - beta * s * s / 2

    separations = [0.5 * step for step in range(8)]
    assert max(separations, key=lambda s: bound(s, 1.0)) == 0 and bound(0, 1.0) == pytest.approx(-math.log(2), abs=1e-4)
    assert max(separations, key=lambda s: bound(s, BETA)) > 2


# ------------------------------------------------------------------------------------------------- Eq. 4 and 5
def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def test_eq_4_and_5_by_their_logarithms():
    labeled, unlabeled = values(3), values(5, seed=1)
    known = -sum(math.log(sigmoid(value)) for value in labeled.tolist()) / 3
    as_labeled = -sum(math.log(sigmoid(value)) for value in unlabeled.tolist()) / 5
    as_unlabeled = -sum(math.log(1 - sigmoid(value)) for value in unlabeled.tolist()) / 5
    assert adversarial_loss(labeled, unlabeled).item() == pytest.approx(known + as_labeled, rel=1e-5)
    assert discriminator_loss(labeled, unlabeled).item() == pytest.approx(known + as_unlabeled, rel=1e-5)


def test_at_chance_both_are_twice_log_2():
    zeros = torch.zeros(4)
    assert adversarial_loss(zeros, zeros).item() == pytest.approx(2 * math.log(2))
    assert discriminator_loss(zeros, zeros).item() == pytest.approx(2 * math.log(2))


def test_the_encoder_wants_all_taken_for_labelled_and_the_sampler_wants_them_told_apart():
    for loss, sign_of_unlabeled in ((adversarial_loss, -1), (discriminator_loss, 1)):
        labeled, unlabeled = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
        loss(labeled, unlabeled).backward()
        assert (labeled.grad < 0).all() and (unlabeled.grad * sign_of_unlabeled > 0).all()


def test_a_sampler_that_is_sure_and_wrong_costs_a_finite_loss():
    sure = torch.full((2,), 500.0, requires_grad=True)
    loss = discriminator_loss(-sure, sure) + adversarial_loss(-sure, -sure)
    loss.backward()
    assert loss.item() == pytest.approx(2000) and torch.isfinite(sure.grad).all()


# ------------------------------------------------------------------------------------------------- empty pools
def test_a_pool_without_samples_adds_zero_and_a_zero_gradient():
    empty, other = pool(0), pool(3, seed=10)
    loss = representation_loss(empty, other)
    assert loss.item() == pytest.approx(-slow_bound(other, 1.0), rel=1e-5)
    nothing = torch.zeros(0, requires_grad=True)
    logits, codes = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, 2)
    zero = classifier_loss(logits, torch.zeros(0, dtype=torch.long), codes, codes)
    (loss + zero + pool_mean(nothing)).backward()
    assert zero.item() == 0 and pool_mean(nothing).item() == 0 and torch.isfinite(other.mu.grad).all()
    assert adversarial_loss(nothing, torch.zeros(2)).item() == pytest.approx(math.log(2))
    assert discriminator_loss(nothing, torch.zeros(2)).item() == pytest.approx(math.log(2))


# ------------------------------------------------------------------------------------------------- Eq. 6 and 8
def test_eq_6_is_the_weighted_sum_and_a_weight_of_zero_leaves_a_term_out():
    terms = {"a": torch.tensor(2.0), "b": torch.tensor(5.0), "c": torch.tensor(math.nan)}
    assert weighted_loss({"a": 0.5, "b": 3, "c": 0}, terms).item() == pytest.approx(16)
    with pytest.raises(ValueError, match="^d: has a weight of 2, but no term$"):
        weighted_loss({"a": 1, "d": 2}, terms)


@pytest.mark.parametrize(("weights", "said"), [
    ({"a": 0, "b": 0.0}, "a, b: all are 0"), ({"a": 1, "b": -0.5}, "b: -0.5; it must be"),
    ({"a": math.nan}, "a: nan; it must be"), ({"a": math.inf}, "a: inf; it must be"),
])  # fmt: skip
def test_weights_that_cannot_be(weights, said):
    with pytest.raises(ValueError, match=said):
        check_weights(weights)


@pytest.mark.parametrize("beta", [-0.5, math.inf, math.nan])
def test_what_a_loss_cannot_be_made_of_is_said(beta):
    one = pool(2)
    with pytest.raises(ValueError, match=r"beta: .*; it must be a finite number of at least 0"):
        representation_loss(one, one, beta=beta)
    with pytest.raises(ValueError, match=r"beta: .*; it must be a finite number of at least 0"):
        classifier_loss(values(2, 4), torch.tensor([0, 1]), one.mu, one.log_var, beta=beta)
    for scale in (0.0, beta):
        with pytest.raises(ValueError, match=r"scale: .*; it must be a finite number above 0"):
            representation_loss(one, one, scale=scale)
    broadcast = Coded(one.x, one.reconstruction[:1], one.mu, one.log_var)
    with pytest.raises(ValueError, match=r"unlabeled: images of shape \(2, 2, 4, 4\) and reconstructions of \(1, 2, 4, 4\)"):
        representation_loss(one, broadcast)


# ------------------------------------------------------------------------------------------------- rotations, the sampler's accuracy
def test_each_image_is_turned_by_its_own_number_of_quarter_turns():
    x = values(8, 2, 5, 5)
    turns = torch.tensor([0, 1, 2, 3, 3, 1, 0, 2])
    expected = torch.stack([torch.rot90(image, int(number), dims=(1, 2)) for image, number in zip(x, turns, strict=True)])
    assert torch.equal(rotated(x, turns), expected)
    # Four quarter turns are none; a pixel at the right goes to the top.
    assert torch.equal(rotated(rotated(x, turns), 4 - turns), x)
    assert torch.equal(rotated(x, turns - 4), expected)
    picture = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])
    assert rotated(picture, torch.tensor([1])).tolist() == [[[[1.0, 0.0], [0.0, 0.0]]]]


def test_balanced_accuracy_does_not_follow_the_larger_pool():
    # One of one, and three of four.
    assert balanced_accuracy(torch.tensor([2.0]), torch.tensor([-1.0, -1.0, -1.0, 1.0])).item() == pytest.approx(0.875)
    assert balanced_accuracy(-torch.ones(1), -torch.ones(99)).item() == 0.5
    with pytest.raises(ValueError, match="0 labelled and 3 unlabelled samples"):
        balanced_accuracy(torch.ones(0), torch.ones(3))


# ------------------------------------------------------------------------------------------------- the sampler's order and the entropy
def drawn_scores(count=30):
    rng = np.random.default_rng(0)
    return rng.integers(-3, 4, count).astype(float), rng.integers(0, 5, count) / 4


@pytest.mark.parametrize("weight", [0, 0.3, 1])
def test_the_mixed_score_by_slow_loops(weight):
    logits, entropies = drawn_scores()
    for i, found in enumerate(rank_average(logits, entropies, weight)):
        ranks = []
        for value, values in ((-logits[i], -logits), (entropies[i], entropies)):
            below, equal = sum(other < value for other in values), sum(other == value for other in values)
            ranks.append((below + (equal + 1) / 2) / 30)
        assert found == pytest.approx((1 - weight) * ranks[0] + weight * ranks[1])


def test_the_mixed_score_in_closed_form():
    # Ranks of −logits 3, 1, 2 and of the entropies 1, 2, 3, of three.
    logits, entropies = np.array([-9.0, 500.0, 0.1]), np.array([0.0, 0.5, 0.6])
    assert rank_average(logits, entropies, 0.5) == pytest.approx(np.array([4, 3, 5]) / 6)
    assert rank_average(logits, entropies, 0) == pytest.approx(np.array([3, 1, 2]) / 3)
    assert rank_average(logits, entropies, 1) == pytest.approx(np.array([1, 2, 3]) / 3)
    assert rank_average(np.ones(4), np.ones(4), 0.2) == pytest.approx(np.full(4, 0.625))
    assert rank_average(np.ones(1), np.ones(1), 0.2).tolist() == [1] and rank_average(np.ones(0), np.ones(0), 0.2).shape == (0,)


def test_the_mixed_score_knows_neither_scale_nor_order():
    logits, entropies = drawn_scores()
    found, order = rank_average(logits, entropies, 0.4), np.random.default_rng(1).permutation(30)
    assert np.array_equal(rank_average(np.exp(logits) * 1e6, np.sqrt(entropies), 0.4), found)
    assert np.array_equal(rank_average(logits[order], entropies[order], 0.4), found[order])
    # A sampler that is sure orders as one that is not; the lowest logit comes first where entropies are equal.
    assert rank_average(logits, np.zeros(30), 0.4).argmax() in np.flatnonzero(logits == logits.min())


@pytest.mark.parametrize(("arguments", "said"), [
    ((np.ones(3), np.ones(2), 0.5), "entropies: expected one for each logit"),
    ((np.ones((2, 2)), np.ones((2, 2)), 0.5), "entropies: expected"),
    ((np.array([1, np.nan]), np.ones(2), 0.5), "logits: nan; they must be finite"),
    ((np.ones(2), np.array([np.inf, 1]), 0.5), "entropies: inf"), ((np.ones(2), np.ones(2), 1.5), "weight: 1.5"),
    ((np.ones(2), np.ones(2), -0.1), "weight: -0.1"), ((np.ones(2), np.ones(2), float("nan")), "weight: nan"),
])  # fmt: skip
def test_what_cannot_be_mixed_is_said(arguments, said):
    with pytest.raises(ValueError, match=said):
        rank_average(*arguments)
