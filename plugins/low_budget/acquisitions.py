"""The rules that cover the pool, as plugins. What they compute is in `functional`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from usb_active.plugins.low_budget import functional
from usb_active.plugins.low_budget.inputs import LEAST_BANDWIDTH
from usb_active.plugins.low_budget.rule import Rule

from usb_active import PluginConfig, PoolView


class MaxHerding(Rule):
    """Greedy coverage of the pool by a Gaussian kernel, from what is labelled (Bae et al. 2024); works as `initial` too."""

    class Config(PluginConfig):
        bandwidth: float = Field(1.0, ge=LEAST_BANDWIDTH, allow_inf_nan=False)

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def picks(self, view: PoolView, budget: int) -> np.ndarray:
        picks = functional.max_herding(
            view.features, view.labeled, budget, view.rng, candidates=view.candidates, bandwidth=self.config.bandwidth
        )  # fmt: skip
        chosen = np.concatenate([view.labeled, picks])
        view.log("max_herding/coverage", functional.generalized_coverage(view.features, chosen, bandwidth=self.config.bandwidth))
        return picks


class UHerding(Rule):
    """The same, every sample weighed by its uncertainty (Bae et al. 2025). Without `bandwidth`: the smallest distance between labels.

    `u_herding/bandwidth` has the bandwidth that was used.
    """

    class Config(PluginConfig):
        bandwidth: float | None = Field(None, ge=LEAST_BANDWIDTH, allow_inf_nan=False)
        uncertainty: Literal["margin", "entropy", "least_confidence"] = "margin"
        temperature: float = Field(1.0, gt=0, allow_inf_nan=False)

    needs: ClassVar[frozenset[str]] = frozenset({"features", "probs"})

    def picks(self, view: PoolView, budget: int) -> np.ndarray:
        keys = self.config.model_dump()
        if keys["bandwidth"] is None:
            keys["bandwidth"] = functional.label_bandwidth(view.features, view.labeled)
        picks = functional.u_herding(view.features, view.probs, view.labeled, budget, view.rng, candidates=view.candidates, **keys)
        view.log("u_herding/bandwidth", keys["bandwidth"])
        return picks


class ProbCover(Rule):
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


class Dcom(Rule):
    """Coverage by balls that are as large as they are pure, mixed with the margin by how much they cover (Mishal & Weinshall 2024).

    A labelled sample keeps the radius that it got in the round after it was labelled. Without `delta`, the first radius is that of
    `prob_cover`. The radius is a distance of that round's features, so it takes features that do not change (`features: pretrain`,
    `pixels` or those of a file), which the authors have. `dcom/coverage` is that of the labelled samples before the picks;
    `prob_cover/coverage` is after them.
    """

    class Config(PluginConfig):
        delta: float | None = Field(None, gt=0, allow_inf_nan=False)
        max_delta: float = Field(1.1, gt=0, allow_inf_nan=False)
        steepness: float = Field(50.0, gt=0, allow_inf_nan=False)
        centre: float = Field(0.8, ge=0, le=1)

    needs: ClassVar[frozenset[str]] = frozenset({"features", "probs", "labels"})

    def __init__(self, config: PluginConfig | None = None):
        super().__init__(config)
        # By sample; and the first one, where it had to be found.
        self.radii: dict[int, float] = {}
        self.delta: float | None = self.config.delta

    def picks(self, view: PoolView, budget: int) -> np.ndarray:
        keys = self.config.model_dump()
        radii = np.array([self.radii.get(int(i), np.nan) for i in view.labeled])
        if self.delta is None:
            self.delta = functional.purity_radius(view.features, view.num_classes, view.rng)
        keys["delta"] = self.delta
        found = functional.dcom(
            view.features, view.probs, view.labeled, view.labels, budget, view.rng, radii=radii, candidates=view.candidates, **keys
        )  # fmt: skip
        self.radii = dict(zip(view.labeled.tolist(), found.radii.tolist(), strict=True))
        view.log("dcom/coverage", found.coverage)
        view.log("dcom/competence", found.competence)
        if len(found.radii):
            view.log("dcom/mean_radius", found.radii.mean())
        return found.idx

    def state_dict(self) -> dict[str, Any]:
        delta = [] if self.delta is None else [self.delta]
        return {"samples": list(self.radii), "radii": list(self.radii.values()), "delta": delta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.radii = dict(zip(state["samples"], state["radii"], strict=True))
        self.delta = state["delta"][0] if state["delta"] else None
