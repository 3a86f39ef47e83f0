"""REVIVAL's virtual adversarial generator: Eq. 4 and 5."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from revival_graphs import blobs, dense_forward, double_propagator, kl
from usb_active.plugins.revival.adversary import _along, _unit, divergence
from usb_active.plugins.revival.functional import Adversary, adversarial_divergence, head_divergence

SCORES = ("kl_perturbed_clean", "kl_clean_perturbed")


def generator(seed=0):
    return np.random.default_rng(seed)


def as_numpy(propagator):
    matrix = propagator.aggregate(torch.eye(len(propagator.features), dtype=torch.float64)).numpy()
    return matrix, propagator.features, propagator.first.numpy(), propagator.second.numpy()


def slow_divergence(propagator, adversary, rng):
    """Eq. 4 and 5 with dense arrays and a gradient by differences of the objective, entry by entry."""
    matrix, x, first, second = as_numpy(propagator)
    clean = dense_forward(matrix, x, first, second)
    free = np.setdiff1d(np.arange(len(x)), propagator.labeled)
    push = rng.standard_normal(x.shape, dtype=np.float32).astype(float)
    push /= np.linalg.norm(push, axis=1, keepdims=True)
    push[propagator.labeled] = 0

    def objective(pushed):
        moved = dense_forward(matrix, x + pushed, first, second)
        return sum(kl(clean[i], moved[i]) for i in free)

    for _ in range(adversary.power_iterations):
        gradient = np.zeros_like(x)
        for i in free:
            for d in range(x.shape[1]):
                step = np.zeros_like(x)
                step[i, d] = 1e-5
                gradient[i, d] = (objective(push + step) - objective(push - step)) / 2e-5
        push = gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-12)
    moved = dense_forward(matrix, x + adversary.epsilon * push, first, second)
    out = np.zeros(len(x))
    for i in free:
        out[i] = kl(moved[i], clean[i]) if adversary.score == "kl_perturbed_clean" else kl(clean[i], moved[i])
    return out


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("iterations", [1, 2])
def test_divergences_are_those_of_equations_4_and_5_by_finite_differences(score, iterations):
    features, _, labeled = blobs(per_class=3, dim=3)
    propagator = double_propagator(features, labeled[::2], k=3)
    adversary = Adversary(0.5, iterations, score)
    found = adversarial_divergence(propagator, adversary, rng=generator(2))
    expected = slow_divergence(propagator, adversary, generator(2))
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-8) and found.max() > 1e-4


@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
def test_a_node_whose_gradient_vanished_is_left_where_it_is(iterations):
    """ReLU is off at the start of some isolated nodes: exactly no gradient, and at no push what is left of it is rounding."""
    features, _, _ = blobs(per_class=40, dim=2)
    propagator = double_propagator(features, [], hidden=5, k=1)
    propagator.labeled = np.empty(0, np.int64)
    _, x, first, second = as_numpy(propagator)
    start = generator(7).standard_normal(x.shape, dtype=np.float32).astype(float)
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    off = ((x + start) @ first <= 0).all(axis=1)
    assert 0 < off.sum() < len(x)
    found = adversarial_divergence(propagator, Adversary(0.5, iterations), rng=generator(7))
    assert not found[off].any() and found[~off].max() > 1e-4
    head = lambda z: (z @ propagator.first.float()).relu() @ propagator.second.float()  # noqa: E731
    alone = head_divergence(features, np.arange(len(x)), head, Adversary(0.5, iterations), relative=False, rng=generator(7))
    assert not alone[off].any() and alone[~off].max() > 1e-4


def test_a_single_isolated_node_in_closed_form():
    """One feature, one active hidden unit, two classes: logits (w x, 0), and the push is ±ε along the only axis.

    x = 1, W0 = (1), W1 = (2, 0): ȳ = (s(2), s(-2)) with s the logistic function. Pushed by +ε = 0.5 it is s(3), by -ε s(1). The
    gradient of KL(ȳ, ŷ) points away from x on the side of the start.
    """
    features = np.array([[1.0]])
    propagator = double_propagator(features, [], hidden=1, classes=2, k=1)
    propagator.labeled = np.empty(0, np.int64)
    propagator.first, propagator.second = torch.ones(1, 1, dtype=torch.float64), torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    logistic = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    p, seen = np.array([logistic(2), logistic(-2)]), set()
    for seed in range(8):
        start = float(np.sign(generator(seed).standard_normal((1, 1), dtype=np.float32))[0, 0])
        moved = np.array([logistic(2 + start), logistic(-2 - start)])
        found = adversarial_divergence(propagator, Adversary(0.5), rng=generator(seed))
        # A push to x = 0 switches the ReLU off at Δ = -1: no gradient, no push.
        expected = kl(moved, p) if start > 0 else 0.0
        assert found[0] == pytest.approx(expected, rel=1e-9)
        seen.add(start)
    assert len(seen) == 2


def test_many_iterations_find_the_worst_push_of_an_isolated_node():
    """Without edges each node is alone; in two dimensions the worst push can be looked for all around.

    Gradients are taken at pushes of unit length: features a thousand times as long, and the weights as much smaller, are one piece of
    the ReLUs that far, where KL is nearly quadratic and power iteration ends at its axis.
    """
    features, _, _ = blobs(per_class=4, dim=2)
    propagator = double_propagator(1000 * features, [], hidden=9, k=1, scale=1.0)
    propagator.first /= 1000
    propagator.labeled = np.empty(0, np.int64)
    _, x, first, second = as_numpy(propagator)
    epsilon, one = 1.0, np.eye(1)
    angles = np.linspace(0, 2 * np.pi, 721)
    around = epsilon * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = np.zeros(len(x))
    adversary = Adversary(epsilon, 30, "kl_clean_perturbed")
    # Both ends of the axis are nearly equal: the better of a few starts.
    for seed in range(4):
        found = np.maximum(found, adversarial_divergence(propagator, adversary, rng=generator(seed)))
    for i in range(len(x)):
        clean = dense_forward(one, x[i : i + 1], first, second)[0]
        worst = max(kl(clean, dense_forward(one, x[i : i + 1] + push, first, second)[0]) for push in around)
        assert found[i] <= worst * 1.001
        assert found[i] >= worst * 0.99
    assert found.max() > 1e-7


def test_a_push_has_length_epsilon_and_no_labelled_node_moves():
    features, _, labeled = blobs()
    propagator = double_propagator(features, labeled)
    mask = torch.ones(42, dtype=torch.bool)
    mask[labeled] = False
    gradient = torch.as_tensor(generator().standard_normal((42, 5)))
    projected = _along(propagator, gradient, mask)
    unit = _unit(gradient @ propagator.first.T)
    assert torch.allclose(unit.norm(dim=1), torch.ones(42, dtype=torch.float64))
    assert torch.allclose(projected[mask], (unit @ propagator.first)[mask]) and not projected[labeled].any()
    found = adversarial_divergence(propagator, Adversary(0.5), rng=generator())
    assert not found[labeled].any() and (np.delete(found, labeled) > 0).all()


def test_tiny_gradients_keep_their_direction():
    rows = torch.tensor([[3e-30, 4e-30], [0.0, 0.0], [3.0, 4.0]])
    assert torch.allclose(_unit(rows), torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, 0.8]]))


def test_the_gradient_is_by_the_representations_alone():
    """The weights stay, and ask for no gradient."""
    features, _, labeled = blobs()
    propagator = double_propagator(features, labeled)
    kept = propagator.first.clone(), propagator.second.clone(), propagator.features.copy()
    adversarial_divergence(propagator, rng=generator())
    assert torch.equal(propagator.first, kept[0]) and torch.equal(propagator.second, kept[1])
    assert np.array_equal(propagator.features, kept[2])
    assert not propagator.first.requires_grad and propagator.first.grad is None


def test_the_two_orders_agree_on_small_pushes_and_not_on_large_ones():
    features, _, labeled = blobs(per_class=60)
    propagator = double_propagator(features, labeled, scale=3.0)

    def both(epsilon):
        return [adversarial_divergence(propagator, Adversary(epsilon, 1, score), rng=generator(1)) for score in SCORES]

    small, large = both(1e-3), both(20.0)
    assert np.allclose(*small, rtol=0.05, atol=1e-12)
    assert np.corrcoef(np.argsort(np.argsort(large[0])), np.argsort(np.argsort(large[1])))[0, 1] < 0.95


def test_a_network_that_ignores_its_input_moves_nowhere():
    features, _, labeled = blobs()
    propagator = double_propagator(features, labeled)
    propagator.second = torch.zeros_like(propagator.second)
    assert not adversarial_divergence(propagator, rng=generator()).any()


def test_divergence_in_closed_form():
    """KL((1/2, 1/2), (1/4, 3/4)) = ½ ln 2 + ½ ln 2/3 = ½ ln 4/3."""
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert divergence(p, q).item() == pytest.approx(np.log(4 / 3) / 2, rel=1e-6)
    assert divergence(p, p).item() == 0


def test_the_same_generator_gives_the_same_bits():
    features, _, labeled = blobs()
    propagator = double_propagator(features, labeled)
    one, again, other = (adversarial_divergence(propagator, rng=generator(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


# ------------------------------------------------------------------------------------------------- a head without a graph
def linear(features, classes=3):
    weight = torch.as_tensor(generator(5).standard_normal((features.shape[1], classes)), dtype=torch.float32)
    return lambda x: x @ weight


@pytest.mark.parametrize("score", SCORES)
def test_a_head_is_pushed_as_a_network_on_a_graph_without_edges(score):
    """A ReLU network on each sample alone, once as a propagator with k = 1 and once as a head."""
    features, _, labeled = blobs()
    propagator = double_propagator(features, labeled, k=1)
    first, second = propagator.first.float(), propagator.second.float()
    adversary = Adversary(0.3, 1, score)
    idx = np.arange(42)
    alone = head_divergence(features, idx, lambda x: (x @ first).relu() @ second, adversary, relative=False, rng=generator(3))
    free = np.setdiff1d(idx, labeled)
    expected = adversarial_divergence(propagator, adversary, rng=generator(3))
    assert np.allclose(alone[free], expected[free], rtol=1e-3, atol=1e-6) and expected[free].max() > 1e-3


def test_relative_pushes_are_shares_of_each_length():
    features, _, _ = blobs()
    lengths = np.linalg.norm(features, axis=1)
    head = linear(features)
    for i in range(42):
        row, first = features[i : i + 1] / lengths[i], np.array([0])
        # The head of a row of length one, pushed by 0.05, sees what `head` sees of the whole row pushed by 0.05 of its length.
        by_hand = head_divergence(row, first, lambda x, at=i: head(x * lengths[at]), Adversary(0.05), relative=False, rng=generator(i))
        found = head_divergence(features[i : i + 1], first, head, Adversary(0.05), relative=True, rng=generator(i))
        assert found == pytest.approx(by_hand, rel=1e-3, abs=1e-9)


def test_blocks_of_rows_draw_what_one_block_would(monkeypatch):
    import usb_active.numerics.arrays as arrays

    features, _, labeled = blobs()
    idx, propagator = np.arange(10, 42), double_propagator(features, labeled)
    whole = head_divergence(features, idx, linear(features), rng=generator()), adversarial_divergence(propagator, rng=generator())
    monkeypatch.setattr(arrays, "BLOCK", 6 * 5)
    parts = head_divergence(features, idx, linear(features), rng=generator()), adversarial_divergence(propagator, rng=generator())
    assert np.allclose(whole[0], parts[0], rtol=1e-4, atol=1e-8) and np.allclose(whole[1], parts[1], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 0}, "epsilon: 0, expected a number above 0"),
        ({"epsilon": -0.1}, "epsilon: -0.1, expected"),
        ({"epsilon": float("inf")}, "epsilon: inf, expected"),
        ({"power_iterations": 0}, "power_iterations: 0, expected an integer, at least 1"),
        ({"score": "kl"}, "score: unknown value 'kl'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    features, _, labeled = blobs()
    for call in (
        lambda: adversarial_divergence(double_propagator(features, labeled), Adversary(**settings), rng=generator()),
        lambda: head_divergence(features, np.arange(42), linear(features), Adversary(**settings), rng=generator()),
    ):
        with pytest.raises(ValueError, match=message):
            call()
