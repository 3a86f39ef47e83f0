"""VAAL's and SRAAL's arithmetic: formulas as slow loops, closed forms, what each step moves, and a pass of them."""

from __future__ import annotations

import copy
import math
import statistics
import tracemalloc

import numpy as np
import pytest
import torch
from usb_active.plugins.assal.adversaries import (
    Pair,
    SraalPair,
    VaalPair,
    Weights,
    discriminator_learns,
    labeled_order,
    online_uncertainty,
    relabeled_loss,
    train_pass,
)
from usb_active.plugins.assal.functional import discriminator_loss
from usb_active.plugins.assal.networks import Discriminator, UnifiedVae, Vae

from usb_active.numerics import arrays


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def vaal(latent=4, lr=1e-3, **weights):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VaalPair(Vae(8, 1, latent, 4), Discriminator(latent, 16), lr, Weights(**weights))


def sraal(latent=4, lr=1e-3, **weights):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SraalPair(UnifiedVae(3, 8, 1, latent, 4), Discriminator(2 * latent, 16), lr, Weights(**weights))


def batch(uncertainty=None):
    given = torch.tensor([0.1, 0.5, 1.0]) if uncertainty is None else uncertainty
    return Pair(normal(2, 1, 8, 8), normal(3, 1, 8, 8, seed=1), torch.tensor([0, 2]), given)


# ------------------------------------------------------------------------------------------------- uncertainty
def test_the_uncertainty_indicator_by_hand():
    probs = np.random.default_rng(0).dirichlet(np.full(4, 0.7), size=30)
    for row, found in zip(probs, online_uncertainty(probs), strict=True):
        count, largest = 4, max(row)
        variance = sum((p - 1 / count) ** 2 for p in row) / count
        equal = [largest, *[(1 - largest) / (count - 1)] * (count - 1)]
        least = sum((p - 1 / count) ** 2 for p in equal) / count
        assert found == pytest.approx(1 - least / variance * largest)


def test_the_uncertainty_indicator_in_closed_form():
    # Certain: 0. Uniform: 1. All but the largest equal, so that Var = MINVAR: 1 - max. Two equal halves of three classes: Var is
    # (2/36 + 4/36) / 3 = 1/18, the least with a maximum of 1/2 is (1/36 + 2/144) / 3 = 1/72: 1 - 1/4 · 1/2.
    rows = np.array([[0, 1, 0], [1 / 3] * 3, [0.8, 0.1, 0.1], [0.5, 0.5, 0]])
    assert online_uncertainty(rows) == pytest.approx([0, 1, 0.2, 0.875])
    # Rounding of a softmax does not matter.
    assert online_uncertainty(np.full((1, 7), 1 / 7, dtype=np.float32)).tolist() == [1]


def test_the_uncertainty_indicator_knows_no_order_of_classes_and_stays_in_its_range():
    probs = np.random.default_rng(1).dirichlet(np.full(5, 0.2), size=200).astype(np.float32)
    found = online_uncertainty(probs)
    assert found == pytest.approx(online_uncertainty(probs[:, [3, 1, 4, 0, 2]]), abs=1e-6) and found.min() >= 0 and found.max() <= 1
    # Against two classes it is a function of the maximum alone.
    largest = np.linspace(0.51, 1, 20)
    assert online_uncertainty(np.stack([largest, 1 - largest], axis=1)) == pytest.approx(1 - largest)


def test_minvar_is_the_least_variance_of_a_vector_with_this_maximum():
    # So the ratio is at most 1. And it is reached where the others are equal.
    probs = np.random.default_rng(2).dirichlet(np.full(6, 0.5), size=500)
    largest = probs.max(axis=1)
    assert (online_uncertainty(probs) >= 1 - largest - 1e-9).all()
    others = np.where(probs == largest[:, None], 0, probs)
    flat = np.where(probs == largest[:, None], probs, (others.sum(axis=1) / 5)[:, None])
    assert online_uncertainty(flat) == pytest.approx(1 - largest)


