"""BAIT: batches that lower the trace of the inverse Fisher information times the pool's (Ash et al. 2021).

J. T. Ash, S. Goel, A. Krishnamurthy, S. Kakade, "Gone Fishing: Neural Active Learning with Fisher Embeddings", NeurIPS 2021.

The Fisher information of the last layer's weights at a sample with features h and predictions p is I(x) = P ⊗ h h^T, P = diag(p) - p p^T.
P has a root of one's own choice, P = S S^T with S = diag(r) - p r^T, r the roots of p. With M the information so far, A = M^-1 and F the
pool's mean, two (C, C) matrices per sample are all that is needed: B = (S ⊗ h)^T A (S ⊗ h) and Q = (S ⊗ h)^T A F A (S ⊗ h). By Woodbury's
identity, adding I(x) lowers tr(A F) by tr((1 + B)^-1 Q), removing it raises it by tr((1 - B)^-1 Q), and either changes A, A F A and every
B and Q by products of a few columns. No array of (N, C, D C), the factors of all I(x), is made. Such changes lose digits where little is
left of a large B or Q, so M itself is kept, and all is computed anew from its Cholesky factor before that matters.

No I(x) holds anything along what all classes have in common, where A is 1 / regularization for ever: M is factored without it.

Dimension letters: N pool, M candidates, L labelled, C classes, D feature dimension, B rows of a block.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import helmert, solve_triangular
from usb_active.plugins.low_budget import fisher_kernels as kernels
from usb_active.plugins.low_budget.inputs import above_zero, checked_rows, finite_pool

from usb_active.numerics.arrays import BLOCK, blocks, check_count

# D · C up to which it is exact without being told to: a matrix of nearly (D C, D C) is inverted.
EXACT_UP_TO = 1280
_TIE = 1e-9
_ROWS = 4096  # of a block
# After so many steps it is asked whether all is to be computed anew from M: where the B and Q of the samples just added are further than
# this, relative to their largest entry, from what M gives. A hundredth of what makes gains equal: those of other samples may be worse.
_STEPS, _DRIFT = 8, 1e-11
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
    probs /= probs.sum(axis=1, keepdims=True)
    above_zero("regularization", regularization)
    check_count("oversample", oversample)
    order = rng.permutation(candidates)
    exponent = _exponent(features)
    rows = _projected(features, exponent, probs.shape[1], projection, rng)
    matrix = _mean_fisher(rows[labeled], probs[labeled]) + _scaled(regularization, rows, exponent) * np.eye(rows.shape[1] * probs.shape[1])
    fisher = _mean_fisher(rows, probs)
    _tell_memory(len(order), probs.shape[1])
    kernels.prepare()
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
        probs: (M, C) predictions, rows that sum to 1.
        matrix: M, (C D, C D), positive definite: a multiple of the identity and samples' information, so that what all classes have in
            common is apart in it.
        fisher: F, (C D, C D).
        solved: whether B and Q are always found by solving with the factor of M for each row, which is right to the last digits where a
            sample alone holds up a direction, as matters to what is removed; C times the time of products with A and A F A.

    Attributes:
        matrix: M, current.
        inverse: A without what all classes have in common, (C D, C D).
        weighted: A F A, without it as well.
        b: B of every row, (M, C, C).
        q: Q, likewise.

    Raises:
        numpy.linalg.LinAlgError: M is not positive definite in double precision, or gives gains that are infinite; also later.
    """

    def __init__(self, rows: Array, probs: Array, matrix: Array, fisher: Array, *, solved: bool = False) -> None:
        self.rows, self.probs, self.matrix, self.solved = rows, probs, matrix.copy(), solved
        # (C - 1, C): orthogonal to what all classes have in common.
        self.basis = helmert(probs.shape[1])
        self.fisher = self._inside(fisher)
        self._compute(self._factor())

    def _inside(self, matrix: Array) -> Array:
        """((C - 1) D, (C - 1) D) of a matrix (C D, C D): what it does orthogonally to what all classes have in common."""
        dim, classes = self.rows.shape[1], self.probs.shape[1]
        part = np.tensordot(self.basis, matrix.reshape(classes, dim, classes, dim), axes=(1, 0))
        part = np.tensordot(part, self.basis, axes=(2, 1)).transpose(0, 1, 3, 2)
        return np.ascontiguousarray(part).reshape((classes - 1) * dim, (classes - 1) * dim)

    def _outside(self, matrix: Array) -> Array:
        """The reverse, nothing along what all classes have in common."""
        dim, classes = self.rows.shape[1], self.probs.shape[1]
        part = np.tensordot(self.basis, matrix.reshape(classes - 1, dim, classes - 1, dim), axes=(0, 0))
        part = np.tensordot(part, self.basis, axes=(2, 0)).transpose(0, 1, 3, 2)
        return np.ascontiguousarray(part).reshape(classes * dim, classes * dim)

    def _factor(self) -> Array:
        """The Cholesky factor of M without what all classes have in common, ((C - 1) D, (C - 1) D)."""
        return np.linalg.cholesky(self._inside(self.matrix))

    def _compute(self, root: Array) -> None:
        """A, A F A and every B and Q, from the factor of M."""
        inverse = _solve(root, np.eye(len(root)))
        inverse = inverse.T @ inverse
        self.inverse, self.weighted = self._outside(inverse), self._outside(inverse @ self.fisher @ inverse)
        if self.solved:
            self.b, self.q = self._solved(root, np.arange(len(self.rows)))
        else:
            self.b, self.q = self._blocks(self.inverse), self._blocks(self.weighted)
        self.changed: list[int] = []

    def _solved(self, root: Array, positions: NDArray[np.int64]) -> tuple[Array, Array]:
        """B and Q, (K, C, C) each, of the samples at K positions, with the Cholesky factor of M."""
        dim, classes = self.rows.shape[1], self.probs.shape[1]
        b, q = np.empty((len(positions), classes, classes)), np.empty((len(positions), classes, classes))
        for at in blocks(np.arange(len(positions)), dim * classes**2):
            some = positions[at]
            columns = np.einsum("kc,nci,nd->kdni", self.basis, _roots(self.probs[some]), self.rows[some], optimize=True)
            half = _solve(root, columns.reshape(len(root), len(at) * classes))
            whole = _solve(root, half, transposed=True)
            for out, left, right in ((b, half, half), (q, whole, self.fisher @ whole)):
                by_row = [m.reshape(len(root), len(at), classes).transpose(1, 0, 2) for m in (left, right)]
                out[at] = by_row[0].transpose(0, 2, 1) @ by_row[1]
        return b, q

    def _blocks(self, matrix: Array) -> Array:
        """(M, C, C): (S ⊗ h)^T matrix (S ⊗ h) of every row."""
        dim, classes = self.rows.shape[1], self.probs.shape[1]
        by_class, out = matrix.reshape(classes, dim, classes, dim), np.empty((len(self.rows), classes, classes))
        for part in self._parts():
            rows = self.rows[part]
            for c in range(classes):
                for other in range(c + 1):
                    out[part, c, other] = out[part, other, c] = np.einsum("nd,nd->n", rows @ by_class[c, :, other], rows)
            kernels.between_roots(self.probs[part], out[part])
        return out

    def _parts(self) -> list[slice]:
        """Of the samples, so many that their (C, C) matrices are a block."""
        rows = max(1, min(_ROWS, BLOCK // self.probs.shape[1] ** 2))
        return [slice(at, at + rows) for at in range(0, len(self.rows), rows)]

    def values(self, sign: int) -> Array:
        """(M,) by how much adding (1) each lowers tr(A F), or removing (-1) it raises it: without end where M would be singular."""
        out = self._traces(sign)
        if not np.isfinite(out).all() and self.changed:
            self._compute(self._factor())
            out = self._traces(sign)
        if np.isnan(out).any() or (np.isinf(out).any() if sign == 1 else np.isinf(out).all()):
            raise np.linalg.LinAlgError
        return out

    def _traces(self, sign: int) -> Array:
        out = np.empty(len(self.rows))
        for part in self._parts():
            kernels.traces(self.b[part], self.q[part], float(sign), out[part])
        return out

    def change(self, position: int, sign: int) -> None:
        """Add (1) or remove (-1) the information of a sample."""
        h, p, classes = self.rows[position], self.probs[position], self.probs.shape[1]
        information = sign * (np.diag(p) - np.outer(p, p))
        self.matrix.reshape(classes, len(h), classes, len(h))[...] += information[:, None, :, None] * np.outer(h, h)[None, :, None, :]
        self.changed.append(position)
        last = len(self.changed) % _STEPS == 0
        if last and self.solved:
            self._compute(self._factor())
            return
        middle = sign * np.linalg.inv(np.eye(classes) + sign * self.b[position])
        self._update(position, (middle + middle.T) / 2)
        if last:
            root = self._factor()
            if self._drifted(root):
                self._compute(root)

    def _update(self, position: int, middle: Array) -> None:
        """A, A F A and every B and Q after what takes A (S ⊗ h) middle (S ⊗ h)^T A from A, h being the sample's."""
        classes, q = self.probs.shape[1], self.q[position].copy()
        columns, weighted = (
            m.reshape(len(m), classes, -1) @ self.rows[position] @ _roots(self.probs[position]) for m in (self.inverse, self.weighted)
        )
        factors = [_by_dimension(m) for m in (columns, weighted)]
        for part in self._parts():
            own, other = ((self.rows[part] @ m).reshape(-1, classes, classes) for m in factors)
            kernels.change(self.probs[part], own, other, middle, q, self.b[part], self.q[part])
        scaled = columns @ middle
        product = scaled @ (weighted - scaled @ q / 2).T
        self.inverse -= scaled @ columns.T
        self.weighted -= product
        self.weighted -= product.T

    def _drifted(self, root: Array) -> bool:
        """Whether the changes have lost digits, as the samples that were changed last show."""
        some = np.array(self.changed[-_STEPS:])
        kept = self.b[some], self.q[some]
        return not all(np.abs(a - b).max() <= _DRIFT * np.abs(b).max() for a, b in zip(kept, self._solved(root, some), strict=True))


def _solve(root: Array, right: Array, transposed: bool = False) -> Array:
    """What a lower triangular matrix, or its transpose, times the result is; nothing of nothing, which older versions of scipy refuse."""
    return solve_triangular(root, right, lower=True, trans=int(transposed), check_finite=False) if len(root) else right


def _roots(probs: Array) -> Array:
    """(..., C, C): S = diag(r) - p r^T of predictions (..., C), S S^T being diag(p) - p p^T."""
    root = np.sqrt(probs)
    return root[..., None, :] * (np.eye(probs.shape[-1]) - probs[..., :, None])


def _by_dimension(columns: Array) -> Array:
    """(D, C C) of columns (C D, C), so that one product serves all classes."""
    classes = columns.shape[1]
    return np.ascontiguousarray(columns.reshape(classes, -1, classes).transpose(1, 0, 2)).reshape(-1, classes * classes)
