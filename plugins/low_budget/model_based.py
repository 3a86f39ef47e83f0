"""The rules that follow the model's predictions or its head, as plugins. What they compute is in `functional`."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field
from usb_active.plugins.low_budget import functional
from usb_active.plugins.low_budget.rule import Rule

from usb_active import PluginConfig, PoolView, task_head


class PowerMargin(Rule):
    """Drawn without replacement by (1 - margin)^beta (Kirsch et al. 2023): what is likely to be uncertain, and not only the top."""

    class Config(PluginConfig):
        beta: float = Field(1.0, gt=0, allow_inf_nan=False)

    needs: ClassVar[frozenset[str]] = frozenset({"probs"})

    def picks(self, view: PoolView, budget: int) -> np.ndarray:
        return functional.power_margin(view.probs, budget, view.rng, candidates=view.candidates, beta=self.config.beta)


class Clue(Rule):
    """The samples nearest to the centres of k-means weighted by entropy (Prabhu et al. 2021)."""

    class Config(PluginConfig):
        temperature: float = Field(1.0, gt=0, allow_inf_nan=False)

    needs: ClassVar[frozenset[str]] = frozenset({"features", "probs"})

    def picks(self, view: PoolView, budget: int) -> np.ndarray:
        keys = self.config.model_dump()
        return functional.clue(view.features, view.probs, budget, view.rng, candidates=view.candidates, **keys)


class DropQuery(Rule):
    """Clusters of the samples whose prediction changes under dropout of their features (Gupte et al. 2024)."""

    class Config(PluginConfig):
        passes: int = Field(3, ge=1)
        rate: float = Field(0.75, gt=0, lt=1)

    needs: ClassVar[frozenset[str]] = frozenset({"features", "probs", "head"})

    def picks(self, view: PoolView, budget: int) -> np.ndarray:
        import torch

        head = task_head(view, f"acquisition '{self.name}'")

        def classify(rows: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return head.logits(torch.as_tensor(rows, device=view.device)).argmax(dim=1).cpu().numpy()

        keys = self.config.model_dump()
        found = functional.drop_query(view.features, classify, budget, view.rng, candidates=view.candidates, **keys)
        view.log("drop_query/disagreeing", found.num_disagreeing)
        return found.idx


class Bait(Rule):
    """Batches that lower the trace of the inverse Fisher information of the last layer times the pool's (Ash et al. 2021).

    The Fisher information is that of the head's weights, so the features must be the head's input.
    """

    class Config(PluginConfig):
        regularization: float = Field(1.0, gt=0, allow_inf_nan=False)
        oversample: int = Field(2, ge=1)
        projection: int | None = Field(None, ge=1)

    needs: ClassVar[frozenset[str]] = frozenset({"features", "probs", "head"})

    def picks(self, view: PoolView, budget: int) -> np.ndarray:
        keys = self.config.model_dump()
        return functional.bait(view.features, view.probs, view.labeled, budget, view.rng, candidates=view.candidates, **keys)
