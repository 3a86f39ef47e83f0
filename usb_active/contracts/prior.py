"""The contract of a prior: what is believed of a sample's class before the model in training says anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from usb_active.contracts.observer import Contributor
from usb_active.errors import UsageError, name_some

if TYPE_CHECKING:
    from usb_active.pool.view import PoolView

When = Literal["start", "step", "end"]


class PriorTable:
    """Class probabilities for every sample of the pool: (N, C) float32, rows sum to one, or are zero = no prior.

    Raises:
        UsageError: not (N, C), non-finite or negative values, rows that sum to neither one nor zero; names the samples.
    """

    def __init__(self, probs: np.ndarray):
        if probs.ndim != 2:
            raise UsageError(f"a prior table must be (N, C), got shape {probs.shape}")
        self.probs = probs if probs.dtype == np.float32 else probs.astype(np.float32)
        self._check()

    def _check(self) -> None:
        block = max(1, 2**22 // max(1, self.probs.shape[1]))
        for start in range(0, len(self.probs), block):
            rows = self.probs[start : start + block]
            total = rows.sum(axis=1, dtype=np.float64)
            valid = np.isfinite(rows).all(axis=1) & (rows >= 0).all(axis=1)
            valid &= (np.abs(total - 1) < 1e-3) | (total == 0)
            if not valid.all():
                bad = start + np.flatnonzero(~valid)
                raise UsageError(f"prior: rows must be non-negative and sum to one, or be zero; samples {name_some(bad)} do not")

    def __len__(self) -> int:
        return len(self.probs)

    def rows(self, idx: np.ndarray) -> np.ndarray:
        """(B, C) of the dataset indices `idx` (B,)."""
        return self.probs[idx]


class Prior(Contributor):
    """Makes the table; the core feeds it into the trainer's pseudo-labels (AS3L, Eq. 5: normalize(prior + p)).

    It may watch the training too: see usb_active/contracts/observer.py.
    """

    kind: ClassVar[str] = "prior"
    # Whether `fit(view, "start")` looks at features. Before a training there is no model to take them from: such a source is refused.
    features_at_start: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[str]:
        """As for an acquisition: a subset of {"features", "probs", "truth"}; and "previous_features", see `PoolView`."""
        return frozenset()

    def fit(self, view: PoolView, when: When) -> PriorTable | None:
        """The table, or None to keep the one there is.

        Args:
            view: the pool.
            when: "start" before a cycle's training, "step" every `update_every` iterations after `until_iter` (under
                `then: update`), "end" after the training, with the model just trained, for the next cycle.
        """
        raise NotImplementedError(f"{type(self).__name__}.fit")
