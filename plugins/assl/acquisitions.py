"""ASSL as plugins. What they compute is in `functional`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from usb_active.plugins.assl import functional

from usb_active import Acquisition, PluginConfig, PoolView, TrainBatch, TrainingInfo, UsageError
from usb_active.errors import errors_named
from usb_active.numerics.greedy import kmeans_plus_plus
from usb_active.numerics.ranking import top_k

logger = logging.getLogger("usb_active")


class ASSL(Acquisition):
    """Highest product of two upper confidence bounds, gathered while the model trains: uncertainty (the pseudo-EL2N of the weak
    view) and inconsistency (the symmetric KL divergence of weak and strong view). Choosing needs no inference.

    `use` takes one of the two alone; `c_u: 0, c_i: 0` is the moving averages alone (Figs. 8 and 9). The state starts over at
    every cycle's training (ours; after some dozens of visits nothing of an earlier value is left). Samples that were not
    visited in it come last, among themselves in random order, with a warning that says how many there are.

    `include_labeled` is left to the YAML: the paper's unlabelled stream excludes the labelled samples (§3.1), and its
    configurations say `include_lb_to_ulb: false`. Nothing here depends on it, since only candidates are ranked, and a
    demand would give this method a training stream of its own, other than that of what it is compared with.
    """

    class Config(PluginConfig):
        alpha: float = Field(0.8, gt=0, le=1)
        c_u: float = Field(0.5, ge=0, allow_inf_nan=False)
        c_i: float = Field(2.0, ge=0, allow_inf_nan=False)
        use: Literal["product", "uncertainty", "inconsistency"] = "product"

    def __init__(self, config: PluginConfig | None = None):
        super().__init__(config)
        # By name of the score; empty until there is a training.
        self._trackers: dict[str, functional.EmaUcb] = {}

    @property
    def scores(self) -> tuple[str, ...]:
        """The scores that are watched."""
        return ("uncertainty", "inconsistency") if self.config.use == "product" else (self.config.use,)

    @property
    def batch_fields(self) -> frozenset[str]:
        """Uncertainty alone does without a strong view."""
        strong = {"logits_strong"} if "inconsistency" in self.scores else set()
        return frozenset({"idx_ulb", "probs_weak", *strong})

    # ------------------------------------------------------------------------------------------ watching
    def setup(self, info: TrainingInfo) -> None:
        self._trackers = {name: functional.EmaUcb(info.num_samples, self.config.alpha, info.device) for name in self.scores}

    @torch.no_grad()
    def observe(self, batch: TrainBatch) -> None:
        idx, probs = batch.idx_ulb, batch.probs_weak
        with errors_named(f"acquisition '{self.name}'"):
            for name, tracker in self._trackers.items():
                if name == "uncertainty":
                    values = functional.pseudo_el2n(probs, idx)
                else:
                    values = functional.symmetric_kl_from_logits(probs, batch.logits_strong, idx)
                tracker.update(idx, values)

    def state_dict(self) -> dict[str, Any]:
        return {name: tracker.state_dict() for name, tracker in self._trackers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        # Also before `setup`, in a process that begins between two trainings; and the pool may have grown since.
        devices = {name: tracker.mean.device for name, tracker in self._trackers.items()}
        self._trackers = {}
        for name, values in state.items():
            tracker = functional.EmaUcb(len(values["mean"]), self.config.alpha, devices.get(name, "cpu"))
            tracker.load_state_dict(values)
            self._trackers[name] = tracker

    # ------------------------------------------------------------------------------------------ choosing
    def select(self, view: PoolView, budget: int) -> np.ndarray:
        if not self._trackers:
            raise UsageError(f"acquisition '{self.name}': ranks by what it saw of a training, and there was none yet")
        with errors_named(f"acquisition '{self.name}'"):
            scores, visits = self.pool_scores()
            # Samples that joined the pool after the training began are beyond the end of the scores.
            seen = np.zeros(len(view.candidates), dtype=bool)
            known = view.candidates < len(scores)
            seen[known] = visits[view.candidates[known]] > 0
            visited, never = view.candidates[seen], view.candidates[~seen]
            number = min(budget, len(visited))
            picks = self.best(view, visited, scores, number) if number else visited
        if len(never):
            told = (self.name, len(never), len(view.candidates))
            logger.warning("acquisition '%s': %d of %d candidates were never visited in training, and rank last", *told)
        view.log("never_visited", len(never))
        return np.concatenate([picks, view.rng.choice(never, size=budget - number, replace=False)])

    def pool_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """The scores and the visits of all samples, (N,) and (N,)."""
        bounds = {"uncertainty": self.config.c_u, "inconsistency": self.config.c_i}
        ucbs = [tracker.ucb(bounds[name]) for name, tracker in self._trackers.items()]
        score = functional.acquisition_score(*ucbs) if len(ucbs) > 1 else ucbs[0]
        visits = next(iter(self._trackers.values())).visits
        return score.cpu().numpy(), visits.cpu().numpy()

    def best(self, view: PoolView, visited: np.ndarray, scores: np.ndarray, number: int) -> np.ndarray:
        """`number` of the `visited` samples (V,) by the scores (N,) of the pool."""
        return top_k(scores[visited], visited, number, view.rng)


class ASSLDiv(ASSL):
    """k-means++ seeding on the features, each scaled by the sample's score ("Ours-Div", §4). It needs the features.

    The first centre is the candidate with the largest scaled feature (ours: a uniform draw would ignore the score).
    """

    needs = frozenset({"features"})

    def best(self, view: PoolView, visited: np.ndarray, scores: np.ndarray, number: int) -> np.ndarray:
        weights = np.zeros(len(view), dtype=scores.dtype)
        weights[: len(scores)] = scores
        norms = scores[visited] * _row_norms(view.features, visited)
        first = int(top_k(norms, visited, 1, view.rng)[0])
        return kmeans_plus_plus(view.features, number, view.rng, candidates=visited, weights=weights, first=first)


class PseudoEL2N(Acquisition):
    """Largest pseudo-EL2N of the model at the end of the training, by inference (Eq. 1; "vanilla" in Fig. 8); ties are drawn."""

    needs = frozenset({"probs"})

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        scores = functional.pseudo_el2n(view.probs[view.candidates], view.candidates)
        return top_k(scores, view.candidates, budget, view.rng)


def _row_norms(features: np.ndarray, idx: np.ndarray, block: int = 8192) -> np.ndarray:
    """Norms of these rows, (V,): a memory map is not loaded whole."""
    return np.concatenate([np.linalg.norm(features[idx[at : at + block]], axis=1) for at in range(0, len(idx), block)])
