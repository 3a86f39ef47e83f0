"""The losses of ASSAL ("Adversarial Semi-Supervised Active Learning", a draft without experiments), as functions of tensors.

Everything here is minimised. The draft prints Eq. 1, 2, 3 and 7 as bounds to maximise (E log p − KL), Eq. 4 and 5 as losses, and adds
them up in Eq. 6; meant is −(1), −(2), −(3), −(7), +(4), +(5). An expectation is the mean over one pool's samples. A pool without samples,
as the labelled one is at a cold start, gives zero.

Dimension letters: B batch, C classes, d length of the code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch.nn import functional as F

# The KL's weight in Eq. 2, 3 and 7; see `classifier_loss`.
BETA = 0.01
# A dimension of the code is in use where the variance of its mean over samples is above this (Burda et al. 2016).
ACTIVE_VARIANCE = 0.01


@dataclass(frozen=True)
class Coded:
    """What a variational autoencoder made of the samples of one pool.

    Attributes:
        x: (B, channels, height, width) the images.
        reconstruction: of the same shape, the mean of p(x|z).
        mu: (B, d) of q(z|x).
        log_var: (B, d) logarithms of its variances.
    """

    x: torch.Tensor
    reconstruction: torch.Tensor
    mu: torch.Tensor
    log_var: torch.Tensor


def gaussian_kl(mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
    """(B,) KL of N(mu, exp(log_var)) from the unit Gaussian, summed over d: ½ Σ (μ² + σ² − log σ² − 1)."""
    # exp(v) − 1 − v by expm1, so that it is not negative by rounding near v = 0.
    return 0.5 * (mu.square() + log_var.expm1() - log_var).sum(dim=1)


def sample_code(mu: torch.Tensor, log_var: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """(B, d) z = μ + σ · noise, with noise (B, d) from the unit Gaussian."""
    return mu + (0.5 * log_var).exp() * noise


def gaussian_log_likelihood(x: torch.Tensor, mean: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """(B,) log N(x; mean, scale²), summed over pixels; the constant that neither mean nor gradient depends on is left out."""
    return -0.5 * ((x - mean) / scale).square().flatten(1).sum(dim=1)


def pool_mean(values: torch.Tensor) -> torch.Tensor:
    """The mean of (B,), 0 (with a gradient of 0) for B = 0."""
    return values.sum() / max(1, len(values))


def representation_loss(labeled: Coded, unlabeled: Coded, scale: float = 1.0, beta: float = 1.0) -> torch.Tensor:
    """−(Eq. 1): over each pool the mean of −log p(x|z) + KL, the two added.

    Args:
        labeled: X_L; may have no sample.
        unlabeled: X_U; likewise.
        scale: standard deviation of p(x|z). Images are in the normalisation of the data set's views, about 1 per pixel.
        beta: the KL's weight; 1 in ASSAL, the β of VAAL.

    Raises:
        ValueError: scale or beta out of its range, or a reconstruction of another shape than its images.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"scale: {scale}; it must be a finite number above 0")
    _check_beta(beta)
    for name, pool in (("labeled", labeled), ("unlabeled", unlabeled)):
        if pool.x.shape != pool.reconstruction.shape:
            raise ValueError(f"{name}: images of shape {tuple(pool.x.shape)} and reconstructions of {tuple(pool.reconstruction.shape)}")
    return _negative_elbo(labeled, scale, beta) + _negative_elbo(unlabeled, scale, beta)


def _check_beta(beta: float) -> None:
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta: {beta}; it must be a finite number of at least 0")


def _negative_elbo(pool: Coded, scale: float, beta: float) -> torch.Tensor:
    return pool_mean(beta * gaussian_kl(pool.mu, pool.log_var) - gaussian_log_likelihood(pool.x, pool.reconstruction, scale))


def classifier_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    mu: torch.Tensor,
    log_var: torch.Tensor,
    beta: float = BETA,
    counted: torch.Tensor | None = None,
) -> torch.Tensor:
    """−(Eq. 2), −(Eq. 3) or −(Eq. 7): the mean of −log p(y|z) + β · KL over one pool.

    Args:
        logits: (B, C) of the sampled code.
        targets: (B,) y_L of Eq. 2; h_U of Eq. 3 and h of Eq. 7, such as the number of a rotation, whose logits are those of a head of its
            own and whose code is that of the rotated image.
        mu: (B, d) of that code.
        log_var: (B, d) of it.
        beta: the KL's weight, ours. The draft's is 1, and then the best code is the empty one: E log p(y|z) − KL ≤ log p(y) for
            balanced classes, which a constant code reaches, whereas a code that tells ten classes apart pays more for the KL than the
            likelihood gives (a Gaussian toy: −2.30 at no separation, −8.05 at 98 % accuracy). So the code collapses; docs/assal.md has what
            `assal/digits` reaches with it and without.
        counted: (B,) which samples count, as pseudo-labels do that are sure enough; all where None. The mean is over all B in any case,
            as in FixMatch: the expectation of Eq. 3 is over X_U.

    Raises:
        ValueError: beta is negative or not finite.
    """
    _check_beta(beta)
    values = F.cross_entropy(logits, targets, reduction="none") + beta * gaussian_kl(mu, log_var)
    return pool_mean(values if counted is None else torch.where(counted, values, 0.0))


