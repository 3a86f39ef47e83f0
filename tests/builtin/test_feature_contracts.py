"""The sources of features that come with the package keep the contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from usb_active.testing import FeaturesContract


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
