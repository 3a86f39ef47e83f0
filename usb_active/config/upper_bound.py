"""Algorithms that train on every label there is (USB's `fullysupervised`): one training, an upper bound for what is selected.

Only a simulated oracle knows all labels. Those that were not queried are trained on and never journaled.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.config.usb_keys import ALGORITHMS, ALL_LABELS
from usb_active.contracts.algorithm import declared
from usb_active.contracts.registry import REGISTRY
from usb_active.errors import UsageError

if TYPE_CHECKING:
    from usb_active.config.settings import RunConfig
    from usb_active.contracts.dataset import Dataset
    from usb_active.pool.pool import Pool


def wants_all_labels(algorithm: str) -> bool:
    """Whether an algorithm trains on all known labels: by USB's tables, or by a plugin's class attribute `all_labels`."""
    if algorithm in ALGORITHMS or algorithm not in REGISTRY.names("algorithm"):
        return algorithm in ALL_LABELS
    return bool(declared(REGISTRY.get("algorithm", algorithm), "all_labels"))


def check_upper_bound(config: RunConfig, dataset: Dataset, oracle: Any) -> None:
    """UsageError when an algorithm wants all labels and the run cannot give them."""
    name = config.usb["algorithm"]
    if not wants_all_labels(name):
        return
    if not oracle.simulated:
        reason = f"'{name}' trains on the labels of all samples, which the oracle '{oracle.name}' does not know"
        raise UsageError(f"{config.source}: algorithm: {reason}; oracle: dataset, or algorithm: supervised for the labels at hand")
    known = known_samples(dataset)
    if not config.usb["include_lb_to_ulb"] and len(known) == len(dataset):
        reason = f"false, and '{name}' trains on the labels of all samples: the unlabelled stream is empty"
        raise UsageError(f"{config.source}: include_lb_to_ulb: {reason}")


def known_samples(dataset: Dataset) -> np.ndarray:
    """(K,) dataset indices of the samples whose class the data set knows."""
    return np.flatnonzero(np.asarray(dataset.targets) >= 0)


def with_known_labels(pool: Pool, dataset: Dataset) -> Pool:
    """A copy of the pool with the data set's labels too, as of query 0, but for the audit's.

    A label of the journal wins, and a skipped sample has none.
    """
    known = known_samples(dataset)
    new = known[(pool.labels[known] < 0) & ~pool.skipped[known] & ~pool.audited[known]]
    full = deepcopy(pool)
    full.set_labels(new, np.asarray(dataset.targets)[new], 0)
    return full