def test_the_authors_divide_the_variance_by_one_less():
    probs = np.random.default_rng(3).dirichlet(np.full(5, 0.7), size=40)
    for row, found in zip(probs, online_uncertainty(probs), strict=True):
        largest = max(row)
        least = ((1 / 5 - largest) ** 2 + 4 * (1 / 5 - (1 - largest) / 4) ** 2) / 5
        assert 1 / 5 + 4 / 5 * found == pytest.approx(1 - largest * least / statistics.variance(row.tolist()))


def test_a_large_pool_is_taken_by_blocks_of_rows(monkeypatch):
    probs = np.random.default_rng(4).dirichlet(np.full(10, 0.7), size=50_000).astype(np.float32)
    whole = online_uncertainty(probs)
    # 102 rows at a time; the last block is smaller.
    monkeypatch.setattr(arrays, "BLOCK", 1 << 10)
    tracemalloc.start()
    found = online_uncertainty(probs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.tolist() == whole.tolist() and found.shape == (50_000,)
    # In one piece it would be several times the input, which is 2 MB; the result is 0.4 MB, and the rows' numbers as much.
    assert peak < probs.nbytes / 2


def test_no_predictions_have_no_uncertainty():
    assert online_uncertainty(np.empty((0, 3), dtype=np.float32)).shape == (0,)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 2, 2)])
def test_what_is_no_table_of_probabilities_is_said(shape):
    with pytest.raises(ValueError, match="probs: expected .samples, classes. with at least 2 classes, got"):
        online_uncertainty(np.ones(shape))


# ------------------------------------------------------------------------------------------------- the relabelled loss
def test_the_relabelled_loss_by_hand():
    labeled, unlabeled, uncertainty = normal(5), normal(4, seed=1), torch.tensor([0.0, 0.3, 0.9, 1.0])
    sigmoid = [1 / (1 + math.exp(-value)) for value in unlabeled.tolist()]
    first = sum(math.log(1 + math.exp(-value)) for value in labeled.tolist()) / 5
    states = [-(1 - u) * math.log(d) - u * math.log(1 - d) for d, u in zip(sigmoid, uncertainty.tolist(), strict=True)]
    assert float(relabeled_loss(labeled, unlabeled, uncertainty)) == pytest.approx(first + sum(states) / 4, rel=1e-5)


def test_all_uncertain_it_is_vaals_and_all_certain_it_counts_as_labelled():
    labeled, unlabeled = normal(5), normal(4, seed=1)
    assert torch.allclose(relabeled_loss(labeled, unlabeled, torch.ones(4)), discriminator_loss(labeled, unlabeled))
    certain = relabeled_loss(labeled, unlabeled, torch.zeros(4))
    assert torch.allclose(certain, torch.nn.functional.softplus(-labeled).mean() + torch.nn.functional.softplus(-unlabeled).mean())


def test_it_is_the_authors_cross_entropy_of_the_other_state():
    # Their discriminator gives P(unlabelled): 0 is its target for the labelled, and the uncertainty for the others.
    labeled, unlabeled, uncertainty = normal(5), normal(4, seed=1), torch.tensor([0.0, 0.3, 0.9, 1.0])
    one, other = (1 - torch.sigmoid(logits) for logits in (labeled, unlabeled))
    expected = torch.nn.functional.binary_cross_entropy(one, torch.zeros(5)) + torch.nn.functional.binary_cross_entropy(other, uncertainty)
    assert torch.allclose(relabeled_loss(labeled, unlabeled, uncertainty), expected)


def test_the_best_state_is_one_less_the_uncertainty():
    uncertainty = torch.tensor([0.2, 0.7])
    logits = torch.logit(1 - uncertainty).requires_grad_()
    relabeled_loss(torch.zeros(1), logits, uncertainty).backward()
    assert torch.allclose(logits.grad, torch.zeros(2), atol=1e-7)


# ------------------------------------------------------------------------------------------------- steps
@pytest.mark.parametrize("make", [vaal, sraal])
def test_each_step_moves_its_own_network_alone(make):
    pair = make()
    before = {name: copy.deepcopy(net.state_dict()) for name, net in (("vae", pair.vae), ("d", pair.discriminator))}

    def moved(name, net):
        return [key for key, value in net.state_dict().items() if not torch.equal(value, before[name][key])]

    pair.train_vae(batch(), noise())
    assert moved("vae", pair.vae) and not moved("d", pair.discriminator)
    before["vae"] = copy.deepcopy(pair.vae.state_dict())
    pair.train_discriminator(batch())
    assert moved("d", pair.discriminator) and not moved("vae", pair.vae)


