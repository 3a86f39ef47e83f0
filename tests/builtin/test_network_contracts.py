"""The networks that come with the package keep the contract. Of USB's, which are one plugin with nine sizes, one of each family."""

from __future__ import annotations

import pytest

from usb_active.testing import NetworkContract


class TestSmallCnn(NetworkContract):
    name = "small_cnn"
    config = {"width": 4}


class TestSmallCnnForDigits(TestSmallCnn):
    img_size, in_channels = 8, 1


class TestLinear(NetworkContract):
    name = "linear"
    only_head = True
    img_size, in_channels = 8, 1


class TestMlp(NetworkContract):
    name = "mlp"
    config = {"width": 16}
    img_size, in_channels = 8, 1


class TestResNet18(NetworkContract):
    name = "resnet18"


class TestResNet18ForCifar(NetworkContract):
    name = "resnet18"
    config = {"stem": "cifar", "embedding": None}


class TestCnn13(NetworkContract):
    name = "cnn13"
    config = {"width": 8}


class TestCnn13OfTheAuthors(NetworkContract):
    name = "cnn13"
    config = {"width": 8, "weight_norm_head": True}


class TestWrn(NetworkContract):
    name = "wrn_28_2"


@pytest.mark.slow
class TestVitSmall(NetworkContract):
    name = "vit_small"


@pytest.mark.slow
class TestVitSmallOfAlfaMix(NetworkContract):
    name = "vit_small"
    config = {"patch_size": 16, "last_blocks": 4, "embedding": 256}


@pytest.mark.slow
class TestVitTiny(NetworkContract):
    name = "vit_tiny_patch2_32"


@pytest.mark.slow
class TestResNet50(NetworkContract):
    name = "resnet50"
