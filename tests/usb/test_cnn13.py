"""The 13-layer network: its layers written out, its sizes, and that it trains, copies, keeps and starts warm as others do."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from run_helpers import checkpoint, settings, train
from semilearn.core.utils import get_optimizer
from sklearn.datasets import load_digits
from torch.nn import functional as F

from usb_active import Acquisition, register_plugin
from usb_active.builtin.networks import Cnn13
from usb_active.errors import UsageError
from usb_active.loop.initial_weights import classifier_keys, load_backbone


def built(classes=4, size=16, channels=1, salt=0, **config):
    plugin = Cnn13(Cnn13.Config(**{"width": 4, **config}))
    plugin.name = "cnn13"
    torch.manual_seed(salt)
    return plugin.build(classes, size, channels)


def images(batch=5, channels=1, size=16):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


def convolutions(net):
    return [module for module in net.modules() if isinstance(module, torch.nn.Conv2d)]


def by_hand(net, x):
    """The table of the paper, in train mode without dropout: (B, D) features."""
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for number, (conv, norm) in enumerate(zip(convolutions(net), norms, strict=True)):
        if number in (3, 6):
            x = F.max_pool2d(x, 2)
        scale, direction = conv.parametrizations.weight.original0, conv.parametrizations.weight.original1
        # Weight normalisation: one length for each output channel.
        weight = scale * direction / direction.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
        x = F.conv2d(x, weight, conv.bias, padding=1 if number < 6 else 0)
        centred = x - x.mean(dim=(0, 2, 3), keepdim=True)
        x = centred / (centred.square().mean(dim=(0, 2, 3), keepdim=True) + norm.eps).sqrt()
        x = torch.where(x > 0, x, 0.1 * x)
    pooled = x.flatten(2).mean(dim=2)
    return pooled / pooled.square().sum(dim=1, keepdim=True).sqrt()


@pytest.mark.parametrize(("size", "channels"), [(12, 1), (16, 3), (28, 1), (32, 3)])
def test_is_the_table_of_the_paper(size, channels):
    net, x = built(size=size, channels=channels, dropout=0).train(), images(4, channels, size)
    out = net(x)
    expected = by_hand(net, x)
    torch.testing.assert_close(out["feat"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out["logits"], expected @ net.classifier.weight.T + net.classifier.bias, rtol=1e-4, atol=1e-5)


def test_the_papers_widths_and_parameters():
    net = built(classes=10, size=32, channels=3, width=128)
    shapes = [(conv.in_channels, conv.out_channels, conv.kernel_size[0]) for conv in convolutions(net)]
    assert shapes == [
        (3, 128, 3), (128, 128, 3), (128, 128, 3), (128, 256, 3), (256, 256, 3), (256, 256, 3),
        (256, 512, 3), (512, 256, 1), (256, 128, 1),
    ]  # fmt: skip
    # Each convolution: weights, and for each output channel the bias, the length, and two of batch normalisation.
    layers = sum(a * b * k * k + 4 * b for a, b, k in shapes)
    assert sum(p.numel() for p in net.parameters()) == layers + 128 * 10 + 10
    dropped = [(number, module.p) for number, module in enumerate(net.body) if isinstance(module, torch.nn.Dropout)]
    # Behind the third and the sixth convolution and their pooling.
    assert dropped == [(4, 0.5), (9, 0.5)]


def test_32_pixels_are_averaged_over_the_papers_6x6():
    net = built(size=32).eval()
    assert net.body[:-1](images(2, 1, 32)).shape == (2, 4, 6, 6)


@pytest.mark.parametrize(("size", "channels"), [(12, 1), (28, 1), (32, 3)])
def test_gives_what_usbs_nets_give(size, channels):
    net, x = built(size=size, channels=channels).eval(), images(3, channels, size)
    out = net(x)
    assert out["logits"].shape == (3, 4) and out["feat"].shape == (3, 4) == (3, net.num_features)
    assert torch.allclose(out["feat"].norm(dim=1), torch.ones(3))
    assert torch.equal(net(x, only_feat=True), out["feat"])
    assert torch.equal(net(out["feat"], only_fc=True), out["logits"])


@pytest.mark.parametrize("size", [8, 11])
def test_an_image_that_is_too_small_is_refused_with_the_least_size(size):
    with pytest.raises(UsageError, match=f"net 'cnn13': img_size: {size}; it needs at least 12") as error:
        built(size=size)
    assert "\n" not in str(error.value)


def test_bad_keys_and_usbs_pretrained_weights_are_refused():
    for config in ({"width": 0}, {"dropout": 1.0}, {"depth": 13}, {"weight_norm_head": 2}):
        with pytest.raises(ValidationError):
            Cnn13.Config(**config)
    plugin = Cnn13()
    plugin.name = "cnn13"
    with pytest.raises(UsageError, match="use_pretrain is for USB's own networks"):
        plugin.build(4, 32, 3, "weights.pth")


def test_a_copy_is_its_own_and_a_state_dict_restores_it():
    net, x = built().eval(), images()
    twin = copy.deepcopy(net)
    expected = net(x)["logits"]
    assert torch.equal(twin(x)["logits"], expected)
    with torch.no_grad():
        for value in twin.parameters():
            value.mul_(1.5)
    assert torch.equal(net(x)["logits"], expected) and not torch.allclose(twin(x)["logits"], expected)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = built(salt=9).eval()
    assert not torch.allclose(other(x)["logits"], expected)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x)["logits"], expected)


def test_only_the_direction_of_the_normed_weights_matters():
    net, x = built().eval(), images()
    before = net(x)["feat"]
    with torch.no_grad():
        for conv in convolutions(net):
            conv.parametrizations.weight.original1.mul_(4)
    torch.testing.assert_close(net(x)["feat"], before)


def test_weight_normalisation_of_the_classifier_gives_each_class_a_length():
    net, x = built(weight_norm_head=True).eval(), images()
    out, head = net(x), net.classifier
    length, direction = head.parametrizations.weight.original0, head.parametrizations.weight.original1
    assert length.shape == (4, 1) and direction.shape == (4, 4)
    weight = length * direction / direction.square().sum(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(out["logits"], out["feat"] @ weight.T + head.bias)
    assert torch.equal(net(out["feat"], only_fc=True), out["logits"])
    # It begins with the weights of a plain classifier.
    torch.testing.assert_close(out["logits"], built().eval()(x)["logits"])


def test_a_normed_classifier_is_found_and_its_copy_is_its_own():
    keys = classifier_keys(lambda classes: built(classes, weight_norm_head=True))
    assert set(keys) == {"classifier.bias", *(f"classifier.parametrizations.weight.original{part}" for part in (0, 1))}
    net, x = built(weight_norm_head=True).eval(), images()
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.classifier.parametrizations.weight.original0.mul_(2)
        bias = net.classifier.bias
        torch.testing.assert_close(twin(x)["logits"] - bias, 2 * (net(x)["logits"] - bias))


def test_a_pretrained_backbone_takes_another_classifier():
    keys = classifier_keys(lambda classes: built(classes))
    assert keys == ("classifier.weight", "classifier.bias")
    source, net = built(classes=7, salt=1), built(classes=4, salt=2)
    head = net.classifier.weight.clone()
    load_backbone(net, source.state_dict(), keys)
    x = images()
    assert torch.equal(net.eval()(x)["feat"], source.eval()(x)["feat"])
    assert torch.equal(net.classifier.weight, head)


def test_rates_fall_layer_by_layer_and_norms_do_not_decay():
    net = built()
    groups = get_optimizer(net, "AdamW", lr=1.0, weight_decay=0.1, layer_decay=0.5).param_groups
    of = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    by_name = {name: of[id(p)] for name, p in net.named_parameters()}
    # Nine convolutions and the classifier, each with half the rate of the next.
    convs = [number for number, module in enumerate(net.body) if isinstance(module, torch.nn.Sequential)]
    assert [by_name[f"body.{n}.0.parametrizations.weight.original1"][0] for n in convs] == [2.0 ** (k - 9) for k in range(9)]
    assert by_name["classifier.weight"] == (1.0, 0.1)
    assert all(decay == 0 for name, (_, decay) in by_name.items() if name.endswith("bias") or ".1.weight" in name)


def test_learns_the_digits():
    digits = load_digits()
    x = F.interpolate(torch.from_numpy(digits.images[:, None].astype(np.float32) / 8 - 1), size=12, mode="bilinear")
    y = torch.from_numpy(digits.target)
    net = built(classes=10, size=12, width=8, dropout=0.0)
    optimizer = get_optimizer(net, "SGD", lr=0.2, momentum=0.9, weight_decay=2e-4)
    draws = torch.Generator().manual_seed(0)
    for _ in range(200):
        idx = torch.randint(0, 1000, (64,), generator=draws)
        F.cross_entropy(net(x[idx])["logits"], y[idx]).backward()
        optimizer.step()
        optimizer.zero_grad()
    net.eval()
    with torch.no_grad():
        accuracy = (net(x[1000:])["logits"].argmax(dim=1) == y[1000:]).float().mean()
    assert accuracy > 0.85


STARTS: dict[int, dict[str, torch.Tensor]] = {}


@register_plugin("acquisition", "cnn13_start_watcher")
class StartWatcher(Acquisition):
    """Picks at random; keeps the weights with which each cycle starts."""

    def setup(self, info):
        STARTS[info.cycle] = copy.deepcopy(info.net.state_dict())

    def select(self, view, budget):
        return view.rng.permutation(view.candidates)[:budget]


def test_runs_in_cycles_with_ema_copies_checkpoints_and_a_warm_start(tmp_path):
    active = {"warm_start": True, "keep": "all", "acquisition": "cnn13_start_watcher"}
    train(settings(tmp_path, net={"name": "cnn13", "width": 4}, img_size=12, active=active))
    first, second = (checkpoint(tmp_path / "run", cycle) for cycle in (0, 1))
    name = "body.0.0.parametrizations.weight.original1"
    for start, state in zip((STARTS[0], first["model"]), (first, second), strict=True):
        assert not torch.equal(state["model"][name], start[name])
        assert not torch.equal(state["model"][name], state["ema_model"][name])
        assert all(value.isfinite().all() for value in state["ema_model"].values())
        assert state["ema_model"].keys() == built(classes=10, size=12).state_dict().keys()
    assert all(torch.equal(value, first["model"][key]) for key, value in STARTS[1].items())
