"""Learning loss (Yoo & Kweon 2019, "Learning Loss for Active Learning"): a module that predicts a sample's loss, and what it is trained by.

Dimension letters: B batch, D channels of a map or length of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class LossHead(nn.Module):
    """The loss prediction module (§3.2, Fig. 2): what inner layers of the task network give → one number for each sample.

    Of each: global average pooling, a fully connected layer, ReLU; these joined, and a fully connected layer to one number. A layer
    that gives vectors needs no pooling (ours).

    Args:
        dims: name of a module of the task network → D of what it gives.
        width: units of each fully connected layer (128 in the paper).
    """

    def __init__(self, dims: Mapping[str, int], width: int):
        super().__init__()
        self.names = tuple(dims)
        self.layers = nn.ModuleList([nn.Linear(dim, width) for dim in dims.values()])
        self.last = nn.Linear(width * len(dims), 1)

    def forward(self, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B,) of outputs (B, D, height, width) or (B, D) by name; others are ignored."""
        rows = [layer(pooled(outputs[name])).relu() for name, layer in zip(self.names, self.layers, strict=True)]
        return self.last(torch.cat(rows, dim=1))[:, 0]


def pooled(output: torch.Tensor) -> torch.Tensor:
    """(B, D): the mean over the image of (B, D, height, width), or (B, D) itself."""
    return output.mean(dim=(2, 3)) if output.ndim == 4 else output


def pairwise_ranking_loss(predicted: torch.Tensor, losses: torch.Tensor, margin: float = 1.0) -> torch.Tensor:
    """Mean over pairs of Eq. 2: max(0, -1(l_i, l_j) · (p_i - p_j) + margin), where 1(l_i, l_j) is +1 if l_i > l_j, else -1.

    The B samples make B/2 pairs, the i-th with the (i + B/2)-th: which is which is by chance, as the order of a batch is. The mean over
    them is the factor 2/B of Eq. 3. Of an odd number the last is left out (ours; the paper has even batches).

    Args:
        predicted: (B,) p, B >= 2.
        losses: (B,) l, the losses themselves; no gradient flows into them.
        margin: ξ > 0.

    Returns:
        A scalar.

    Raises:
        ValueError: fewer than two samples, or arrays that do not fit.
    """
    if predicted.ndim != 1 or predicted.shape != losses.shape:
        raise ValueError(f"losses: expected one for each prediction, got shapes {tuple(predicted.shape)} and {tuple(losses.shape)}")
    pairs = len(predicted) // 2
    if not pairs:
        raise ValueError(f"predicted: a pair needs 2 samples, got {len(predicted)}")
    order = torch.where(losses[:pairs] > losses[pairs : 2 * pairs], 1.0, -1.0)
    return (margin - order * (predicted[:pairs] - predicted[pairs : 2 * pairs])).clamp(min=0).mean()
