"""The rules for few labels as plugins. What they compute is in `functional`."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from usb_active.plugins.low_budget import functional

from usb_active import Acquisition, PluginConfig, PoolView
from usb_active.errors import errors_named


class _Rule(Acquisition):
    """A function of arrays, and its keys."""

    def picks(self, view: PoolView, budget: int) -> np.ndarray:
        """(budget,) idx."""
        raise NotImplementedError(f"{type(self).__name__}.picks")

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        with errors_named(f"acquisition '{self.name}'"):
            return self.picks(view, budget)


class MaxHerding(_Rule):
    """Greedy coverage of the pool by a Gaussian kernel, from what is labelled (Bae et al. 2024); works as `initial` too."""

    class Config(PluginConfig):
        bandwidth: float = Field(1.0, gt=0, allow_inf_nan=False)

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def picks(self, view: PoolView, budget: int) -> np.ndarray:
        picks = functional.max_herding(
            view.features, view.labeled, budget, view.rng, candidates=view.candidates, bandwidth=self.config.bandwidth
        )  # fmt: skip
        chosen = np.concatenate([view.labeled, picks])
        view.log("max_herding/coverage", functional.generalized_coverage(view.features, chosen, bandwidth=self.config.bandwidth))
        return picks


class UHerding(_Rule):
    """The same, every sample weighed by its uncertainty (Bae et al. 2025). Without `bandwidth`: the smallest distance between labels."""

    class Config(PluginConfig):
        bandwidth: float | None = Field(None, gt=0, allow_inf_nan=False)
        uncertainty: Literal["margin", "entropy", "least_confidence"] = "margin"
        temperature: float = Field(1.0, gt=0, allow_inf_nan=False)

    needs: ClassVar[frozenset[str]] = frozenset({"features", "probs"})

    def picks(self, view: PoolView, budget: int) -> np.ndarray:
        keys = self.config.model_dump()
        return functional.u_herding(view.features, view.probs, view.labeled, budget, view.rng, candidates=view.candidates, **keys)


class ProbCover(_Rule):
    """Greedily the ball that holds most samples that no ball holds yet (Yehuda et al. 2022); works as `initial` too.

    Without `delta` it is the largest radius at which a share `purity` of the balls are pure, by clusters of k-means.
    """

    class Config(PluginConfig):
        delta: float | None = Field(None, gt=0, allow_inf_nan=False)
        purity: float = Field(0.95, gt=0, le=1)

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def picks(self, view: PoolView, budget: int) -> np.ndarray:
        delta = self.config.delta
        if delta is None:
            delta = functional.purity_radius(view.features, view.num_classes, view.rng, purity=self.config.purity)
        found = functional.prob_cover(view.features, view.labeled, budget, view.rng, delta=delta, candidates=view.candidates)
        view.log("prob_cover/delta", delta)
        view.log("prob_cover/coverage", found.coverage)
        return found.idx
