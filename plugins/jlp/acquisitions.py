"""The acquisitions of "Rethinking deep active learning" that no other folder has: jLP, and CEAL."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field
from usb_active.plugins.jlp.functional import joint_label_propagation

from usb_active import Acquisition, PluginConfig, PoolView, UsageError
from usb_active.errors import errors_named
from usb_active.numerics.arrays import entropy, named
from usb_active.numerics.neighbors import affinity
from usb_active.numerics.ranking import top_k


class JointLabelPropagation(Acquisition):
    """The samples least similar on the manifold to what is labelled or picked already, one after the other (Eq. 11–12).

    The graph has all samples as nodes, also those that cannot be queried; with fewer than k + 1 of them it is complete.
    Samples that no label reaches come first, spread over the graph's components. Ties are drawn.
    """

    needs = frozenset({"features"})

    class Config(PluginConfig):
        k: int = Field(50, ge=1)
        gamma: float = Field(3.0, gt=0, allow_inf_nan=False)
        graph: Literal["mutual", "union", "sum"] = "mutual"
        alpha: float = Field(0.99, ge=0, lt=1)

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        config = self.config
        # Here, because below the rows are no longer those of the pool.
        zero = np.flatnonzero(~view.features.any(axis=1))
        if len(zero):
            raise UsageError(f"acquisition '{self.name}': features: all zero, so without a direction, for {named('sample', zero)}")
        # Which of several exact copies is a neighbour is a matter of their order, which must not be the pool's.
        order = view.rng.permutation(len(view))
        position = np.argsort(order)
        with errors_named(f"acquisition '{self.name}'"):
            weights = affinity(view.features[order], min(config.k, len(view) - 1), config.gamma, config.graph)
            labeled, candidates = position[view.labeled], position[view.candidates]
            picks = joint_label_propagation(weights, labeled, budget, candidates=candidates, alpha=config.alpha, rng=view.rng)
        return order[picks]


class CEAL(Acquisition):
    """Largest entropy; and the model's own labels for what it is surest of join the next training (Wang et al. 2017; Eq. 7).

    Sure is an entropy, as a share of log C, below `threshold` - `decay` · (cycle - 1): the paper states no ε, these are its
    authors'. Once per cycle, by the model that asked. Pseudo-labels are no answers of an oracle: they cost nothing, stay out of
    labels.csv, and are made again in every cycle. (The paper never combines it with SEMI.)
    """

    needs = frozenset({"probs"})

    class Config(PluginConfig):
        threshold: float = Field(0.1, ge=0, le=1)
        decay: float = Field(0.00033, ge=0, allow_inf_nan=False)

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        return top_k(entropy(view.probs[view.candidates]), view.candidates, budget, view.rng)

    def pseudo_labels(self, view: PoolView) -> tuple[np.ndarray, np.ndarray]:
        """(P,) samples without a label that the model is sure of, and its labels (P,)."""
        probs = view.probs[view.unlabeled]
        share = entropy(probs) / np.log(view.num_classes)
        # The first acquisition is that of query 1.
        sure = share < self.config.threshold - self.config.decay * (view.cycle - 1)
        labels = probs.argmax(axis=1)[sure]
        view.log("pseudo_labels", int(sure.sum()))
        idx = view.unlabeled[sure]
        if len(idx):
            view.audit(lambda truth: self._log_accuracy(view, labels, truth[idx]))
        return idx, labels

    def _log_accuracy(self, view: PoolView, labels: np.ndarray, truth: np.ndarray) -> None:
        known = truth >= 0
        if known.any():
            view.log("pseudo_label_accuracy", float((labels == truth)[known].mean()))