@pytest.mark.parametrize("make", [vaal, sraal])
def test_the_autoencoders_step_makes_no_gradients_of_the_discriminator(make):
    pair = make()
    pair.train_vae(batch(), noise())
    assert all(parameter.grad is None for parameter in pair.discriminator.parameters())
    assert all(parameter.grad is not None for parameter in pair.vae.parameters())


@pytest.mark.parametrize("make", [vaal, sraal])
def test_the_discriminator_learns_nothing_from_the_autoencoders_step(make):
    # Its gradients of the adversarial term pile up there, and must not join its own step.
    pair, same = make(lr=1e-2), make(lr=1e-2)
    pair.terms(batch(), noise())["adversarial"].backward()
    for one in (pair, same):
        one.train_discriminator(batch())
    assert all(torch.equal(a, b) for a, b in zip(pair.discriminator.parameters(), same.discriminator.parameters(), strict=True))


def test_the_terms_by_hand():
    pair, given = vaal(beta=3.0, adversary=0.5), batch()
    found = pair.terms(given, noise())
    generator, total, adversarial = noise(), 0.0, 0.0
    for x in (given.labeled, given.unlabeled):
        mu, log_var = pair.vae.encode(x)
        z = mu + (log_var / 2).exp() * torch.randn(mu.shape, generator=generator)
        squares = (pair.vae.decode(z) - x).square().flatten(1).sum(dim=1) / 2
        kl = (mu**2 + log_var.exp() - log_var - 1).sum(dim=1) / 2
        total += (squares + 3 * kl).mean().item()
        # Both are to be taken for labelled.
        adversarial += -torch.log(torch.sigmoid(pair.discriminator(mu))).mean().item()
    assert found["representation"].item() == pytest.approx(total, rel=1e-5)
    assert found["adversarial"].item() == pytest.approx(0.5 * adversarial, rel=1e-5)


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_with_the_weights_that_are_named_it_is_the_loss_of_vaals_code(beta):
    # Squares averaged over pixels and samples, a KL summed over both codes' numbers and samples, cross-entropies with 1; of each pool 3.
    pixels, size = 64, 3
    pair = vaal(beta=beta * size * pixels / 2, adversary=pixels / 2)
    given = Pair(normal(size, 1, 8, 8), normal(size, 1, 8, 8, seed=1))
    generator, total = noise(), 0.0
    for x in (given.labeled, given.unlabeled):
        mu, log_var = pair.vae.encode(x)
        made = pair.vae.decode(mu + (log_var / 2).exp() * torch.randn(mu.shape, generator=generator))
        states = torch.sigmoid(pair.discriminator(mu))
        total += (x - made).square().mean() - beta * 0.5 * (1 + log_var - mu**2 - log_var.exp()).sum() - states.log().mean()
    assert sum(term.item() for term in pair.terms(given, noise()).values()) == pytest.approx(total.item() * pixels / 2, rel=1e-5)


