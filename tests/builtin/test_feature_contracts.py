"""The sources of features that come with the package keep the contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from usb_active.testing import FeaturesContract
from usb_active.testing.pool import World, made_images


class TestModel(FeaturesContract):
    name = "model"


class TestPixels(FeaturesContract):
    name = "pixels"


class TestPretrain(FeaturesContract):
    name = "pretrain"
    by_content = False

    def world(self, folder, **made):
        world = super().world(folder, **made)
        world.pretrained = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
        return world


class TestFile(FeaturesContract):
    name = "file"
    by_content = False

    def keys(self, folder):
        np.save(folder / "features.npy", np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32))
        return {"path": str(folder / "features.npy")}


class TestTimm(FeaturesContract):
    name = "timm"

    @pytest.fixture(autouse=True, scope="class")
    def weights(self, tmp_path_factory, request):
        import timm

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = timm.create_model("resnet10t", pretrained=False, num_classes=0, in_chans=1)
        request.cls.path = tmp_path_factory.mktemp("timm") / "resnet10t.pth"
        torch.save(net.state_dict(), request.cls.path)

    def keys(self, folder):
        return {"model": "resnet10t", "path": str(self.path)}


class TestEfficientNetLite0(FeaturesContract):
    name = "efficientnet_lite0"

    def keys(self, folder):
        return {"size": 32}

    def world(self, folder, **made):
        """Its images as a data set of files has them: the network is shown what is on disk, not a view."""
        images = made_images() if made.get("images") is None else made.pop("images")
        return World(folder, **{**made, "images": (40 * images + 128).clip(0, 255).astype(np.uint8)})

    def test_samples_that_are_not_finite_are_named(self, tmp_path):
        pytest.skip("images of 8 bits are finite")
