"""ASSAL's networks: sizes, shapes, ranges, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from usb_active.plugins.assal.networks import MOST_LOG_VAR, ClassifyingVae, Discriminator, Vae, sides_of

from usb_active import UsageError
from usb_active.contracts.registry import REGISTRY
from usb_active.testing import NetworkContract


class TestAssalVae(NetworkContract):
    name = "assal_vae"
    config = {"latent": 6, "width": 4}

    @pytest.mark.parametrize("img_size", [1, 7])
    def test_smaller_images_are_refused(self, img_size):
        with pytest.raises(UsageError, match=f"^net 'assal_vae': takes images of 8 pixels or more, not of {img_size}; choose another"):
            self.plugin().build(4, img_size, 3)

    def test_the_code_is_as_long_as_was_said(self):
        assert self.outputs(self.build())["feat"].shape == (3, 6) and self.build().num_features == 6
        with pytest.raises(ValueError, match="latent"):
            self.make({"latent": 0})

    def test_pretrained_weights_of_usb_are_refused(self):
        with pytest.raises(UsageError, match="use_pretrain is for USB's own networks"):
            self.plugin().build(4, 32, 3, "weights.pth")


class TestAssalVaeOfDigits(NetworkContract):
    name = "assal_vae"
    config = {"latent": 3, "width": 3}
    img_size = 8
    in_channels = 1


@pytest.mark.parametrize("size", [8, 9, 28, 32, 64, 96])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_generated_has_the_size_of_the_images(size, channels):
    net = Vae(size, channels, latent=5, width=2)
    mu, log_var = net.encode(torch.randn(2, channels, size, size))
    assert mu.shape == log_var.shape == (2, 5) and net.decode(mu).shape == (2, channels, size, size)
    assert net.decode(net.encode(torch.zeros(0, channels, size, size))[0]).shape == (0, channels, size, size)


def test_maps_are_halved_down_to_four_pixels():
    assert [sides_of(size) for size in (8, 28, 96)] == [[8, 4], [28, 14, 7, 4], [96, 48, 24, 12, 6, 3]]


def test_variances_stay_finite_for_wild_images():
    _, log_var = Vae(8, 1, width=2).encode(1e6 * torch.randn(4, 1, 8, 8))
    assert log_var.abs().max() <= MOST_LOG_VAR and torch.isfinite(log_var.exp()).all()


def test_images_of_another_size_are_refused():
    with pytest.raises(UsageError, match=r"a batch of shape \(2, 1, 9, 9\); it was built for \(B, 1, 8, 8\)"):
        Vae(8, 1, width=2).encode(torch.zeros(2, 1, 9, 9))


@pytest.mark.parametrize("wrong", [{"img_size": 7}, {"latent": 0}, {"width": 0}, {"in_channels": 0}, {"latent": 2.5}])
def test_arguments_out_of_range(wrong):
    (name,) = wrong
    with pytest.raises(UsageError, match=f"^variational autoencoder: {name}: .*; it must be an integer of at least"):
        Vae(**{"img_size": 8, "in_channels": 1, **wrong})


def test_the_classifier_and_the_head_of_rotations_share_the_encoder():
    net = ClassifyingVae(3, 8, 1, latent=4, width=2)
    x = torch.randn(2, 1, 8, 8)
    for head in (net.classifier, net.rotation):
        net.zero_grad()
        head(net.encode(x)[0]).sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.encoder.maps[0].parameters())


@pytest.mark.parametrize(("layers", "linear"), [(0, 1), (2, 3)])
def test_the_sampler_gives_one_logit_for_each_code(layers, linear):
    sampler = Discriminator(5, width=7, layers=layers)
    assert sampler(torch.randn(4, 5)).shape == (4,)
    assert sum(isinstance(module, torch.nn.Linear) for module in sampler.layers) == linear


def test_it_is_declared_by_this_plugin():
    assert REGISTRY.get("network", "assal_vae").__module__ == "usb_active.plugins.assal.networks"
