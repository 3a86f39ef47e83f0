"""The head of the task model: the classifier on top of its features, found by what it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usb_active.errors import UsageError

if TYPE_CHECKING:
    import torch

    from usb_active.pool.view import PoolView

# Samples by which a head is recognized, and how far its probabilities may be from the pool's.
_PROBE = 256
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class TaskHead:
    """What makes logits of features.

    Attributes:
        logits: features (B, D) → logits (B, C), differentiable, on the model's device.
        layer: the linear layer that is the whole head; None where it is anything else.
    """

    logits: Callable[[torch.Tensor], torch.Tensor]
    layer: torch.nn.Linear | None

    @property
    def weight(self) -> np.ndarray:
        """(C, D) float64 of a linear head. ValueError for any other."""
        return self._linear().weight.detach().double().cpu().numpy()

    @property
    def bias(self) -> np.ndarray:
        """(C,) float64 of a linear head, zeros where it has none. ValueError for any other."""
        layer = self._linear()
        return np.zeros(layer.out_features) if layer.bias is None else layer.bias.detach().double().cpu().numpy()

    def _linear(self) -> torch.nn.Linear:
        if self.layer is None:
            raise ValueError("this head is more than one linear layer, so it has no single weight and bias")
        return self.layer


def task_head(view: PoolView, who: str) -> TaskHead:
    """The head of `view.model`. The view needs "features" and "probs".

    USB's networks apply their classifier to features by `model(features, only_fc=True)`; whether `view.features` are what it takes is
    seen by the probabilities that come out.

    Args:
        view: whose `model` has the head.
        who: how a message begins, such as "acquisition 'alfa_mix'".

    Raises:
        UsageError: `view.features` are not what the model's classifier takes, or the network cannot be asked for its classifier alone.
    """
    import torch

    probe = view.candidates[:_PROBE]
    features = torch.as_tensor(np.array(view.features[probe]), device=view.device)
    expected = torch.as_tensor(np.array(view.probs[probe]), device=view.device)
    model = view.model

    def logits(z: torch.Tensor) -> torch.Tensor:
        return model(z, only_fc=True)

    with torch.no_grad():
        try:
            found = logits(features).float()
        except RuntimeError as error:
            raise _foreign_features(who, features) from error
        except TypeError as error:
            name = type(model).__name__
            reason = f"has no head of its own to ask: model(features, only_fc=True) fails ({error})"
            raise UsageError(f"{who}: network {name} {reason}") from error
        if not torch.allclose(found.softmax(dim=1), expected, atol=_TOLERANCE):
            raise _foreign_features(who, features)
        for layer in model.modules():
            if _takes(layer, features) and torch.equal(layer(features).float(), found):
                return TaskHead(logits, layer)
    return TaskHead(logits, None)


def _takes(layer: torch.nn.Module, features: torch.Tensor) -> bool:
    import torch

    return isinstance(layer, torch.nn.Linear) and layer.in_features == features.shape[1]


def _foreign_features(who: str, features: torch.Tensor) -> UsageError:
    what = f"features of {features.shape[1]} dimensions are not what the model's classifier takes"
    return UsageError(f"{who}: {what}; use features: model")
