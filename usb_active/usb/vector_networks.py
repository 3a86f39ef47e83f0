"""Networks without convolutions: for features that another network made, and for very small images."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class VectorNetwork(nn.Module):
    """A classifier of flattened inputs, behind one hidden layer or none.

    Args:
        num_classes: C.
        inputs: length of an input once it is flattened.
        hidden: units of the hidden layer (ReLU); 0: none, and then the features are the inputs themselves.
    """

    def __init__(self, num_classes: int, inputs: int, hidden: int = 0):
        super().__init__()
        self.inputs, self.num_features = inputs, hidden or inputs
        self.hidden = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU()) if hidden else nn.Identity()
        self.classifier = nn.Linear(self.num_features, num_classes)

    def forward(self, x: torch.Tensor, only_fc: bool = False, only_feat: bool = False) -> Any:
        """{"logits": (B, C), "feat": (B, D)}; logits of features (`only_fc`); or features alone (`only_feat`)."""
        if only_fc:
            return self.classifier(x)
        feat = self.hidden(x.flatten(1))
        return feat if only_feat else {"logits": self.classifier(feat), "feat": feat}

    def group_matcher(self, coarse: bool = False, prefix: str = "") -> dict[str, str]:
        """Patterns of USB's layer-wise learning rates."""
        return {"stem": rf"^{prefix}hidden", "blocks": rf"^{prefix}classifier"}

    def no_weight_decay(self) -> list[str]:
        """Parameters that USB's optimizers exempt from weight decay."""
        return [name for name, _ in self.named_parameters() if "bias" in name]