def test_sraals_terms_by_hand():
    pair, given = sraal(beta=3.0, adversary=0.5, target=2.0, target_beta=0.1), batch()
    found = pair.terms(given, noise())
    generator, total, adversarial, codes = noise(), 0.0, 0.0, []
    for x in (given.labeled, given.unlabeled):
        mu, log_var, *of_class = pair.vae.encode_both(x)
        z = mu + (log_var / 2).exp() * torch.randn(mu.shape, generator=generator)
        squares = (pair.vae.decode(z) - x).square().flatten(1).sum(dim=1) / 2
        total += (squares + 3 * (mu**2 + log_var.exp() - log_var - 1).sum(dim=1) / 2).mean().item()
        adversarial += -torch.log(torch.sigmoid(pair.discriminator(torch.cat([mu, of_class[0]], dim=1)))).mean().item()
        codes.append(of_class)
    (mu, log_var), target = codes[0], 0.0
    probs = pair.vae.classifier(mu + (log_var / 2).exp() * torch.randn(mu.shape, generator=generator)).softmax(dim=1)
    for row, label, m, v in zip(probs, given.targets, mu, log_var, strict=True):
        target += (-row[label].log() + 0.1 * (m**2 + v.exp() - v - 1).sum() / 2).item() / 2
    expected = {"representation": total, "target": 2 * target, "adversarial": 0.5 * adversarial}
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("make", [vaal, sraal])
def test_a_score_does_not_depend_on_what_is_scored_with_it(make):
    # In the authors' code it does, by batch norm.
    pair, x = make(), normal(6, 1, 8, 8)
    assert torch.allclose(pair.score(x), torch.cat([pair.score(one[None]) for one in x]), atol=1e-5)
    # Copies have the score of what they are copies of, but for rounding.
    assert torch.allclose(pair.score(x[[5, 5, 3]]), pair.score(x)[[5, 5, 3]], atol=1e-5)


def test_the_adversarial_term_raises_d_of_both_pools():
    pair, given = vaal(adversary=1000.0, beta=0.0, lr=1e-2), batch()
    before = [pair.score(x).mean() for x in (given.labeled, given.unlabeled)]
    for number in range(20):
        pair.train_vae(given, noise(number))
    assert all(pair.score(x).mean() > old for x, old in zip((given.labeled, given.unlabeled), before, strict=True))


def test_sraals_classifier_learns_from_the_labelled_alone():
    # Of the targets, that of the unlabelled has no say; and the class's code is learned by it.
    pair, given = sraal(), batch()
    pair.terms(given, noise())["target"].backward()
    assert pair.vae.classifier.weight.grad.abs().sum() > 0 and pair.vae.target_code.weight.grad.abs().sum() > 0
    other = Pair(given.labeled, 5 * given.unlabeled, given.targets, given.uncertainty)
    one, two = (float(sraal().terms(x, noise())["target"]) for x in (given, other))
    assert one != float(sraal().terms(Pair(given.labeled, given.unlabeled, torch.tensor([1, 1]), given.uncertainty), noise())["target"])
    # The noise of the unlabelled is drawn before: as many numbers, whatever the images are.
    assert one == two


# ------------------------------------------------------------------------------------------------- orders
@pytest.mark.parametrize(("size", "count"), [(4, 10), (20, 10), (10, 10), (1, 1)])
def test_the_labelled_come_equally_often(size, count):
    rows = labeled_order(np.arange(count) + 100, 7, size, np.random.default_rng(0))
    assert len(rows) == 7 * min(size, count)
    _, times = np.unique(rows, return_counts=True)
    assert times.max() - times.min() <= 1 and rows.min() >= 100


def test_when_the_discriminator_learns():
    assert [discriminator_learns(number, 5, 2) for number in range(5)] == [False, True, False, True, True]
    assert all(discriminator_learns(number, 5, 1) for number in range(5))
    assert [discriminator_learns(number, 3, 10) for number in range(3)] == [False, False, True]


# ------------------------------------------------------------------------------------------------- a pass
@pytest.mark.parametrize(("vae_steps", "turns"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (9, [4])])
def test_a_pass_is_a_step_for_each_batch_and_the_discriminators_turn_after_some(vae_steps, turns):
    given = [Pair(normal(2, 1, 8, 8, seed=one), normal(3, 1, 8, 8, seed=one + 50)) for one in range(5)]
    pair, by_hand = vaal(), vaal()
    steps = train_pass(pair, iter(given), 5, vae_steps, noise)
    assert [number for number, line in enumerate(steps) if "discriminator" in line] == turns
    for number, batch_of in enumerate(given):
        expected = by_hand.train_vae(batch_of, noise(number))
        if number in turns:
            expected |= by_hand.train_discriminator(batch_of)
        assert steps[number].keys() == expected.keys() and all(torch.equal(steps[number][name], value) for name, value in expected.items())
    for one, other in ((pair.vae, by_hand.vae), (pair.discriminator, by_hand.discriminator)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
