"""The keys of the label propagator, which the acquisition and the prior share, and the fit by them."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
from pydantic import Field
from usb_active.plugins.revival.functional import GcnSettings, Propagator, fit_propagator

from usb_active import PluginConfig, PoolView
from usb_active.errors import name_some

logger = logging.getLogger("usb_active")


class PropagatorKeys(PluginConfig):
    """What the paper leaves open of its label propagator is ours: `weights`, `unit_features`, and the network's keys, see `GcnSettings`."""

    k: int = Field(20, ge=1)
    weights: Literal["similarity", "binary", "distance"] = "similarity"
    unit_features: bool = True
    hidden: int = Field(128, ge=1)
    lr: float = Field(0.01, gt=0, le=1e30, allow_inf_nan=False)
    epochs: int = Field(200, ge=1)
    weight_decay: float = Field(5e-4, ge=0, allow_inf_nan=False)
    backend: Literal["torch", "dgl", "torch_geometric"] = "torch"


def fitted(view: PoolView, features: np.ndarray, keys: PropagatorKeys, who: str) -> Propagator:
    """A propagator on features (M, D), trained on the labels that the view has of these samples.

    With fewer than k the graph is complete, which is said.

    Args:
        view: the pool.
        features: of its first M samples; those that joined since are no nodes.
        keys: how.
        who: how a warning begins, such as "prior 'revival'".
    """
    chosen = keys.model_dump(include=set(GcnSettings.__dataclass_fields__))
    settings = GcnSettings(**chosen, device=view.device)
    k, there = min(keys.k, len(features)), view.labeled < len(features)
    if k < keys.k:
        logger.warning("%s: k: %d, but there are only %d samples: the graph joins all of them", who, keys.k, k)
    labeled, labels = view.labeled[there], view.labels[there]
    return fit_propagator(features, labeled, labels, view.num_classes, k=k, settings=settings, rng=view.rng)


def say_unseen_classes(view: PoolView, who: str, size: int) -> None:
    """A warning that names the classes that no label of the first `size` samples has: columns are kept, and hardly any sample gets them."""
    unseen = np.setdiff1d(np.arange(view.num_classes), view.labels[view.labeled < size])
    if len(unseen) and len(view.labeled):
        names = name_some([view.task.class_names[c] for c in unseen])
        logger.warning("%s: cycle %d: no label yet of %s: virtual labels hardly ever say so", who, view.cycle, names)


def log_accuracy(view: PoolView, prefix: str, probs: np.ndarray) -> None:
    """Log how many samples without a label virtual labels are right about, as `prefix`/virtual_label_accuracy, where the truth is known.

    Args:
        view: the pool.
        prefix: of the log's key: acquisition and prior log into the same cycle.
        probs: (M, C) of the pool's first M samples; those that joined since do not count.
    """

    def log(truth: np.ndarray) -> None:
        covered = view.unlabeled[view.unlabeled < len(probs)]
        known = covered[truth[covered] >= 0]
        if len(known):
            view.log(f"{prefix}/virtual_label_accuracy", float((probs[known].argmax(axis=1) == truth[known]).mean()))

    view.audit(log)
