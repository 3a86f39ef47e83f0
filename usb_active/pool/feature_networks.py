"""A network of images out of a classifier of features: for images that were not there when the features of the pool were made."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from usb_active.contracts.features import Encoder
from usb_active.pool.feature_inputs import centered


class OnFeatures(nn.Module):
    """An encoder, and a network that was trained on what it makes, as one network of the encoder's images.

    Args:
        encoder: does not change; no module of it is part of this one.
        mean: (D,) of the features that the run began with.
        head: the network.
    """

    def __init__(self, encoder: Encoder, mean: torch.Tensor, head: nn.Module):
        super().__init__()
        self._encode = encoder.encode
        self.register_buffer("mean", mean)
        self.head = head

    def forward(self, x: torch.Tensor, **options: Any) -> Any:
        """As the head's, of images (B, channels, height, width)."""
        if options.get("only_fc"):
            return self.head(x, **options)
        with torch.no_grad():
            features = centered(self._encode(x).float(), self.mean)
        return self.head(features, **options)
