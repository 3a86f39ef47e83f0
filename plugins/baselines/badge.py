"""BADGE: k-means++ seeds in the space of gradient embeddings (Ash et al. 2020), which are never made.

The gradient of the cross-entropy at the predicted label with respect to the weights of the last layer is g = r h^T: the
residual r = p - onehot(argmax p), (C,), times the features h, (D,), the input of that layer. C·D numbers per sample; but
<g_i, g_j> = <r_i, r_j> <h_i, h_j>, so that distances need C + D.

Dimension letters: N pool, M candidates, C classes, D feature dimension, B rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usb_active.numerics.arrays import blocks, score_rows
from usb_active.numerics.greedy import checked_pool, sample_by_distance
from usb_active.numerics.spaces import EuclideanSpace, NormScreen, square_norms


def badge(
    features: ArrayLike,
    probs: ArrayLike,
    budget: int,
    rng: np.random.Generator,
    *,
    candidates: ArrayLike | None = None,
    first: Literal["norm", "uniform"] = "norm",
) -> NDArray[np.int64]:
    """BADGE's batch (Ash et al. 2020, algorithm 1): seeds of k-means++ over the candidates' gradient embeddings.

    As in the authors' code the last layer's bias has no part, and the labelled samples are no centres. Each pick after the first is
    drawn with probability proportional to the squared distance to the nearest centre; when only copies of centres are left, uniformly.

    Exact in distribution; memory beyond the inputs, which may be memory maps, is O(N) and blocks.

    Args:
        features: (N, D), input of the last layer; finite.
        probs: (N, C), rows that are a distribution.
        budget: how many to pick, 1..M.
        rng: what draws them.
        candidates: (M,) idx, by default all.
        first: the first centre. "norm", as in the authors' code: the longest gradient, ties drawn; "uniform" is k-means++ to the letter.

    Returns:
        idx (budget,), distinct, in the order of drawing.

    Raises:
        ValueError: features that are not finite and probs that are no distribution (names the rows), arrays of different lengths, idx
            out of range or repeated, and a budget outside 1..M.
    """
    if first not in ("norm", "uniform"):
        raise ValueError(f"first: {first!r}, expected 'norm' or 'uniform'")
    features, labeled, candidates = checked_pool(features, [], candidates, budget)
    space = GradientSpace(features, probs)
    order = rng.permutation(candidates)
    if first == "norm":
        # The first of the equals in an order that was drawn.
        head = int(np.argmax(space.norms[order]))
        order[[0, head]] = order[[head, 0]]
    return sample_by_distance(space, order, labeled, budget, rng)


def residuals(probs: NDArray) -> NDArray[np.float64]:
    """p - onehot(argmax p): (B, C) of (B, C); of equal largest classes the first is the predicted one."""
    out = probs.astype(np.float64)
    out[np.arange(len(out)), out.argmax(axis=1)] -= 1
    return out


class GradientSpace:
    """Squared distances of gradient embeddings; the features are scaled by a power of two so that none overflows.

    Attributes:
        norms: (N,) squared lengths.
        ratios: (N,) square roots of |h| / |r|, nearly; zero where either is.
    """

    def __init__(self, features: NDArray, probs: ArrayLike) -> None:
        self.inputs = EuclideanSpace(features)
        self.probs = np.asarray(probs)
        self.norms = score_rows(self.probs, lambda p: square_norms(residuals(p)))
        if len(self.probs) != len(features):
            raise ValueError(f"probs: {len(self.probs)} rows, expected one for each of the {len(features)} rows of features")
        self.dim = features.shape[1] + self.probs.shape[1]
        self.ratios = np.zeros(len(features))
        for at in blocks(np.arange(len(features)), self.inputs.dim):
            r, h = self.norms[at], square_norms(self.inputs.rows(at))
            self.norms[at] = r * h
            ratios = np.divide(h, r, out=np.ones_like(h), where=r * h > 0) ** 0.25
            # Powers of two: to scale by them is exact.
            self.ratios[at] = np.where(r * h > 0, np.exp2(np.rint(np.log2(ratios))), 0.0)

    def rows(self, idx: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Factors (B, C) and (B, D) of r h^T, of nearly equal length: a long and a short one would cost digits in `_squared`."""
        return self._balanced(idx, self.inputs.rows(idx))

    def singles(self, idx: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The same in single precision."""
        r, h = self._balanced(idx, self.inputs.scaled(idx))
        return r.astype(np.float32), h.astype(np.float32, copy=False)

    def _balanced(self, idx: NDArray, inputs: NDArray) -> tuple[NDArray[np.float64], NDArray]:
        ratios = self.ratios[idx, None]
        inverses = np.divide(1.0, ratios, out=np.zeros_like(ratios), where=ratios > 0)
        return residuals(self.probs[idx]) * ratios, inputs * inverses.astype(inputs.dtype)

    def squared(self, idx: NDArray, others: NDArray) -> NDArray[np.float64]:
        pairs = blocks(np.arange(len(idx)), self.dim)
        parts = [_squared(*self.rows(idx[at]), *self.rows(others[at])) for at in pairs]
        return np.concatenate(parts) if parts else np.empty(0)

    def among(self, idx: NDArray) -> Callable[[int], NDArray[np.float64]]:
        r, h = self.rows(idx)
        return lambda at: _squared(r, h, r[at], h[at])

    def screen(self, centres: NDArray) -> NormScreen:
        return _GradientScreen(self, centres)


class _GradientScreen(NormScreen):
    """Two matrix products, multiplied entry by entry."""

    def __init__(self, space: GradientSpace, centres: NDArray) -> None:
        super().__init__(space.dim)
        self.space = space
        r, self.h = space.singles(centres)
        self.r = -2 * r
        self.norms = ((1 + self.slack) * space.norms[centres]).astype(np.float32)

    def products(self, idx: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        r, h = self.space.singles(idx)
        out = h @ self.h.T
        out *= r @ self.r.T
        out += self.norms
        return out, self.space.norms[idx]


def _squared(r: NDArray, h: NDArray, r_other: NDArray, h_other: NDArray) -> NDArray[np.float64]:
    """|r h^T - r' h'^T|^2 by differences: with means m and differences d it is |d_r m_h^T + m_r d_h^T|^2.

    From norms and inner products of the embeddings themselves, two near ones would lose all their digits.
    """
    dr, dh, sr, sh = r - r_other, h - h_other, r + r_other, h + h_other  # sums, twice the means
    cross = np.einsum("nc,nc->n", dr, sr) * np.einsum("nd,nd->n", dh, sh)
    return np.maximum(square_norms(dr) * square_norms(sh) + square_norms(sr) * square_norms(dh) + 2 * cross, 0.0) / 4
