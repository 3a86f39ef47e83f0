"""BAIT: batches that lower the trace of the inverse Fisher information times the pool's (Ash et al. 2021).

J. T. Ash, S. Goel, A. Krishnamurthy, S. Kakade, "Gone Fishing: Neural Active Learning with Fisher Embeddings", NeurIPS 2021.

The Fisher information of the last layer's weights at a sample with features h and predictions p is I(x) = P ⊗ h h^T, P = diag(p) - p p^T.
With M the information so far, A = M^-1 and F the pool's mean, only (C, C) blocks per sample are needed:
B = (1 ⊗ h)^T A (1 ⊗ h) and Q = (1 ⊗ h)^T A F A (1 ⊗ h). By Woodbury's identity, adding I(x) lowers tr(A F) by
tr((1 + P B)^-1 P Q), removing it raises it by tr((1 - P B)^-1 P Q), and either changes A, A F A and every B and Q by products of
a few columns. No array of (N, C, D C), the factors of all I(x), is made. Such changes lose digits where little is left of a large B
or Q, so M itself is kept, and all is computed anew from its Cholesky factor before that matters.

Dimension letters: N pool, M candidates, L labelled, C classes, D feature dimension, B rows of a block.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import ArrayLike, NDArray
from usb_active.plugins.low_budget.inputs import above_zero, checked_rows, finite_pool

from usb_active.numerics.arrays import BLOCK, blocks, check_count

# D · C up to which it is exact without being told to: matrices of (D C, D C) are inverted.
EXACT_UP_TO = 1280
_TIE = 1e-9
_ROWS = 4096  # of a block
# Steps after which all is computed anew from M, and the change of a Q at which it is done at once (of 16 digits it leaves ten).
_STEPS, _DIGITS = 8, 1e6
# Least regularization relative to the largest squared length of the features: below, little of it is left beside them in M.
_LEAST = 1e-12
# Bytes from which on it is said how much memory is taken.
_MUCH = 8e9
logger = logging.getLogger("usb_active")
Array = NDArray[np.float64]


def bait(
    features: ArrayLike,
    probs: ArrayLike,
    labeled: ArrayLike,
    budget: int,
    rng: np.random.Generator,
    *,
    candidates: ArrayLike | None = None,
    regularization: float = 1.0,
    oversample: int = 2,
    projection: int | None = None,
) -> NDArray[np.int64]:
    """BAIT (Ash et al. 2021, Algorithm 1): greedily `oversample` times the budget, then the least useful are given back.

    M begins as regularization · 1 + the mean of I(x) over what is labelled; each forward step takes the candidate that lowers
    tr(M^-1 F) most, F the mean over the pool, and adds its I(x); each backward step removes that which raises it least.

    Exact, in double precision; values within 1e-9 of the best are equal, and equals follow `rng.permutation(candidates)`. Time is that of
    (1 + oversample) budget · M · C^2 (D + C), memory 2 M C^2 numbers and a few matrices of (D C, D C). As in the paper and unlike the
    authors' code, I(x) of a pick is not scaled by budget / (L + budget), nor that of the labelled by L / (L + budget).

    Args:
        features: (N, D), input of the last layer; finite.
        probs: (N, C), rows that are a distribution.
        labeled: (L,) idx; there may be none.
        budget: how many to pick, 1..M.
        rng: what draws the order of equals, and the projection.
        candidates: (M,) idx, by default all others.
        regularization: above 0; 1 as in the authors' code, which has 0.01 for CIFAR. At least 1e-12 of the largest squared length of the
            features.
        oversample: at least 1; 2 in the paper. With fewer candidates, all of them are taken first.
        projection: the features are multiplied by a random Gaussian matrix (D, projection) / sqrt(projection), where D is larger than
            that; where it is not, they are taken as they are. None: as they are, which is refused where D · C is more than 1280.

    Returns:
        idx (budget,) in the order of the forward steps.

    Raises:
        ValueError: features that are not finite and probs that are no distribution (names the rows), arrays of different lengths, idx
            that are out of range, repeated, or both labelled and candidate, numbers out of range, a regularization that double
            precision loses beside the features, and D · C above 1280 without a projection.
    """
    features, labeled, candidates = finite_pool(features, labeled, candidates, budget)
    probs = checked_rows(probs, len(features)).astype(np.float64)
    above_zero("regularization", regularization)
    check_count("oversample", oversample)
    order = rng.permutation(candidates)
    exponent = _exponent(features)
    rows = _projected(features, exponent, probs.shape[1], projection, rng)
    matrix = _mean_fisher(rows[labeled], probs[labeled]) + _scaled(regularization, rows, exponent) * np.eye(rows.shape[1] * probs.shape[1])
    fisher = _mean_fisher(rows, probs)
    _tell_memory(len(order), probs.shape[1])
    try:
        return order[_forward_and_back(rows[order], probs[order], matrix, fisher, budget, oversample)]
    except np.linalg.LinAlgError:
        raise _lost(regularization, rows, exponent, 1e-6) from None


def _tell_memory(count: int, classes: int) -> None:
    """One line before much is asked for: the matrices of every candidate."""
    size = 2 * count * classes**2 * 8
    if size > _MUCH:
        told = size / 1e9, count, classes
        logger.warning("bait: %.0f GB of memory for 2 matrices of each of %d candidates and %d classes; fewer candidates take less", *told)


def _forward_and_back(rows: Array, probs: Array, matrix: Array, fisher: Array, budget: int, oversample: int) -> NDArray[np.int64]:
    """Positions (budget,) of the picks among rows (M, D). LinAlgError: M is not positive definite in double precision."""
    information = _Information(rows, probs, matrix, fisher)
    picks: list[int] = []
    for _ in range(min(oversample * budget, len(rows))):
        values = information.values(1)
        values[picks] = -np.inf
        picks.append(_first(values))
        information.change(picks[-1], 1)
    kept = list(range(len(picks)))
    if len(kept) > budget:
        information = _Information(rows[picks], probs[picks], information.matrix, fisher, solved=True)
    while len(kept) > budget:
        least = _first(-information.values(-1)[kept])
        information.change(kept.pop(least), -1)
    return np.array(picks)[kept]


def _first(values: Array) -> int:
    """Position of the largest, the first of equals."""
    best = values.max()
    return int(np.argmax(values >= best - _TIE * abs(best)))


def _exponent(features: NDArray) -> int:
    """Of the power of two that features (N, D) are divided by, so that no product of theirs overflows; 0 where all are zero."""
    return int(np.frexp(max(float(features.max()), -float(features.min())))[1])


def _scaled(regularization: float, rows: Array, exponent: int) -> float:
    """The regularization in units of the scaled rows. ValueError where they are too large for it."""
    # Beyond 2^100 the order of the gains is that of the limit: no digit of theirs is different.
    with np.errstate(over="ignore"):
        scaled = min(float(np.ldexp(regularization, -2 * exponent)), 2.0**100)
    if scaled < _LEAST * float(np.einsum("nd,nd->n", rows, rows).max()):
        raise _lost(regularization, rows, exponent, _LEAST)
    return scaled


def _lost(regularization: float, rows: Array, exponent: int, share: float) -> ValueError:
    """The error, whose advice is a share of the largest squared length."""
    with np.errstate(over="ignore"):
        least = float(np.ldexp(share * np.einsum("nd,nd->n", rows, rows).max(), 2 * exponent))
    advice = f"expected at least {least:.1e}, or features on a smaller scale" if np.isfinite(least) else "scale the features down"
    return ValueError(f"regularization: {regularization!r} is lost in double precision beside features this large; {advice}")


def _projected(features: NDArray, exponent: int, num_classes: int, projection: int | None, rng: np.random.Generator) -> Array:
    """Features (N, D) over 2^exponent in double precision, in fewer dimensions where that was asked for."""
    dim = features.shape[1]
    if projection is None:
        if dim * num_classes > EXACT_UP_TO:
            sizes = f"{dim} dimensions times {num_classes} classes are more than {EXACT_UP_TO}"
            most = max(1, EXACT_UP_TO // num_classes)
            raise ValueError(f"features: {sizes}; set projection, such as {most} ({dim}: as they are, in much time and memory)")
        return np.ldexp(features.astype(np.float64), -exponent)
    check_count("projection", projection)
    if projection >= dim:
        return np.ldexp(features.astype(np.float64), -exponent)
    matrix = rng.standard_normal((dim, projection)) / np.sqrt(projection)
    parts = [np.ldexp(features[at : at + _ROWS].astype(np.float64), -exponent) @ matrix for at in range(0, len(features), _ROWS)]
    return np.concatenate(parts)


def _mean_fisher(rows: Array, probs: Array) -> Array:
    """(C D, C D): the mean of P ⊗ h h^T over rows (B, D) and probs (B, C); zeros of none."""
    (size, dim), classes = rows.shape, probs.shape[1]
    out = np.zeros((classes, dim, classes, dim))
    for c in range(classes):
        for other in range(c + 1):
            weights = (probs[:, c] * ((c == other) - probs[:, other]) / max(size, 1))[:, None]
            parts = [slice(at, at + _ROWS) for at in range(0, size, _ROWS)]
            # Symmetric in h as well.
            out[c, :, other] = out[other, :, c] = sum((rows[part] * weights[part]).T @ rows[part] for part in parts)
    return out.reshape(classes * dim, classes * dim)


class _Information:
    """What adding or removing each sample would do, kept current as samples are added and removed.

    Args:
        rows: (M, D) features.
        probs: (M, C) predictions.
        matrix: M, (C D, C D), positive definite.
        fisher: F, (C D, C D).
        solved: whether B and Q are found by solving with the factor of M for each row, which is right to the last digits where a sample
            alone holds up a direction, as matters to what is removed; C times the time of products with A and A F A.

    Raises:
        numpy.linalg.LinAlgError: M is not positive definite in double precision, also later.
    """

    def __init__(self, rows: Array, probs: Array, matrix: Array, fisher: Array, *, solved: bool = False) -> None:
        self.rows, self.probs, self.matrix, self.fisher, self.solved = rows, probs, matrix.copy(), fisher, solved
        self._compute()

    def _compute(self) -> None:
        """A, A F A and every B and Q, from M."""
        root = np.linalg.cholesky(self.matrix)
        inverse = np.linalg.inv(root)
        self.inverse = inverse.T @ inverse
        self.weighted = self.inverse @ self.fisher @ self.inverse
        self.b, self.q = self._solved(root) if self.solved else (self._blocks(self.inverse), self._blocks(self.weighted))
        self.steps, self.at_first = 0, np.trace(self.q, axis1=1, axis2=2)

    def _solved(self, root: Array) -> tuple[Array, Array]:
        """B and Q, (M, C, C) each, with the Cholesky factor of M."""
        (size, dim), classes = self.rows.shape, self.probs.shape[1]
        b, q = np.empty((size, classes, classes)), np.empty((size, classes, classes))
        for at in blocks(np.arange(size), dim * classes**2):
            columns = np.zeros((classes, dim, len(at), classes))
            for c in range(classes):
                columns[c, :, :, c] = self.rows[at].T
            half = np.linalg.solve(root, columns.reshape(classes * dim, -1))
            whole = np.linalg.solve(root.T, half)
            for out, left, right in ((b, half, half), (q, whole, self.fisher @ whole)):
                by_row = [m.reshape(classes * dim, len(at), classes).transpose(1, 0, 2) for m in (left, right)]
                out[at] = by_row[0].transpose(0, 2, 1) @ by_row[1]
        return b, q

    def _blocks(self, matrix: Array) -> Array:
        """(M, C, C): (1 ⊗ h)^T matrix (1 ⊗ h) of every row."""
        dim, classes = self.rows.shape[1], self.probs.shape[1]
        by_class, out = matrix.reshape(classes, dim, classes, dim), np.empty((len(self.rows), classes, classes))
        for part in self._parts():
            rows = self.rows[part]
            for c in range(classes):
                for other in range(c + 1):
                    out[part, c, other] = out[part, other, c] = np.einsum("nd,nd->n", rows @ by_class[c, :, other], rows)
        return out

    def _parts(self) -> list[slice]:
        """Of the samples, so many that their (C, C) matrices are a block."""
        rows = max(1, min(_ROWS, BLOCK // self.probs.shape[1] ** 2))
        return [slice(at, at + rows) for at in range(0, len(self.rows), rows)]

    def values(self, sign: int) -> Array:
        """(M,) by how much adding (1) each lowers tr(A F), or removing (-1) it raises it."""
        out = np.empty(len(self.rows))
        for part in self._parts():
            system = sign * _times(self.probs[part], self.b[part])
            system += np.eye(system.shape[1])
            out[part] = np.trace(np.linalg.solve(system, _times(self.probs[part], self.q[part])), axis1=1, axis2=2)
        return out

    def change(self, position: int, sign: int) -> None:
        """Add (1) or remove (-1) the information of a sample."""
        h, p, q, classes = self.rows[position], self.probs[position], self.q[position].copy(), self.probs.shape[1]
        fisher = np.diag(p) - np.outer(p, p)
        self.matrix.reshape(classes, len(h), classes, len(h))[...] += sign * fisher[:, None, :, None] * np.outer(h, h)[None, :, None, :]
        self.steps += 1
        if self.steps == _STEPS:
            self._compute()
            return
        middle = sign * np.linalg.solve(np.eye(classes) + sign * fisher @ self.b[position], fisher)
        middle = (middle + middle.T) / 2
        # A (1 ⊗ h) and A F A (1 ⊗ h), (C D, C).
        columns, weighted = (m.reshape(len(m), classes, -1) @ h for m in (self.inverse, self.weighted))
        factors = [_by_dimension(m) for m in (columns, weighted)]
        for part in self._parts():
            # (1 ⊗ h)^T of those two, for every row (B, C, C).
            own, other = ((self.rows[part] @ m).reshape(-1, classes, classes) for m in factors)
            scaled = own @ middle
            self.b[part] -= scaled @ own.transpose(0, 2, 1)
            product = scaled @ (other - scaled @ q / 2).transpose(0, 2, 1)
            self.q[part] -= product + product.transpose(0, 2, 1)
        scaled = columns @ middle
        product = scaled @ (weighted - scaled @ q / 2).T
        self.inverse -= scaled @ columns.T
        self.weighted -= product
        self.weighted -= product.T
        now = np.trace(self.q, axis1=1, axis2=2)
        if (now * _DIGITS < self.at_first).any() or (now > _DIGITS * self.at_first).any():
            self._compute()


def _by_dimension(columns: Array) -> Array:
    """(D, C C) of columns (C D, C), so that one product serves all classes."""
    classes = columns.shape[1]
    return np.ascontiguousarray(columns.reshape(classes, -1, classes).transpose(1, 0, 2)).reshape(-1, classes * classes)


def _times(probs: Array, matrices: Array) -> Array:
    """(B, C, C): (diag(p) - p p^T) times each matrix."""
    return probs[:, :, None] * (matrices - np.einsum("nc,ncd->nd", probs, matrices)[:, None, :])
