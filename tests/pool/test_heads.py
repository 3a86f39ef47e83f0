"""The head of the task model, found by any method that asks for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from usb_active import Acquisition, UsageError, register_plugin
from usb_active.numerics.ranking import top_k
from usb_active.pool.heads import task_head
from usb_active.testing import AcquisitionContract
from usb_active.testing.pool import CLASSES, World


@register_plugin("acquisition", "gradient_length")
class GradientLength(Acquisition):
    """The longest gradients of the predicted class's loss in the features, through the head."""

    needs = frozenset({"features", "probs"})

    def select(self, view, budget):
        head = task_head(view, f"acquisition '{self.name}'")
        z = torch.tensor(view.features[view.candidates], device=view.device, requires_grad=True)
        logits = head.logits(z)
        torch.nn.functional.cross_entropy(logits, logits.argmax(dim=1), reduction="sum").backward()
        return top_k(z.grad.norm(dim=1).cpu().numpy(), view.candidates, budget, view.rng)


class TestGradientLength(AcquisitionContract):
    name = "gradient_length"

    def test_it_is_the_closed_form_of_a_linear_head(self, world):
        # d/dz of -log softmax(Wz + b)[c] is Wᵀ(p - onehot(c)).
        view = self.view(world, self.plugin())
        weight = world.net.classifier.weight.detach().double().numpy()
        residual = view.probs.astype(np.float64) - np.eye(CLASSES)[view.probs.argmax(axis=1)]
        length = np.linalg.norm(residual @ weight, axis=1)
        expected = sorted(view.candidates.tolist(), key=lambda i: -length[i])[:9]
        assert self.pick(world, 9).tolist() == expected


def head_and_view(world: World, features="model"):
    suite = TestGradientLength()
    view = world.view({"features", "probs"}, suite.source(features))
    return task_head(view, "acquisition 'x'"), view


def test_a_linear_head_is_recognized_and_its_weights_make_the_predictions(tmp_path):
    world = World(tmp_path)
    head, view = head_and_view(world)
    assert head.layer is world.net.classifier
    assert head.weight.shape == (CLASSES, view.features.shape[1]) and head.weight.dtype == head.bias.dtype == np.float64
    logits = view.features @ head.weight.T + head.bias
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.allclose(exponentials / exponentials.sum(axis=1, keepdims=True), view.probs, atol=1e-5)


def test_a_head_without_bias_has_zeros(tmp_path):
    world = World(tmp_path)
    world.net.classifier = torch.nn.Linear(world.net.num_features, CLASSES, bias=False)
    head, _ = head_and_view(world)
    assert head.layer is world.net.classifier and head.bias.tolist() == [0.0] * CLASSES


def test_a_head_of_several_layers_has_logits_alone(tmp_path):
    world = World(tmp_path)
    width = world.net.num_features
    world.net.classifier = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.Tanh(), torch.nn.Linear(width, CLASSES))
    head, view = head_and_view(world)
    assert head.layer is None
    probs = head.logits(torch.from_numpy(view.features.copy())).softmax(dim=1)
    assert np.allclose(probs.detach(), view.probs, atol=1e-5)
    for name in ("weight", "bias"):
        with pytest.raises(ValueError, match="more than one linear layer"):
            getattr(head, name)


def test_features_that_are_not_the_heads_are_one_line(tmp_path):
    said = "^acquisition 'x': features of 64 dimensions are not what .* takes; use features: model$"
    with pytest.raises(UsageError, match=said) as error:
        head_and_view(World(tmp_path), "pixels")
    assert "\n" not in str(error.value)


class Whole(torch.nn.Module):
    """A network that cannot be asked for a part of itself."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


def test_a_network_whose_classifier_cannot_be_asked_is_named(tmp_path):
    world = World(tmp_path)
    world.net = Whole(world.net)
    with pytest.raises(UsageError, match="^acquisition 'x': network Whole has no head of its own to ask: .*only_fc") as error:
        head_and_view(world)
    assert "\n" not in str(error.value)
