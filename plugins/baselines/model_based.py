"""Baselines that use the task model's predictions together with its features or its head, as plugins."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field
from usb_active.plugins.baselines.alfa_mix import Head, LinearHead, TorchHead, alfa_mix
from usb_active.plugins.baselines.badge import badge
from usb_active.plugins.baselines.cdal import cdal
from usb_active.plugins.baselines.ical import inconsistency

from usb_active import Acquisition, PluginConfig, PoolView, task_head, top_k
from usb_active.errors import errors_named


class Badge(Acquisition):
    """k-means++ seeds of the last layer's gradients at the predicted labels (Ash et al. 2020)."""

    class Config(PluginConfig):
        first: Literal["norm", "uniform"] = "norm"

    needs = frozenset({"features", "probs"})

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        return badge(view.features, view.probs, budget, view.rng, candidates=view.candidates, first=self.config.first)


class Cdal(Acquisition):
    """Greedy k-center by the symmetric KL divergence of predictions, from what is labelled (Agarwal et al. 2020, CDAL-CS)."""

    needs = frozenset({"probs"})

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        return cdal(view.probs, view.labeled, budget, view.rng, candidates=view.candidates)


class AlfaMix(Acquisition):
    """Clusters of the samples whose prediction changes when labelled features are mixed in (Parvaneh et al. 2022)."""

    class Config(PluginConfig):
        epsilon: float = Field(0.2, gt=0, le=1)

    needs = frozenset({"features", "probs", "head"})

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        picks = alfa_mix(
            view.features,
            view.labeled,
            view.labels,
            budget,
            view.rng,
            head=head_of(view, self.name),
            num_classes=view.num_classes,
            candidates=view.candidates,
            epsilon=self.config.epsilon,
        )
        view.log("alfa_mix/inconsistent", picks.num_inconsistent)
        view.log("alfa_mix/epsilon", picks.epsilon)
        return picks.idx


class Ical(Acquisition):
    """Largest variance of the predictions over augmented versions of a sample (Gao et al. 2020); ties are drawn.

    `passes` versions by the augmentation `transform`, and the original; the paper's is standard augmentation (shifts and mirroring),
    here the weak one, and 50 versions as in public implementations. What is drawn depends on the seed and the cycle.
    """

    class Config(PluginConfig):
        passes: int = Field(50, ge=1)
        transform: Literal["weak", "strong"] = "weak"

    needs = frozenset({"probs"})

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        augmented = view.predict(["probs"], view.candidates, transform=self.config.transform, passes=self.config.passes)
        with errors_named(f"acquisition '{self.name}'"):
            parts = [inconsistency(np.concatenate([view.probs[idx][None], values["probs"]])) for idx, values in augmented]
        scores = np.concatenate(parts)
        view.log("ical/mean_inconsistency", scores.mean())
        return top_k(scores, view.candidates, budget, view.rng)


def head_of(view: PoolView, who: str) -> Head:
    """The model's classifier: in closed form where it is one linear layer, else by autograd.

    Raises:
        UsageError: `view.features` are not what the model's classifier takes.
    """
    head = task_head(view, f"acquisition '{who}'")
    return TorchHead(head.logits, view.device) if head.layer is None else LinearHead(head.weight, head.bias)
