"""Networks as plugins: the package's own, and USB's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from usb_active.contracts.network import Network
from usb_active.contracts.plugin import PluginConfig, later_key
from usb_active.errors import UsageError

if TYPE_CHECKING:
    import torch


class SmallCnn(Network):
    """A network for tiny images (8 to 32 pixels) that trains in seconds on a CPU."""

    class Config(PluginConfig):
        width: int = Field(32, ge=1, le=4096)

    def build(self, num_classes: int, img_size: int, in_channels: int, pretrained_path: str | None = None) -> torch.nn.Module:
        from usb_active.usb.networks import small_cnn

        refuse_pretrained(self.name, pretrained_path)
        return small_cnn(num_classes, img_size, in_channels, self.config.width)


class ResNet18(Network):
    """torchvision's ResNet-18, in the form of ALFA-Mix and the ASSL paper by default (7x7 stem, embedding of 256)."""

    class Config(PluginConfig):
        stem: Literal["imagenet", "cifar"] = "imagenet"
        embedding: int | None = Field(256, ge=1, le=65536)

    def build(self, num_classes: int, img_size: int, in_channels: int, pretrained_path: str | None = None) -> torch.nn.Module:
        from usb_active.usb.paper_networks import resnet18

        refuse_pretrained(self.name, pretrained_path)
        return resnet18(num_classes, in_channels, self.config.stem, self.config.embedding)


class Cnn13(Network):
    """The 13-layer network of papers on semi-supervised learning, in the form of the label propagation papers."""

    class Config(PluginConfig):
        """width: the paper's 128 channels of the first layers and of the features; smaller for a CPU.

        weight_norm_head: weight normalisation of the classifier too, as the authors' public code has it, and that of Mean Teacher.
        """

        width: int = Field(128, ge=1, le=4096)
        dropout: float = Field(0.5, ge=0, lt=1)
        weight_norm_head: bool = later_key(False)

    def build(self, num_classes: int, img_size: int, in_channels: int, pretrained_path: str | None = None) -> torch.nn.Module:
        from usb_active.usb.paper_networks import cnn13

        refuse_pretrained(self.name, pretrained_path)
        return cnn13(num_classes, img_size, in_channels, self.config.width, self.config.dropout, self.config.weight_norm_head)


class VitSmall(Network):
    """timm's ViT-S for any image size."""

    class Config(PluginConfig):
        """patch_size: 16 pixels from 96 on, an eighth of the side below, unless given.

        last_blocks: the features are the class tokens of so many last blocks, one behind the other. embedding: width of a linear layer on
        top of them. The form of ALFA-Mix and the ASSL paper: `{last_blocks: 4, embedding: 256, patch_size: 16}`.
        """

        patch_size: int | None = Field(None, ge=1, le=4096)
        last_blocks: int = later_key(1, ge=1, le=12)
        embedding: int | None = later_key(None, ge=1, le=65536)

    def build(self, num_classes: int, img_size: int, in_channels: int, pretrained_path: str | None = None) -> torch.nn.Module:
        from usb_active.usb.paper_networks import vit_small

        refuse_pretrained(self.name, pretrained_path)
        keys = self.config
        return vit_small(num_classes, img_size, in_channels, keys.patch_size, keys.last_blocks, keys.embedding)


class Linear(Network):
    """A linear classifier of what it is given, flattened: multinomial logistic regression, trained by gradient descent."""

    takes_vectors = True

    def build(self, num_classes: int, img_size: int, in_channels: int, pretrained_path: str | None = None) -> torch.nn.Module:
        from usb_active.usb.vector_networks import VectorNetwork

        refuse_pretrained(self.name, pretrained_path)
        return VectorNetwork(num_classes, in_channels * img_size**2)


class Mlp(Network):
    """One hidden layer."""

    takes_vectors = True

    class Config(PluginConfig):
        width: int = Field(256, ge=1, le=65536)

    def build(self, num_classes: int, img_size: int, in_channels: int, pretrained_path: str | None = None) -> torch.nn.Module:
        from usb_active.usb.vector_networks import VectorNetwork

        refuse_pretrained(self.name, pretrained_path)
        return VectorNetwork(num_classes, in_channels * img_size**2, self.config.width)


def refuse_pretrained(name: str, path: str | None) -> None:
    """UsageError for `use_pretrain` with a network that USB cannot load weights into."""
    if path:
        raise UsageError(f"net '{name}': use_pretrain is for USB's own networks; use `pretrain: {{name: file, path: …}}`")


class UsbNetwork(Network):
    """One of USB's networks for images, by its name in USB."""

    def build(self, num_classes: int, img_size: int, in_channels: int, pretrained_path: str | None = None) -> torch.nn.Module:
        from usb_active.usb.networks import usb_network

        return usb_network(self.name)(num_classes, img_size, in_channels, pretrained_path is not None, pretrained_path)
