"""Every check of a network's suite fails for a network that breaks its rule, and for that rule alone."""

from __future__ import annotations

import pytest
import torch
from broken_plugins import Broken, UnderAnotherName, assert_complete, assert_fails, failing, suite_for
from torch import nn

from usb_active.contracts.network import Network
from usb_active.testing import NetworkContract


class Net(nn.Module):
    """A hidden layer of six, and a head."""

    def __init__(self, num_classes, size):
        super().__init__()
        self.body, self.classifier = nn.Linear(size, 6), nn.Linear(6, num_classes)

    def forward(self, x, only_fc=False, only_feat=False):
        if only_fc:
            return self.head(x)
        feat = self.features(x)
        return feat if only_feat else {"logits": self.head(feat), "feat": feat}

    def features(self, x):
        return torch.tanh(self.body(x.flatten(1)))

    def head(self, feat):
        return self.classifier(feat)


class Sound(Network):
    def build(self, num_classes, img_size, in_channels, pretrained_path=None):
        return self.changed(Net(num_classes, in_channels * img_size**2))

    def changed(self, net):
        return net


def network(name, /, make=None, base=Net, plugin=None, **methods):
    """A plugin whose network has other methods than `Net`."""
    cls = type(name, (base,), methods)

    def build(self, num_classes, img_size, in_channels, pretrained_path=None):
        return (make or cls)(num_classes, in_channels * img_size**2)

    return type(name, (Sound,), {"build": build})


class Misnamed(UnderAnotherName, Sound):
    pass


def logits_alone(self, x, only_fc=False, only_feat=False):
    out = Net.forward(self, x, only_fc, only_feat)
    return out if only_fc or only_feat else {**out, "feat": out["feat"][:, :, None]}


def other_features(self, x, only_fc=False, only_feat=False):
    out = Net.forward(self, x, only_fc, only_feat)
    return out + 1 if only_feat else out


def other_head(self, x, only_fc=False, only_feat=False):
    out = Net.forward(self, x, only_fc, only_feat)
    return out + 1 if only_fc else out


def four_classes(num_classes, size):
    return Net(4, size)


def wide(num_classes, size):
    """As many hidden layers as classes, so that names differ."""
    net = Net(num_classes, size)
    net.more = nn.ModuleList([nn.Linear(1, 1) for _ in range(num_classes)])
    net.requires_grad_(True)
    for parameter in net.more.parameters():
        parameter.requires_grad_(False)
    return net


def dropping(self, x):
    return nn.functional.dropout(Net.features(self, x), 0.5, training=True)


def counting(self, x):
    self.count += 1
    return Net.features(self, x)


class Counting(Net):
    def __init__(self, num_classes, size):
        super().__init__(num_classes, size)
        self.register_buffer("count", torch.zeros(()))


def centred(self, x):
    feat = Net.features(self, x)
    return feat - feat.mean(dim=0) if len(x) > 1 else feat


def blind(self, x):
    return torch.tanh(self.body(torch.ones_like(x).flatten(1)))


def fixed(num_classes, size):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net(num_classes, size)


def unseeded(num_classes, size):
    net = Net(num_classes, size)
    nn.init.normal_(net.body.weight, std=0.1, generator=torch.Generator().manual_seed(torch.seed() % 2**31))
    return net


class Scaled(Net):
    """Its scale is no part of its state."""

    def __init__(self, num_classes, size):
        super().__init__(num_classes, size)
        self.scale = float(torch.rand(1)) + 0.5

    def features(self, x):
        return super().features(x) * self.scale


def frozen(self, x):
    return Net.features(self, x).detach()


def frozen_head(self, feat):
    return nn.functional.linear(feat, self.classifier.weight.detach(), self.classifier.bias.detach())


class Shared(Net):
    """A copy of it has the same weights, not equal ones."""

    def __deepcopy__(self, memo):
        return self


# It asks for the head as well.
STEP = "test_a_step_trains_it"
BROKEN = [
    Broken("test_it_is_registered", Misnamed),
    Broken(
        "test_it_gives_logits_and_features", network("Dense", forward=logits_alone),
        also=["test_only_fc_gives_the_logits_of_features", "test_only_feat_gives_the_features"],
    ),
    Broken("test_only_feat_gives_the_features", network("OtherFeatures", forward=other_features)),
    Broken("test_only_fc_gives_the_logits_of_features", network("OtherHead", forward=other_head)),
    Broken("test_the_head_follows_the_number_of_classes", network("FourClasses", make=four_classes), also=[STEP]),
    Broken("test_the_head_follows_the_number_of_classes", network("OneLayerForEachClass", make=wide), also=[STEP]),
    Broken(
        "test_evaluation_is_deterministic", network("Dropping", features=dropping),
        also=[
            "test_only_feat_gives_the_features", "test_only_fc_gives_the_logits_of_features", "test_an_image_does_not_depend_on_its_batch",
            "test_its_state_goes_through_a_checkpoint", "test_a_copy_is_another_network",
        ],
    ),
    Broken("test_evaluation_is_deterministic", network("Counts", base=Counting, features=counting)),
    Broken("test_an_image_does_not_depend_on_its_batch", network("Centred", features=centred)),
    Broken("test_images_matter", network("Blind", features=blind)),
    Broken("test_the_seed_gives_the_weights", network("Fixed", make=fixed)),
    Broken("test_the_seed_gives_the_weights", network("Unseeded", make=unseeded)),
    Broken("test_its_state_goes_through_a_checkpoint", network("WithScale", make=Scaled)),
    Broken("test_a_step_trains_it", network("Frozen", features=frozen)),
    Broken("test_a_step_trains_it", network("FrozenHead", head=frozen_head)),
    Broken("test_a_copy_is_another_network", network("WithShared", make=Shared), also=["test_evaluation_is_deterministic"]),
]  # fmt: skip


def test_every_check_has_a_network_that_fails_it():
    assert_complete(NetworkContract, BROKEN)


@pytest.mark.parametrize("one", BROKEN, ids=lambda one: one.id)
def test_a_broken_network_fails_its_check(one, tmp_path):
    assert_fails(NetworkContract, one, tmp_path)


def test_a_sound_network_passes(tmp_path):
    assert not failing(suite_for(NetworkContract, Sound, {}), tmp_path)
