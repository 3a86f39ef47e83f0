"""REVIVAL as an acquisition, with the ablations of its Table 1. The arithmetic is in `functional`."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from usb_active.plugins.revival import functional
from usb_active.plugins.revival.backends import check_backend
from usb_active.plugins.revival.keys import PropagatorKeys, fitted, say_unseen_classes

from usb_active import Acquisition, PoolView, task_head
from usb_active.errors import errors_named
from usb_active.numerics.arrays import entropy

# The bounds of M: a multiple of the budget, or a share of the pool.
_Number = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Revival(Acquisition):
    """Of the samples whose virtual labels an adversarial push of the features moves most, those of largest entropy (Guo et al. 2021).

    Virtual labels are made anew in every cycle, by a graph network that is trained on the labelled nodes of the neighbour graph of the
    features; all samples are nodes, also those that cannot be queried. It needs labels, so it cannot be `initial`.

    Table 1: `preselect: 1` is LP+VAG, `preselect: all` LP+BL, and `labels: head` VAG+BL: the task model's own predictions and head take
    the place of the graph's (`features: model`; the keys of graph and graph network do nothing then).

    Args:
        config: `epsilon` is a share of the features' length while `unit_features` is true, else a length: features of trained networks
            have lengths from 1 to 100, and a push much shorter than them ranks by noise. `preselect` is M, see
            `functional.num_preselected`.
    """

    class Config(PropagatorKeys):
        labels: Literal["graph", "head"] = "graph"
        epsilon: float = Field(0.1, gt=0, allow_inf_nan=False)
        power_iterations: int = Field(1, ge=1)
        score: Literal["kl_perturbed_clean", "kl_clean_perturbed"] = "kl_perturbed_clean"
        preselect: _Number | Literal["auto", "all"] = "auto"
        diversity: bool = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"features", "probs"} if self.config.labels == "head" else {"features"})

    def check(self, num_samples: int, num_classes: int) -> None:
        if self.config.labels == "graph":
            check_backend(self.config.backend)

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        config = self.config
        with errors_named(f"acquisition '{self.name}'"):
            count = functional.num_preselected(config.preselect, budget, len(view), len(view.candidates))
            adversary = functional.Adversary(config.epsilon, config.power_iterations, config.score)
            # Where all pass, nobody asks how far they moved.
            adversary = adversary if count < len(view.candidates) else None
            probs, moved = (self._of_head if config.labels == "head" else self._of_graph)(view, adversary)
            picks = functional.limit(
                probs, moved, view.features, budget, view.candidates, count, diversity=config.diversity, rng=view.rng
            )
        self._log(view, probs, moved, picks, count)
        return picks

    def _of_graph(self, view: PoolView, adversary: functional.Adversary | None) -> tuple[np.ndarray, np.ndarray]:
        """Virtual labels (N, C), and how far each candidate moves."""
        say_unseen_classes(view, f"acquisition '{self.name}'")
        propagator = fitted(view, view.features, self.config)
        probs = propagator.probs()
        if adversary is None:
            return probs, np.zeros(len(view.candidates))
        return probs, functional.adversarial_divergence(propagator, adversary, rng=view.rng)[view.candidates]

    def _of_head(self, view: PoolView, adversary: functional.Adversary | None) -> tuple[np.ndarray, np.ndarray]:
        """The same by the task model alone, which looks at each sample by itself."""
        head = task_head(view, f"acquisition '{self.name}'")
        if adversary is None:
            return view.probs, np.zeros(len(view.candidates))
        relative, device = self.config.unit_features, view.device
        moved = functional.head_divergence(
            view.features, view.candidates, head.logits, adversary, relative=relative, device=device, rng=view.rng
        )
        return view.probs, moved

    def _log(self, view: PoolView, probs: np.ndarray, moved: np.ndarray, picks: np.ndarray, count: int) -> None:
        view.log("revival/preselected", count)
        view.log("revival/entropy_of_picks", entropy(probs[picks]).mean())
        view.log("revival/mean_divergence", moved.mean())
        if self.config.labels == "graph":
            view.audit(lambda truth: log_accuracy(view, probs, truth))


def log_accuracy(view: PoolView, probs: np.ndarray, truth: np.ndarray) -> None:
    """How many of the samples without a label the virtual labels are right about, where the truth is known."""
    known = view.unlabeled[truth[view.unlabeled] >= 0]
    if len(known):
        view.log("revival/virtual_label_accuracy", float((probs[known].argmax(axis=1) == truth[known]).mean()))
