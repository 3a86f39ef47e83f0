"""The formulas of ASSL (Lim, Na and Kwak, "Active Semi-Supervised Learning by Exploring Per-Sample Uncertainty and Consistency").

Dimension letters: N pool, B batch, C classes, T times. Equation numbers are the paper's. `pseudo_el2n`, `symmetric_kl` and
`EmaUcb` run at every training step: they take torch tensors of any device and never make the host wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from usb_active.numerics.arrays import SUM_TOLERANCE, blocks, named

Array = TypeVar("Array", NDArray, torch.Tensor)

# The smallest probability whose logarithm is taken: the smallest normal number of single precision. Nothing that a softmax
# in that precision can represent well is changed by it, and two different one-hot rows are -log(TINY) = 87.3 nats apart.
TINY = float(torch.finfo(torch.float32).tiny)
_LOG_TINY = float(np.log(TINY))


# ------------------------------------------------------------------------------------------ what one look at a sample says
def pseudo_el2n(probs: Array, idx: ArrayLike | None = None) -> Array:
    """Distance of a prediction to its own one-hot label, ||p - onehot(argmax p)||_2 (Eq. 1): high = uncertain.

    Args:
        probs: (B, C), rows summing to one; an array (a memory map too: read in blocks) or a tensor.
        idx: (B,) the samples that the rows belong to, for errors; by default errors name rows.

    Returns:
        (B,) in [0, sqrt((C-1)/C)], of the kind given: an array in double precision, or a tensor in single.

    Raises:
        ValueError: rows that are no distribution. A tensor on another device is not waited for: its bad rows become NaN,
            which `EmaUcb` reports with the samples' names.
    """
    return _by_rows(_pseudo_el2n, (("probs", probs),), idx)


def symmetric_kl(probs_weak: Array, probs_strong: Array, idx: ArrayLike | None = None) -> Array:
    """Mean of KL(weak, strong) and KL(strong, weak) in nats (Eq. 4): high = inconsistent.

    Logarithms are of max(p, TINY), so that one-hot rows stay finite. Shapes, kinds and errors as in `pseudo_el2n`.

    Returns:
        (B,), not negative, at most -log(TINY) = 87.3.
    """
    _check_same_shape("probs_weak", probs_weak, "probs_strong", probs_strong)
    return _by_rows(_symmetric_kl, (("probs_weak", probs_weak), ("probs_strong", probs_strong)), idx)


def symmetric_kl_from_logits(probs_weak: torch.Tensor, logits_strong: torch.Tensor, idx: ArrayLike | None = None) -> torch.Tensor:
    """`symmetric_kl(probs_weak, softmax(logits_strong))` of tensors, with the logarithm from a log-softmax.

    Raises:
        ValueError: as `symmetric_kl`; also for logits that have no softmax.
    """
    _check_same_shape("probs_weak", probs_weak, "logits_strong", logits_strong)
    _check_matrix("probs_weak", probs_weak.shape)
    weak, log_strong = probs_weak.float(), torch.log_softmax(logits_strong.float(), dim=1)
    score = _half_jeffreys(weak, log_strong.exp(), log_strong.clamp_min(_LOG_TINY))
    score = _refuse_others(score, "probs_weak", weak, idx)
    # By now only the logits can be at fault: NaN, +inf, or nothing but -inf. A single -inf is a probability of zero.
    return _refuse(score, torch.isfinite(score), lambda row: "logits_strong: not finite", idx)


def _pseudo_el2n(probs: torch.Tensor) -> torch.Tensor:
    top, label = probs.max(dim=1, keepdim=True)
    # At the label p - 1 up to its sign, elsewhere p.
    return torch.linalg.vector_norm(probs.scatter(1, label, 1.0 - top), dim=1)


def _symmetric_kl(weak: torch.Tensor, strong: torch.Tensor) -> torch.Tensor:
    return _half_jeffreys(weak, strong, strong.clamp_min(TINY).log())


def _half_jeffreys(weak: torch.Tensor, strong: torch.Tensor, log_strong: torch.Tensor) -> torch.Tensor:
    # KL(p, q) + KL(q, p) = sum (p - q)(log p - log q), where no term is negative.
    return 0.5 * ((weak - strong) * (weak.clamp_min(TINY).log() - log_strong)).sum(dim=1)


# ------------------------------------------------------------------------------------------ what the whole training says
class EmaUcb:
    """Running mean and variance of a score for every sample, and the upper confidence bound they give (Eq. 3).

    At a visit with value x: mean ← αx + (1-α)·mean, then variance ← α(x - mean)² + (1-α)·variance with the mean just
    updated, as the paper prints it. (The textbook's increment, from the means before and after, is 1/(1-α) times as large.)
    Both begin at 0 and are not corrected for that: after the first visit they are αx and α(1-α)²x².

    The state lies on `device`, in single precision: 12 bytes per sample.

    Attributes:
        mean: (N,) float32.
        variance: (N,) float32.
        visits: (N,) int32, how often each sample was seen.

    Raises:
        ValueError: `num_samples` below 1, or `alpha` outside (0, 1].
    """

    def __init__(self, num_samples: int, alpha: float, device: torch.device | str = "cpu"):
        if num_samples < 1:
            raise ValueError(f"num_samples: {num_samples}, expected at least 1")
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha: {alpha}, expected a weight of the new value above 0 and at most 1")
        self.alpha = float(alpha)
        self.mean = torch.zeros(num_samples, device=device)
        self.variance = torch.zeros(num_samples, device=device)
        self.visits = torch.zeros(num_samples, dtype=torch.int32, device=device)

    def __len__(self) -> int:
        return len(self.mean)

    def update(self, idx: ArrayLike | torch.Tensor, values: ArrayLike | torch.Tensor) -> None:
        """Take in one value of each of these samples; of a sample that stands there more than once, in order.

        The time grows with the largest number of times that one sample stands in `idx`.

        Args:
            idx: (B,) integers, best on the CPU, where the training's are: an `idx` on another device is waited for.
            values: (B,) scores; on another device not looked at, so that one that is not finite is found by `ucb`.

        Raises:
            ValueError: shapes that differ, indices out of range (names them), and values that are not finite (names the
                samples). Nothing has been taken in then.
        """
        rows = index_array(idx)
        values = torch.as_tensor(values).detach().to(self.mean)
        if rows.shape != tuple(values.shape):
            raise ValueError(f"values: expected one for each of the {len(rows)} indices, shape {rows.shape}, got {tuple(values.shape)}")
        if not len(rows):
            return
        ordered = np.sort(rows)
        if ordered[0] < 0 or ordered[-1] >= len(self):
            bad = rows[(rows < 0) | (rows >= len(self))]
            raise ValueError(f"idx: {named('index', bad)} out of range; valid: 0 to {len(self) - 1}")
        self._check_values(rows, values)
        if (ordered[1:] != ordered[:-1]).all():
            self._visit(torch.from_numpy(rows).to(self.mean.device), values)
            return
        for part in occurrences(rows):
            self._visit(torch.from_numpy(rows[part]).to(self.mean.device), values[torch.from_numpy(part).to(values.device)])

    def _visit(self, rows: torch.Tensor, values: torch.Tensor) -> None:
        """One visit of distinct samples."""
        mean = self.mean[rows].lerp_(values, self.alpha)
        squared = (values - mean).square_()
        self.mean[rows] = mean
        self.variance[rows] = self.variance[rows].lerp_(squared, self.alpha)
        self.visits[rows] += 1

    def _check_values(self, rows: NDArray[np.int64], values: torch.Tensor) -> None:
        if values.device.type == "cpu" and not bool(torch.isfinite(values).all()):
            raise ValueError(f"values: not finite for {named('sample', rows[~torch.isfinite(values).numpy()])}")

    def ucb(self, c: float) -> torch.Tensor:
        """Mean + c · standard deviation, (N,) float32 on the state's device; 0 for what was never visited.

        Raises:
            ValueError: `c` negative or not finite; a value that was not finite (names the samples: it stays in the state).
        """
        if not 0 <= c < float("inf"):
            raise ValueError(f"c: {c}, expected a finite number not below 0")
        bad = ~(torch.isfinite(self.mean) & torch.isfinite(self.variance))
        if bool(bad.any()):
            raise ValueError(f"values: not finite for {named('sample', torch.nonzero(bad)[:, 0].tolist())}")
        return self.mean + c * self.variance.sqrt()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Mean, variance and visits: the tensors themselves, as of a torch module."""
        return {"mean": self.mean, "variance": self.variance, "visits": self.visits}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take copies of a `state_dict`, onto this device.

        Raises:
            ValueError: another number of samples.
        """
        sizes = {name: tuple(state[name].shape) for name in self.state_dict()}
        if set(sizes.values()) != {(len(self),)}:
            raise ValueError(f"state: expected {len(self)} samples, got {sizes}")
        for name, own in self.state_dict().items():
            own.copy_(state[name])


def acquisition_score(u_ucb: Array, i_ucb: Array) -> Array:
    """Score = uncertainty × inconsistency, each an upper confidence bound (Eq. 6). (N,) and (N,) to (N,).

    Raises:
        ValueError: shapes that differ; values that are not finite (names the samples).
    """
    _check_same_shape("u_ucb", u_ucb, "i_ucb", i_ucb)
    score = u_ucb * i_ucb
    # A product of finite numbers that overflows has no place in a ranking either.
    finite = torch.isfinite(torch.as_tensor(score))
    if not bool(finite.all()):
        raise ValueError(f"score: not finite for {named('sample', torch.nonzero(~finite)[:, 0].tolist())}")
    return score


def temporal_instability(labels_over_time: ArrayLike) -> NDArray[np.int64]:
    """How often the predicted label differs from the one observed before (Eq. 2).

    Args:
        labels_over_time: (T + 1, N) integers, the argmax predictions of all samples at each observation, in order; a memory map is read
            a row at a time.

    Returns:
        (N,) in [0, T].

    Raises:
        ValueError: another shape, no observation at all, or no integers.
    """
    labels = np.asarray(labels_over_time)
    if labels.ndim != 2 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels_over_time: expected integers of shape (times, N), got {labels.dtype} of shape {labels.shape}")
    changes = np.zeros(labels.shape[1], dtype=np.int64)
    for before, after in zip(labels, labels[1:], strict=False):
        changes += after != before
    return changes


# ------------------------------------------------------------------------------------------ rows, checks, repetitions
def _by_rows(
    score: Callable[..., torch.Tensor], inputs: tuple[tuple[str, ArrayLike | torch.Tensor], ...], idx: ArrayLike | None
) -> NDArray | torch.Tensor:
    """Score checked rows: tensors at once, arrays in double precision by blocks."""
    first = inputs[0][1]
    if isinstance(first, torch.Tensor):
        return _checked_score(score, [(name, torch.as_tensor(values, device=first.device).float()) for name, values in inputs], idx)
    arrays = [(name, np.asarray(values)) for name, values in inputs]
    for name, values in arrays:
        _check_matrix(name, values.shape)
    rows = np.arange(len(arrays[0][1]))
    out, names = np.empty(len(rows)), rows if idx is None else np.asarray(idx)
    for at in blocks(rows, arrays[0][1].shape[1]):
        part = slice(at[0], at[-1] + 1)
        block = [(name, torch.from_numpy(values[part].astype(np.float64))) for name, values in arrays]
        out[part] = _checked_score(score, block, names[part], "row" if idx is None else "sample")
    return out


def _checked_score(
    score: Callable[..., torch.Tensor], inputs: list[tuple[str, torch.Tensor]], idx: ArrayLike | None, noun: str = "sample"
) -> torch.Tensor:
    for name, values in inputs:
        _check_matrix(name, values.shape)
    scores = score(*(values for _, values in inputs))
    for name, values in inputs:
        scores = _refuse_others(scores, name, values, idx, noun)
    return scores


def _refuse_others(scores: torch.Tensor, name: str, probs: torch.Tensor, idx: ArrayLike | None, noun: str = "sample") -> torch.Tensor:
    """The scores (B,), if all rows of (B, C) are distributions."""
    sums, lows = probs.sum(dim=1), probs.amin(dim=1)
    # Written so that a NaN counts as bad.
    good = ((sums - 1).abs() <= SUM_TOLERANCE) & (lows >= 0)

    def reason(row: int) -> str:
        return f"rows must be finite, not negative and sum to 1, got sum {float(sums[row]):.6g} and minimum {float(lows[row]):.6g} first"

    return _refuse(scores, good, lambda row: f"{name}: {reason(row)}", idx, noun)


def _refuse(
    scores: torch.Tensor, good: torch.Tensor, message: Callable[[int], str], idx: ArrayLike | torch.Tensor | None, noun: str = "sample"
) -> torch.Tensor:
    """The scores, if all rows are good. On the CPU a bad one is an error; elsewhere, where asking would wait, its score is NaN."""
    if good.device.type != "cpu":
        return scores.masked_fill(~good, float("nan"))
    if not bool(good.all()):
        rows = torch.nonzero(~good)[:, 0].numpy()
        what = named("row", rows) if idx is None else named(noun, np.asarray(idx)[rows])
        raise ValueError(f"{message(int(rows[0]))} in {what}")
    return scores


def _check_matrix(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"{name}: expected shape (B, C), got {tuple(shape)}")


def _check_same_shape(name: str, values: ArrayLike | torch.Tensor, other: str, others: ArrayLike | torch.Tensor) -> None:
    if np.shape(values) != np.shape(others):
        raise ValueError(f"{name} and {other}: expected one shape, got {tuple(np.shape(values))} and {tuple(np.shape(others))}")


def index_array(idx: ArrayLike | torch.Tensor) -> NDArray[np.int64]:
    """`idx` as (B,) int64 on the CPU. ValueError when they are no integers."""
    rows = idx.detach().cpu().numpy() if isinstance(idx, torch.Tensor) else np.asarray(idx)
    if rows.ndim != 1 or (len(rows) and not np.issubdtype(rows.dtype, np.integer)):
        raise ValueError(f"idx: expected a list of integer indices, got {rows.dtype} of shape {rows.shape}")
    return rows.astype(np.int64, copy=False)


def occurrences(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Positions of `rows` in parts without repetition: first all first occurrences, then all second ones, and so on."""
    order = np.argsort(rows, kind="stable")
    ordered, positions = rows[order], np.arange(len(rows))
    starts = np.where(np.r_[True, ordered[1:] != ordered[:-1]], positions, 0)
    rank = positions - np.maximum.accumulate(starts)
    return [order[rank == occurrence] for occurrence in range(rank.max() + 1)]