def adversarial_loss(labeled: torch.Tensor, unlabeled: torch.Tensor) -> torch.Tensor:
    """Eq. 4: −E log D(z_L) − E log D(z_U); the encoder wants both pools taken for labelled.

    Args:
        labeled: (B,) logits of D = P(labelled), of a discriminator that is not to learn from this.
        unlabeled: (B,) likewise.
    """
    return pool_mean(F.softplus(-labeled)) + pool_mean(F.softplus(-unlabeled))


def discriminator_loss(labeled: torch.Tensor, unlabeled: torch.Tensor) -> torch.Tensor:
    """Eq. 5: −E log D(z_L) − E log(1 − D(z_U)).

    Args:
        labeled: (B,) logits of D = P(labelled), of codes that are not to learn from this (detached).
        unlabeled: (B,) likewise.
    """
    return pool_mean(F.softplus(-labeled)) + pool_mean(F.softplus(unlabeled))


def weighted_loss(weights: Mapping[str, float], terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Eq. 6 (λ1 … λ4) or Eq. 8 (λ'1, λ'2): Σ λ · term. A term of weight 0 has no part in it, whatever its value is.

    Raises:
        ValueError: see `check_weights`; or a weight without its term.
    """
    check_weights(weights)
    missing = [name for name, weight in weights.items() if weight and name not in terms]
    if missing:
        raise ValueError(f"{missing[0]}: has a weight of {weights[missing[0]]}, but no term")
    parts = [weight * terms[name] for name, weight in weights.items() if weight]
    return torch.stack(parts).sum()


def check_weights(weights: Mapping[str, float]) -> None:
    """ValueError where a weight is negative or not finite, or all are zero, so that nothing would be learned."""
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"{name}: {weight}; it must be a finite number of at least 0")
    if not any(weights.values()):
        raise ValueError(f"{', '.join(weights)}: all are 0, so that there is nothing to learn; at least one must be positive")


def active_dims(variance: torch.Tensor) -> int:
    """How many dimensions of the code are in use, of the variances (d,) of μ over samples."""
    return int((variance > ACTIVE_VARIANCE).sum())


def rotated(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """(B, channels, S, S), each image turned counter-clockwise by its number of quarter turns of (B,); four are none."""
    # All turns of all images: which rows a mask has, the host would have to wait for.
    found = x
    for number in range(1, 4):
        found = torch.where((turns % 4 == number)[:, None, None, None], torch.rot90(x, number, dims=(2, 3)), found)
    return found


def balanced_accuracy(labeled: torch.Tensor, unlabeled: torch.Tensor) -> torch.Tensor:
    """The mean over both pools of the share that D's logits, (B,) each, tell right; ½ is chance.

    Raises:
        ValueError: one of them is empty.
    """
    if not len(labeled) or not len(unlabeled):
        raise ValueError(f"{len(labeled)} labelled and {len(unlabeled)} unlabelled samples; there must be some of both")
    return 0.5 * ((labeled > 0).float().mean() + (unlabeled <= 0).float().mean())


def rank_average(logits: np.ndarray, entropies: np.ndarray, weight: float) -> np.ndarray:
    """(P,) (1 − weight) · r_D + weight · r_H, high = to be asked for: the sampler's order and the classifier's uncertainty mixed (ours).

    r_D is the rank of −logit, r_H that of the entropy, each from 1/P (least) to 1, ties at their mean rank. Ranks, since a sampler that
    is sure has logits of any size, and entropies end at log C: a sum of the two would be one of them alone.

    Args:
        logits: (P,) of D = P(labelled), of what is ranked alone.
        entropies: (P,) of the same samples.
        weight: of the entropy, 0 to 1. At 0 the sampler's order, at 1 the entropy's.

    Raises:
        ValueError: no two arrays (P,) of one length, a value that is not finite, or a weight out of its range.
    """
    logits, entropies = np.asarray(logits, dtype=np.float64), np.asarray(entropies, dtype=np.float64)
    if logits.ndim != 1 or logits.shape != entropies.shape:
        raise ValueError(f"entropies: expected one for each logit, got shapes {logits.shape} and {entropies.shape}")
    for name, values in (("logits", logits), ("entropies", entropies)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: {values[~np.isfinite(values)][0]}; they must be finite")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight: {weight}; it must be from 0 to 1")
    ranks = [rankdata(values, method="average") / max(1, len(values)) for values in (-logits, entropies)]
    return (1 - weight) * ranks[0] + weight * ranks[1]
