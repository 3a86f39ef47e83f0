"""ASSAL's choice, Algorithm 3: what the sampler finds least like a labelled sample."""

from __future__ import annotations

import numpy as np
import torch
from usb_active.plugins.assal.algorithm import SAMPLER, Assal

from usb_active import Acquisition, PoolView, UsageError, top_k
from usb_active.pool.inference import evaluating


class AssalSampling(Acquisition):
    """Lowest D = P(labelled), by the sampler that algorithm `assal` trained, of μ by the weights that are trained.

    The draft takes no other score and no diversity. Not the EMA weights: the sampler learned on the codes of the live encoder. As the
    logits order samples as D does, they are compared, and nothing is lost where D is 0 or 1 by rounding.
    """

    def check(self, num_samples: int, num_classes: int, *, algorithm: type | None = None) -> None:
        """Refuses other algorithms: they train no sampler."""
        if algorithm is not None and not issubclass(algorithm, Assal):
            raise UsageError("chooses by the sampler that algorithm 'assal' trains, and this one trains none; use algorithm: assal")

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        sampler = view.registered(SAMPLER).module

        def score(seen: dict[str, torch.Tensor]) -> torch.Tensor:
            return sampler(seen["features"])

        stream = view.predict({"logit": score}, view.candidates, live=True)
        with evaluating(sampler):
            logits = np.concatenate([values["logit"][0] for _, values in stream])
        picks = top_k(-logits, view.candidates, budget, view.rng)
        chosen = np.isin(view.candidates, picks)
        view.log("assal/labeled_probability", _probability(logits).mean())
        view.log("assal/labeled_probability_of_picks", _probability(logits[chosen]).mean())
        return picks


def _probability(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))
