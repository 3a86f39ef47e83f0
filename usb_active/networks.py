"""Networks as plugins: the package's own, and USB's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from usb_active.errors import UsageError
from usb_active.network import Network
from usb_active.plugin import PluginConfig

if TYPE_CHECKING:
    import torch


class SmallCnn(Network):
    """A network for tiny images (8 to 32 pixels) that trains in seconds on a CPU."""

    class Config(PluginConfig):
        width: int = Field(32, ge=1)

    def build(self, num_classes: int, img_size: int, in_channels: int, pretrained_path: str | None = None) -> torch.nn.Module:
        from usb_active.usb.networks import small_cnn

        if pretrained_path:
            raise UsageError("net: small_cnn has no pretrained weights of USB's kind; use `pretrain: {name: file}`")
        return small_cnn(num_classes, img_size, in_channels, self.config.width)


class UsbNetwork(Network):
    """One of USB's networks for images, by its name in USB."""

    def build(self, num_classes: int, img_size: int, in_channels: int, pretrained_path: str | None = None) -> torch.nn.Module:
        from usb_active.usb.networks import usb_network

        return usb_network(self.name)(num_classes, img_size, in_channels, pretrained_path is not None, pretrained_path)
