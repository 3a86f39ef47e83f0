"""The data sets that come with the package keep the contract, on stand-ins in the real formats."""

from __future__ import annotations

import pytest
from data_makers import write_cifar, write_folder, write_mnist, write_stl10, write_svhn

from usb_active.contracts.dataset import DatasetOptions
from usb_active.testing import DatasetContract


class TestDigits(DatasetContract):
    name = "digits"


class TestDigitsInColour(DatasetContract):
    name = "digits"
    config = {"in_channels": 3, "augmentation": "translate_flip"}


class TestMnist(DatasetContract):
    name = "mnist"

    def options(self, folder):
        write_mnist(folder / "mnist")
        return super().options(folder)


class TestImageFolder(DatasetContract):
    name = "image_folder"

    def options(self, folder):
        write_folder(folder, {"train/cat": 3, "train/dog": 2, "test/cat": 2, "unlabeled": 3}, side=16)
        return super().options(folder)


class TestImageFolderWithAShareToTest(DatasetContract):
    name = "image_folder"
    config = {"test_share": 0.34}

    def options(self, folder):
        write_folder(folder, {"train/cat": 3, "train/dog": 4, "unlabeled": 3}, side=16)
        return super().options(folder)


class Published(DatasetContract):
    """Sets of which the files' checksums are known; those of the stand-ins take their place."""

    @pytest.fixture(autouse=True)
    def patched(self, monkeypatch):
        self.patch = monkeypatch

    def options(self, folder):
        self.write(folder)
        return DatasetOptions(data_dir=folder)


class TestCifar10(Published):
    name = "cifar10"

    def write(self, folder):
        write_cifar(folder, self.patch, "cifar10")


class TestCifar100(Published):
    name = "cifar100"

    def write(self, folder):
        write_cifar(folder, self.patch, "cifar100")


class TestSvhn(Published):
    name = "svhn"

    def write(self, folder):
        write_svhn(folder, self.patch, {"train": 12, "extra": 5, "test": 6})


class TestStl10(Published):
    name = "stl10"

    def write(self, folder):
        write_stl10(folder, self.patch, {"train": 6, "test": 5, "unlabeled": 4})
