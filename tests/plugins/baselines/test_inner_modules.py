"""Which modules a loss can be learned from: on the networks that there are, and what is said of others."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from usb_active.plugins.baselines.inner_modules import default_modules, dims_of, inner_modules

from usb_active.usb.networks import small_cnn, usb_network
from usb_active.usb.paper_networks import cnn13, resnet18, vit_small
from usb_active.usb.vector_networks import VectorNetwork


def defaults(net, in_channels, img_size):
    found = inner_modules(net, in_channels, img_size)
    return dims_of(found, default_modules(found))


STAGES = {"body.layer1": 64, "body.layer2": 128, "body.layer3": 256, "body.layer4": 512}


@pytest.mark.parametrize(
    ("build", "in_channels", "img_size", "expected"),
    [
        (lambda: small_cnn(10, 8, 1, width=4), 1, 8, {"stem": 4, "blocks.0": 8, "blocks.1": 16}),
        (lambda: resnet18(10, 3, "cifar", None), 3, 32, STAGES),
        (lambda: resnet18(10, 3, "cifar", 256), 3, 32, STAGES),
        (lambda: resnet18(10, 3, "imagenet", None), 3, 32, STAGES),
        (lambda: resnet18(10, 1, "cifar", None), 1, 8, STAGES),
        (lambda: usb_network("wrn_28_2")(10, 32, 3), 3, 32, {"block1": 32, "block2": 64, "relu": 128}),
        (lambda: usb_network("resnet50")(10, 64, 3), 3, 64, {"layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048}),
        (lambda: usb_network("vit_tiny_patch2_32")(10, 32, 3), 3, 32, {"fc_norm": 192}),
        (lambda: vit_small(10, 32, 3, None), 3, 32, {"body": 384}),
        (lambda: cnn13(10, 32, 3, width=4), 3, 32, {"body.2": 4, "body.7": 8, "body.12": 4}),
        (lambda: VectorNetwork(10, 64, hidden=16), 64, 1, {"hidden": 16}),
        (lambda: VectorNetwork(10, 64), 1, 8, {"hidden": 64}),
    ],
)  # fmt: skip
def test_the_last_map_of_each_resolution_or_the_last_vector(build, in_channels, img_size, expected):
    net = build().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = defaults(net, in_channels, img_size)
    assert found == expected and list(found) == list(expected)
    # A look, and no more: neither weights nor running statistics nor modes nor hooks.
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_a_wrapped_network_has_the_names_of_the_network():
    assert list(defaults(nn.DataParallel(small_cnn(10, 8, 1, width=4)), 1, 8)) == ["stem", "blocks.0", "blocks.1"]


class _Flat(nn.Module):
    """All its maps have one size; vectors only where it is told to."""

    def __init__(self, vector: bool, tokens: bool = False):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 3, 3, padding=1), nn.ReLU()
        self.squeeze, self.classifier = nn.Flatten(), nn.Linear(48, 2)
        self.vector, self.tokens = vector, tokens

    def forward(self, x):
        x = self.relu(self.conv(x)) if not self.tokens else x.expand(-1, 3, -1, -1)
        x = self.squeeze(x) if self.vector else x.flatten(1)
        return {"logits": self.classifier(x), "feat": x}


def test_with_one_resolution_it_is_the_last_vector_else_the_map():
    assert defaults(_Flat(vector=True), 1, 4) == {"squeeze": 48}
    assert defaults(_Flat(vector=False), 1, 4) == {"relu": 3}


def test_a_network_without_maps_and_vectors_is_refused():
    with pytest.raises(ValueError, match="^no inner module of the network gives maps .* or vectors"):
        default_modules(inner_modules(_Flat(vector=False, tokens=True), 1, 4))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stme", r"the network calls no module 'stme'; did you mean 'stem'\?; valid: one that gives maps or vectors, such as stem, bloc"),
        ("blocks", "the network calls no module 'blocks'"),
        ("pool", "module 'pool' is called several times in a forward pass, or gives no single tensor; valid: .*such as stem"),
        ("classifier", "module 'classifier' gives the logits, which are no inner output; valid: "),
        ("", "the network calls no module ''"),
        ("x" * 5000, r"the network calls no module 'xxx.*…'"),
    ],
)
def test_a_module_that_will_not_do_is_named_with_what_would(name, said):
    found = inner_modules(small_cnn(10, 8, 1, width=4), 1, 8)
    with pytest.raises(ValueError, match=f"^{said}") as caught:
        dims_of(found, ["stem", name])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_tokens_are_neither_maps_nor_vectors():
    found = inner_modules(vit_small(10, 16, 1, None), 1, 16)
    with pytest.raises(ValueError, match=r"^module 'body.blocks.3' gives a tensor of shape \(B, 65, 384\), neither maps"):
        dims_of(found, ["body.blocks.3"])


def test_an_image_that_the_network_does_not_take_is_said():
    with pytest.raises(ValueError, match=r"^the network does not take \(1, 1, 8, 8\): RuntimeError: "):
        inner_modules(resnet18(10, 3, "cifar", None), 1, 8)
