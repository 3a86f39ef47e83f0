"""The contract of labels that exist before a run begins. What chooses instead is an acquisition; both stand under `active.initial`.

Dimension letters: P labels that are brought, S samples that are refused, N pool, C classes (0 where the data set's task has none).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from usb_active.contracts.acquisition import check_pseudo_labels, label_arrays
from usb_active.contracts.plugin import Plugin, optional
from usb_active.errors import UsageError, name_some

if TYPE_CHECKING:
    from usb_active.pool.view import PoolView


class InitialLabels(Plugin):
    """Brings labels that exist already; the first training is on these, without a query. Override `known_labels`.

    A run journals them as its query 0, once. Until then `check` and every start of a run ask for them too, to say what is wrong before
    anything runs: what is brought must not depend on when, or how often, it is asked for.
    """

    kind: ClassVar[str] = "initial_labels"

    @property
    def needs(self) -> frozenset[str]:
        """What the view must hold: a subset of {"features", "truth"}; the features of a source that needs no task model."""
        return frozenset()

    def known_labels(self, view: PoolView) -> tuple[Any, Any]:
        """idx (P,) distinct dataset indices and labels (P,) as the data set's task numbers them, both integers; at least one.

        `view.dataset` has the keys (N), the class names (C) and the `task`, whose `encode` gives the number of a label's text (a class's
        number is its index). Nothing is labelled yet, and there is no model.

        Raises:
            UsageError: there are none, or what they are read from is wrong; names the file and the line.
        """
        raise NotImplementedError(f"{type(self).__name__}.known_labels")

    @optional
    def known_skips(self, view: PoolView) -> Any:
        """idx (S,) distinct dataset indices of samples that were refused before, and are never to be asked for; by default none.

        Asked for after `known_labels`, with the same view, and journalled together with what that brings.
        """
        return ()

    @optional
    def known_audit(self, view: PoolView) -> Any:
        """idx (A,) those of the samples above that were drawn at random to measure a model by; by default none.

        Asked for after `known_skips`, with the same view. A run with an `active.audit` of this size measures by them too, and trains on
        none of them, and is refused where one of them has neither label nor refusal; one without it trains on their labels.
        """
        return ()


def check_initial_labels(returned: Any, num_samples: int, num_labels: int, who: str) -> dict[str, np.ndarray]:
    """What `known_labels` returned as `idx` (P,) and `labels` (P,) int64.

    Raises:
        UsageError: no pair, no label at all, not integers, other shapes, a sample twice, or samples or labels that do not exist.
    """
    checked = check_pseudo_labels(*label_arrays(returned, who), num_samples, num_labels, who)
    if len(checked["idx"]) == 0:
        raise UsageError(f"{who}: brings no label; a training needs at least one")
    return checked


def check_initial_skips(returned: Any, labeled: np.ndarray, num_samples: int, who: str) -> np.ndarray:
    """What `known_skips` returned as `idx` (S,) int64.

    Args:
        returned: by the plugin.
        labeled: (P,) the samples that it brings labels of.
        num_samples: of the pool.
        who: for messages.

    Raises:
        UsageError: not integers, another shape, a sample twice or that does not exist, or one that is labelled as well.
    """
    idx = np.asarray(returned) if isinstance(returned, (np.ndarray, list, tuple)) else None
    if idx is None or idx.ndim != 1:
        got = type(returned).__name__ if idx is None else f"shape {idx.shape}"
        raise UsageError(f"{who}: must return the skipped samples as idx (S,), got {got}")
    if idx.size == 0:
        return np.empty(0, dtype=np.int64)
    skipped = check_pseudo_labels(idx, np.zeros(idx.shape, dtype=np.int64), num_samples, 1, who)["idx"]
    both = np.intersect1d(skipped, labeled)
    if len(both):
        raise UsageError(f"{who}: both labelled and skipped: {name_some(both)}")
    return skipped


def check_initial_audit(returned: Any, known: np.ndarray, who: str) -> np.ndarray:
    """What `known_audit` returned as `idx` (A,) int64.

    Args:
        returned: by the plugin.
        known: (P + S,) the samples that it brings labels or refusals of.
        who: for messages.

    Raises:
        UsageError: not integers, another shape, a sample twice, or some of which nothing is brought: of the others alone, which people
            found the easiest to answer, it would be no audit.
    """
    idx = np.asarray(returned) if isinstance(returned, (np.ndarray, list, tuple)) else None
    if idx is None or idx.ndim != 1 or (idx.size and not np.issubdtype(idx.dtype, np.integer)):
        got = type(returned).__name__ if idx is None else f"{idx.dtype} of shape {idx.shape}"
        raise UsageError(f"{who}: must return the samples of an audit as integers idx (A,), got {got}")
    idx = idx.astype(np.int64)
    foreign = np.setdiff1d(idx, known)
    if len(foreign):
        what = f"{len(foreign)} of {len(idx)} samples of the audit have neither a label nor a refusal: {name_some(foreign)}"
        raise UsageError(f"{who}: {what}; answer or skip them where they come from, or leave them out as an audit: audit: 0")
    if len(np.unique(idx)) != len(idx):
        raise UsageError(f"{who}: a sample twice")
    return idx
