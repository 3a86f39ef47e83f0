"""The formulas of ASSL's analyses (Lim, Na and Kwak, §3.3 and §3.5): what Figs. 3 and 4 and Table 1 are made of.

Eq. 2 itself is `functional.temporal_instability`. Dimension letters: N pool, U samples, B batch, T observations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from usb_active.plugins.assl.functional import index_array, occurrences

from usb_active.numerics.arrays import named


class VisitInstability:
    """How often the predicted class of a sample changed from one of its visits in training to the next.

    The like of Eq. 2 over visits: every sample has observations of its own, as many as it was drawn, on augmented views.
    The state lies on `device`: 12 bytes per sample.

    Attributes:
        changes: (N,) int32, how often the class changed.
        visits: (N,) int32, how often it was seen.
        last: (N,) int32, the class seen last, -1 before any visit.
    """

    def __init__(self, num_samples: int, device: torch.device | str = "cpu"):
        if num_samples < 1:
            raise ValueError(f"num_samples: {num_samples}, expected at least 1")
        self.changes = torch.zeros(num_samples, dtype=torch.int32, device=device)
        self.visits = torch.zeros_like(self.changes)
        self.last = torch.full_like(self.changes, -1)

    def update(self, idx: ArrayLike | torch.Tensor, labels: torch.Tensor) -> None:
        """Take in the predicted class of each of these samples; of one that stands there more than once, in order.

        Args:
            idx: (B,) integers, best on the CPU.
            labels: (B,) classes, on any device.

        Raises:
            ValueError: shapes that differ, indices out of range (names them).
        """
        rows = index_array(idx)
        if rows.shape != tuple(labels.shape):
            raise ValueError(f"labels: expected one for each of the {len(rows)} indices, got {tuple(labels.shape)}")
        bad = rows[(rows < 0) | (rows >= len(self.last))]
        if len(bad):
            raise ValueError(f"idx: {named('index', bad)} out of range; valid: 0 to {len(self.last) - 1}")
        labels = labels.to(self.last)
        for part in occurrences(rows) if len(rows) else ():
            at = torch.from_numpy(rows[part]).to(self.last.device)
            now, before = labels[torch.from_numpy(part).to(labels.device)], self.last[at]
            self.changes[at] += ((before >= 0) & (before != now)).to(self.changes)
            self.last[at] = now
            self.visits[at] += 1

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors themselves, as of a torch module."""
        return {"changes": self.changes, "visits": self.visits, "last": self.last}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take copies of a `state_dict`, onto this device. ValueError: another number of samples."""
        for name, own in self.state_dict().items():
            if state[name].shape != own.shape:
                raise ValueError(f"state: expected {len(own)} samples, got {len(state[name])}")
            own.copy_(state[name])


def rank_correlation(before: ArrayLike, after: ArrayLike) -> float | None:
    """Spearman's rank correlation of two observations of the same samples (Fig. 3b); ties have the mean of their ranks.

    Args:
        before: (U,).
        after: (U,).

    Returns:
        A number in [-1, 1], or None where it is not defined, with fewer than two samples, or where one of the two has the same value
            everywhere.

    Raises:
        ValueError: shapes that differ, or values that are not finite (names the rows).
    """
    before, after = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if before.shape != after.shape or before.ndim != 1:
        raise ValueError(f"before and after: expected one length, got {before.shape} and {after.shape}")
    bad = np.flatnonzero(~np.isfinite(before + after))
    if len(bad):
        raise ValueError(f"before and after: not finite in {named('row', bad)}")
    if len(before) < 2 or np.ptp(before) == 0 or np.ptp(after) == 0:
        return None
    from scipy.stats import spearmanr

    # Rounding may leave the interval.
    return float(np.clip(spearmanr(before, after).statistic, -1, 1))


@dataclass(frozen=True)
class Bins:
    """Values of samples by an integer, in bins of equal width (Fig. 4). G bins, empty ones left out.

    Attributes:
        first: (G,) int64, the least integer in a bin.
        last: (G,) int64, the largest one.
        count: (G,) int64, the samples in it.
        mean: (G,) float64.
        std: (G,) float64, the sample standard deviation (NaN for a single sample).
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]


def bin_width(largest: int, most: int = 30) -> int:
    """How wide bins of the integers 0 to `largest` must be for at most `most` of them: 1, as in Fig. 4, where that will do."""
    return largest // most + 1


def binned(keys: ArrayLike, values: ArrayLike, width: int = 1) -> Bins:
    """Count, mean and standard deviation of `values` (U,) by the integers `keys` (U,), not negative, in bins of `width` integers.

    Raises:
        ValueError: shapes that differ, keys that are negative or no integers, values that are not finite (names the rows), a width below 1.
    """
    keys, values = np.asarray(keys), np.asarray(values, dtype=np.float64)
    if keys.shape != values.shape or keys.ndim != 1 or (len(keys) and not np.issubdtype(keys.dtype, np.integer)):
        raise ValueError(f"keys: expected one integer for each of {values.shape} values, got {keys.dtype} of shape {keys.shape}")
    for what, bad in (("keys: negative", keys < 0), ("values: not finite", ~np.isfinite(values))):
        if bad.any():
            raise ValueError(f"{what} in {named('row', np.flatnonzero(bad))}")
    if width < 1:
        raise ValueError(f"width: {width}, expected at least 1")
    bins, place, count = np.unique(keys.astype(np.int64) // width, return_inverse=True, return_counts=True)
    mean = np.bincount(place, values, len(bins)) / np.maximum(count, 1)
    squares = np.bincount(place, (values - mean[place]) ** 2, len(bins))
    std = np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)
    return Bins(bins * width, bins * width + width - 1, count, mean, std)


def top_share(scores: ArrayLike, shares: ArrayLike, percents: Sequence[float] = (1, 5, 10)) -> list[float]:
    """The mean of `shares` (U,) over the samples with the top 1, 5 and 10 % of `scores` (U,), as in Table 1.

    `shares` is, for each sample, in which part of the observations it was pseudo-labelled (max p above the threshold). The top p % are
    U · p / 100 samples, rounded up. Samples tied at the border share the places that are left: the result depends on no order.

    Raises:
        ValueError: shapes that differ or no sample, scores or shares that are not finite (names the rows), a percentage outside (0, 100].
    """
    scores, shares = np.asarray(scores, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    if scores.shape != shares.shape or scores.ndim != 1 or not len(scores):
        raise ValueError(f"scores and shares: expected one length, at least 1, got {scores.shape} and {shares.shape}")
    bad = np.flatnonzero(~np.isfinite(scores + shares))
    if len(bad):
        raise ValueError(f"scores and shares: not finite in {named('row', bad)}")
    ordered = np.sort(scores)[::-1]
    means = []
    for percent in percents:
        if not 0 < percent <= 100:
            raise ValueError(f"percents: {percent}, expected above 0 and at most 100")
        # Rounded first: 0.07 · 100 is a little above 7.
        number = int(np.ceil(np.round(len(scores) * percent / 100, 9)))
        border = ordered[number - 1]
        above, level = scores > border, scores == border
        total = shares[above].sum() + (number - above.sum()) * shares[level].mean()
        means.append(float(total / number))
    return means
