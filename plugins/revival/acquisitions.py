"""REVIVAL as an acquisition, with the ablations of its Table 1. The arithmetic is in `functional`."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator
from usb_active.plugins.revival import functional
from usb_active.plugins.revival.backends import check_backend
from usb_active.plugins.revival.keys import PropagatorKeys, fitted, log_accuracy, say_unseen_classes

from usb_active import Acquisition, PoolView, task_head
from usb_active.errors import UsageError, errors_named
from usb_active.numerics.arrays import entropy

# What belongs to the graph and its network alone.
_OF_THE_GRAPH = ("k", "weights", "hidden", "lr", "epochs", "weight_decay", "backend")


class Revival(Acquisition):
    """Of the samples whose virtual labels an adversarial push of the features moves most, those of largest entropy (Guo et al. 2021).

    Virtual labels are made anew in every cycle, by a graph network that is trained on the labelled nodes of the neighbour graph of the
    features; all samples are nodes, also those that cannot be queried. It needs labels, so it cannot be `initial`.

    Table 1: `preselect: {budgets: 1}` is LP+VAG, `preselect: all` LP+BL, and `labels: head` VAG+BL: the task model's own predictions and
    head take the place of the graph's (`features: model`; the keys of graph and graph network are refused then, unless they are as by
    default: they would do nothing. `unit_features` is none of them).

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
        preselect: dict[str, float] | Literal["auto", "all"] = "auto"
        diversity: bool = False

        @field_validator("preselect", mode="before")
        @classmethod
        def _spelled_clearly(cls, value: Any) -> Any:
            if problem := functional.preselect_problem(value):
                raise ValueError(problem)
            return value

        @model_validator(mode="after")
        def _no_key_without_effect(self) -> Revival.Config:
            if self.labels == "head":
                # By value, not by what was given: a run directory has all keys.
                fields = PropagatorKeys.model_fields
                idle = [name for name in _OF_THE_GRAPH if getattr(self, name) != fields[name].default]
                if idle:
                    raise ValueError(f"{', '.join(idle)}: no effect with `labels: head`, which has no graph")
            return self

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"features", "labels", *(("probs", "head") if self.config.labels == "head" else ())})

    def check(self, num_samples: int, num_classes: int, *, budget: int | None = None) -> None:
        check_backend(self.config.backend)
        if budget is not None:
            try:
                functional.num_preselected(self.config.preselect, budget, num_samples, num_samples)
            except ValueError as error:
                raise UsageError(str(error)) from error

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        config = self.config
        with errors_named(f"acquisition '{self.name}'"):
            count = functional.num_preselected(config.preselect, budget, len(view), len(view.candidates))
            adversary = functional.Adversary(config.epsilon, config.power_iterations, config.score)
            # Where all pass, nobody asks how far they moved.
            adversary = adversary if count < len(view.candidates) else None
            probs, moved = (self._of_head if config.labels == "head" else self._of_graph)(view, adversary)
            picks = functional.limit(probs, moved, view.features, budget, view.candidates, count, diversity=config.diversity, rng=view.rng)
        self._log(view, probs, picks, count)
        if adversary is not None:
            view.log("revival/mean_divergence", moved.mean())
        return picks

    def _of_graph(self, view: PoolView, adversary: functional.Adversary | None) -> tuple[np.ndarray, np.ndarray]:
        """Virtual labels (N, C), and how far each candidate moves: zero where nothing is pushed."""
        who = f"acquisition '{self.name}'"
        say_unseen_classes(view, who, len(view))
        propagator = fitted(view, view.features, self.config, who)
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

    def _log(self, view: PoolView, probs: np.ndarray, picks: np.ndarray, count: int) -> None:
        view.log("revival/preselected", count)
        view.log("revival/entropy_of_picks", entropy(probs[picks]).mean())
        if self.config.labels == "graph":
            log_accuracy(view, "revival", probs)
