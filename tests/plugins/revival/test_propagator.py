"""REVIVAL's label propagator: Eq. 2 and 3, and that the fast training is the plain one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from revival_graphs import blobs, dense_convolution, dense_forward, dense_graph, double_propagator
from usb_active.plugins.revival import propagator as propagators
from usb_active.plugins.revival.backends import aggregator
from usb_active.plugins.revival.functional import GcnSettings, convolution_matrix, fit_propagator, neighbor_graph, virtual_labels
from usb_active.plugins.revival.propagator import initial_weights, train

SHORT = GcnSettings(hidden=7, epochs=15)


def generator(seed=0):
    return np.random.default_rng(seed)


# ------------------------------------------------------------------------------------------------- Eq. 2
def test_virtual_labels_are_equation_2_node_by_node():
    features, _, labeled = blobs()
    propagator = double_propagator(features, labeled)
    matrix = dense_convolution(dense_graph(features, 5))
    expected = dense_forward(matrix, features.astype(float), propagator.first.numpy(), propagator.second.numpy())
    assert np.allclose(propagator.probs(), expected, atol=1e-5)
    assert expected.max(axis=1).std() > 0.01, "the predictions differ between nodes"


def test_without_edges_it_is_a_network_on_each_sample_alone():
    """k = 1: Â is the identity, and so ȳ = softmax(ReLU(x W0) W1)."""
    features, _, labeled = blobs()
    propagator = double_propagator(features, labeled, k=1)
    x = torch.as_tensor(propagator.features)
    expected = ((x @ propagator.first).relu() @ propagator.second).softmax(dim=1)
    assert np.allclose(propagator.probs(), expected, atol=1e-6)


def test_rows_are_distributions_and_follow_the_samples():
    features, truth, labeled = blobs()
    probs = virtual_labels(features, labeled, truth[labeled], 3, k=6, settings=SHORT, rng=generator())
    assert probs.shape == (42, 3) and probs.dtype == np.float32
    assert np.allclose(probs.sum(axis=1), 1, atol=1e-5) and (probs >= 0).all()
    order = generator(9).permutation(42)
    position = np.argsort(order)
    permuted = virtual_labels(features[order], position[labeled], truth[labeled], 3, k=6, settings=SHORT, rng=generator())
    assert np.allclose(permuted, probs[order], atol=1e-4)


def test_unit_features_do_not_care_about_lengths():
    features, truth, labeled = blobs()
    lengths = generator(4).uniform(0.5, 20, (42, 1)).astype(np.float32)
    for unit in (True, False):
        settings = GcnSettings(hidden=7, epochs=15, unit_features=unit)
        both = features, lengths * features
        one, other = (virtual_labels(rows, labeled, truth[labeled], 3, k=6, settings=settings, rng=generator()) for rows in both)
        assert np.allclose(one, other, atol=1e-4) == unit


def test_labels_reach_their_neighbours():
    """Three tight groups, one label in each: all others get the class of their group."""
    features, truth, labeled = blobs(spread=0.2)
    first = labeled[::2]
    probs = virtual_labels(features, first, truth[first], 3, k=6, rng=generator())
    assert (probs.argmax(axis=1) == truth).all()


# ------------------------------------------------------------------------------------------------- Eq. 3, training
def plain_epochs(features, matrix, labeled, labels, weights, settings):
    """Losses and weights of plain epochs over the whole graph, dense."""
    x, graph = torch.as_tensor(features), torch.as_tensor(matrix)
    first, second = (weight.clone().requires_grad_() for weight in weights)
    groups = [{"params": [first], "weight_decay": settings.weight_decay}, {"params": [second]}]
    optimizer, losses = torch.optim.Adam(groups, lr=settings.lr), []
    for _ in range(settings.epochs):
        probs = (graph @ ((graph @ (x @ first)).relu() @ second)).softmax(dim=1)
        # -Σ_x Σ_c Y ln ȳ over the labelled nodes; Y is one-hot.
        loss = -sum(probs[i, c].log() for i, c in zip(labeled.tolist(), labels.tolist(), strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, first.detach(), second.detach()


@pytest.mark.parametrize("k", [1, 3, 20])
def test_fast_training_has_the_losses_and_weights_of_plain_epochs(k):
    features, truth, labeled = blobs()
    matrix = convolution_matrix(neighbor_graph(features, k))
    weights = initial_weights(6, 7, 3, generator(), torch.float64)
    settings = GcnSettings(hidden=7, epochs=25, weight_decay=0.01)
    found = train(matrix, features.astype(float), labeled, truth[labeled], weights, settings)
    losses, first, second = plain_epochs(features.astype(float), matrix.toarray(), labeled, truth[labeled], weights, settings)
    assert np.allclose(found.losses, losses, rtol=1e-9)
    assert torch.allclose(found.first, first, atol=1e-9) and torch.allclose(found.second, second, atol=1e-9)


def test_the_loss_of_zero_weights_is_log_c_for_every_label():
    """W1 = 0 makes every ȳ uniform: Eq. 3 is L log C."""
    features, truth, labeled = blobs()
    matrix = convolution_matrix(neighbor_graph(features, 4))
    weights = initial_weights(6, 7, 3, generator())[0], torch.zeros(7, 3)
    found = train(matrix, features, labeled, truth[labeled], weights, SHORT)
    assert found.losses[0] == pytest.approx(len(labeled) * math.log(3), rel=1e-6)
    assert found.losses[-1] < found.losses[0] / 2


def test_what_is_beyond_two_steps_of_a_label_does_not_change_the_training():
    """A second part of the graph without labels: the same losses to the last bit, whatever is there."""
    features, truth, labeled = blobs(dim=6)
    far = np.zeros((30, 12), np.float32)
    far[:, 6:] = generator(1).standard_normal((30, 6))
    near = np.pad(features, ((0, 0), (0, 6)))
    losses = []
    for scale in (1, 7):
        found = fit_propagator(
            np.concatenate([near, scale * far]), labeled, truth[labeled], 3, k=5,
            settings=GcnSettings(hidden=7, epochs=10, unit_features=False), rng=generator(),
        )  # fmt: skip
        losses.append(found.losses)
    assert losses[0] == losses[1]


def test_initial_weights_are_glorots():
    first, second = initial_weights(300, 200, 10, generator())
    for weight, rows, columns in ((first, 300, 200), (second, 200, 10)):
        limit = math.sqrt(6 / (rows + columns))
        assert weight.shape == (rows, columns) and weight.abs().max() <= limit and weight.abs().max() > 0.98 * limit
        assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05)


def test_the_same_generator_gives_the_same_bits_and_another_does_not():
    features, truth, labeled = blobs()
    state = torch.get_rng_state()
    made = [virtual_labels(features, labeled, truth[labeled], 3, settings=SHORT, rng=generator(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(made[0], made[1]) and not np.array_equal(made[0], made[2])
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator is left alone"


def test_inputs_stay_as_they_are(tmp_path):
    features, truth, labeled = blobs()
    path = tmp_path / "features.npy"
    np.save(path, features)
    kept = features.copy()
    mapped = np.load(path, mmap_mode="r")
    plain = virtual_labels(features, labeled, truth[labeled], 3, settings=SHORT, rng=generator())
    assert np.array_equal(virtual_labels(mapped, labeled, truth[labeled], 3, settings=SHORT, rng=generator()), plain)
    assert np.array_equal(features, kept)


def test_a_class_without_labels_keeps_its_column():
    features, truth, labeled = blobs()
    seen = labeled[truth[labeled] != 1]
    probs = virtual_labels(features, seen, truth[seen], 3, rng=generator())
    assert probs.shape == (42, 3) and probs[:, 1].max() < 0.5


# ------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("labeled", "labels", "message"),
    [
        ([], [], "labeled: nothing is labelled"),
        ([1, 99], [0, 1], "labeled: index 99 outside the 42 rows"),
        ([1, 1], [0, 1], "labeled: more than once: index 1"),
        ([1, 2], [0], "labels: expected 2 integers"),
        ([1, 2], [0.0, 1.0], "labels: expected 2 integers.*float64"),
        ([1, 2], [0, 3], r"labels: outside 0..2 for sample 2"),
        ([1, 2], [-1, 0], r"labels: outside 0..2 for sample 1"),
    ],
)
def test_bad_labels_are_named(labeled, labels, message):
    with pytest.raises(ValueError, match=message):
        virtual_labels(blobs()[0], labeled, labels, 3, rng=generator())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 0}, "hidden: 0, expected an integer, at least 1"),
        ({"epochs": 1.5}, "epochs: 1.5, expected an integer"),
        ({"lr": 0}, "lr: 0, expected a number above 0"),
        ({"lr": math.nan}, "lr: nan"),
        ({"lr": 1e38}, "lr: 1e[+]38, expected a number above 0, at most 1e[+]30"),
        ({"lr": math.inf}, "lr: inf"),
        ({"weight_decay": -1}, "weight_decay: -1, expected"),
        ({"weights": "gauss"}, "weights: unknown value 'gauss'"),
        ({"backend": "jax"}, "backend: unknown value 'jax'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    features, truth, labeled = blobs()
    with pytest.raises(ValueError, match=message):
        virtual_labels(features, labeled, truth[labeled], 3, settings=GcnSettings(**settings), rng=generator())


def test_a_training_that_diverges_is_no_virtual_label():
    features, truth, labeled = blobs()
    settings = GcnSettings(lr=1e25, epochs=5, unit_features=False)
    with pytest.raises(ValueError, match="lr: 1e[+]25: the label propagator diverged"):
        virtual_labels(features, labeled, truth[labeled], 3, settings=settings, rng=generator())


@pytest.mark.parametrize("epochs", [1, 2, 5])
@pytest.mark.parametrize("lr", [1e30, 1e28, 1e20])
def test_a_training_whose_last_update_diverges_is_no_virtual_label(epochs, lr):
    """The loss of the last epoch is from before its update."""
    features, truth, labeled = blobs()
    with pytest.raises(ValueError, match="lr: 1e[+][0-9]+: (the label propagator diverged|no finite virtual label of sample)"):
        virtual_labels(features, labeled, truth[labeled], 3, settings=GcnSettings(lr=lr, epochs=epochs), rng=generator())


def test_weights_that_are_no_use_are_no_network():
    features, truth, labeled = blobs()
    weights = initial_weights(6, 7, 3, generator())
    with pytest.raises(ValueError, match="lr: 1e[+]30: the label propagator diverged; use a smaller one, or unit_features: true"):
        train(convolution_matrix(neighbor_graph(features, 5)), features, labeled, truth[labeled], weights, GcnSettings(lr=1e30, epochs=1))


def test_samples_far_from_all_labels_whose_virtual_labels_are_not_finite_are_named():
    """They are another part of the graph, which the loss does not see."""
    features, truth, labeled = blobs()
    far = np.zeros((30, 12), np.float32)
    far[:, 6:] = 1 + generator(1).random((30, 6))
    rows = np.concatenate([np.pad(1e-15 * features, ((0, 0), (0, 6))), 1e17 * far]).astype(np.float32)
    settings = GcnSettings(hidden=7, epochs=1, lr=1e15, unit_features=False)
    with pytest.raises(ValueError, match="no finite virtual label of samples 42, 43, 44, 45, 46, ...; use a smaller one"):
        virtual_labels(rows, labeled, truth[labeled], 3, k=5, settings=settings, rng=generator())


@pytest.mark.parametrize("size", [1e300, 2e18])
def test_features_beyond_single_precision_are_named(size):
    features, truth, labeled = blobs()
    features = features.astype(np.float64)
    features[[3, 40], 1] = -size
    settings = GcnSettings(hidden=7, epochs=5, unit_features=False)
    with pytest.raises(ValueError, match="features: above 1e[+]18 in rows 3, 40; use unit_features: true"):
        virtual_labels(features, labeled, truth[labeled], 3, settings=settings, rng=generator())
    features[[3, 40], 1] = -1e17
    for unit in (True, False):
        settings = GcnSettings(hidden=7, epochs=5, unit_features=unit)
        assert np.isfinite(virtual_labels(features, labeled, truth[labeled], 3, settings=settings, rng=generator())).all()


@pytest.mark.parametrize(
    "change", [{"labels": [0]}, {"num_classes": 0}, {"labeled": [0, 99]}, {"settings": GcnSettings(backend="jax")}, {"k": 99}]
)
def test_what_is_cheap_to_see_is_said_before_the_search_for_neighbours(monkeypatch, change):
    def searched(*_, **__):
        raise AssertionError("searched for neighbours")

    monkeypatch.setattr(propagators, "neighbor_graph", searched)
    arguments = {"labeled": [0, 20], "labels": [0, 1], "num_classes": 3, **change}
    with pytest.raises(ValueError):
        fit_propagator(blobs()[0], **arguments, rng=generator())


def test_directions_at_right_angles_are_a_graph_without_edges(caplog):
    rows = np.linalg.qr(generator().standard_normal((30, 30)))[0]
    virtual_labels(rows, [0, 1], [0, 1], 2, k=5, settings=SHORT, rng=generator())
    assert "the graph has no edges (k: 5)" in caplog.text


def test_a_graph_without_edges_is_said(caplog):
    features, truth, labeled = blobs()
    virtual_labels(features, labeled, truth[labeled], 3, k=1, settings=SHORT, rng=generator())
    assert "the graph has no edges (k: 1)" in caplog.text
    caplog.clear()
    virtual_labels(features, labeled, truth[labeled], 3, k=2, settings=SHORT, rng=generator())
    assert not caplog.text


def test_the_product_of_torch_is_the_matrix_and_its_gradient():
    matrix = convolution_matrix(neighbor_graph(blobs()[0], 4))
    x = torch.as_tensor(generator().standard_normal((42, 3))).requires_grad_()
    assert torch.autograd.gradcheck(aggregator(matrix, dtype=torch.float64), (x,))
