"""The networks that come with the package keep the contract; those of USB too, where their size can be paid for."""

from __future__ import annotations

import pytest

from usb_active.testing import NetworkContract


class TestSmallCnn(NetworkContract):
    name = "small_cnn"
    config = {"width": 4}


class TestSmallCnnForDigits(TestSmallCnn):
    img_size, in_channels = 8, 1


class TestResNet18(NetworkContract):
    name = "resnet18"


class TestResNet18ForCifar(NetworkContract):
    name = "resnet18"
    config = {"stem": "cifar", "embedding": None}


class TestCnn13(NetworkContract):
    name = "cnn13"
    config = {"width": 8}


class TestWrn(NetworkContract):
    name = "wrn_28_2"


@pytest.mark.slow
class TestVitSmall(NetworkContract):
    name = "vit_small"


@pytest.mark.slow
class TestWrnVar(NetworkContract):
    name = "wrn_var_37_2"


@pytest.mark.slow
class TestWrn288(NetworkContract):
    name = "wrn_28_8"


@pytest.mark.slow
class TestVitTiny(NetworkContract):
    name = "vit_tiny_patch2_32"


@pytest.mark.slow
class TestVitSmall32(NetworkContract):
    name = "vit_small_patch2_32"


@pytest.mark.slow
class TestVitSmall224(NetworkContract):
    name, img_size = "vit_small_patch16_224", 224


@pytest.mark.slow
class TestVitBase96(NetworkContract):
    name, img_size = "vit_base_patch16_96", 96


@pytest.mark.slow
class TestVitBase224(NetworkContract):
    name, img_size = "vit_base_patch16_224", 224


@pytest.mark.slow
class TestResNet50(NetworkContract):
    name = "resnet50"
