"""The contract of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from usb_active.contracts.plugin import Plugin

if TYPE_CHECKING:
    import torch


class Network(Plugin):
    """Builds the task model. `pretrained_path` is USB's `pretrain_path`, given when `use_pretrain` is set."""

    kind: ClassVar[str] = "network"
    # True when it takes vectors (B, D) as well as images: it is then built for `in_channels` = D and an `img_size` of 1.
    takes_vectors: ClassVar[bool] = False

    def build(self, num_classes: int, img_size: int, in_channels: int, pretrained_path: str | None = None) -> torch.nn.Module:
        """A module with USB's calling convention.

        `forward(x, only_fc=False, only_feat=False)` gives {"logits": (B, C), "feat": (B, D)}, logits alone from features
        (`only_fc`), or features alone (`only_feat`).
        """
        raise NotImplementedError(f"{type(self).__name__}.build")
