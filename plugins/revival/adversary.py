"""The virtual adversarial generator (§3.3): how far a small push of the representations moves a sample's prediction.

Dimension letters: N pool, D feature dimension, H hidden units, C classes, U unlabelled, B rows of a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from usb_active.plugins.revival.propagator import Propagator

from usb_active.errors import nearest
from usb_active.numerics.arrays import blocks, check_count

SCORES = ("kl_perturbed_clean", "kl_clean_perturbed")


@dataclass(frozen=True)
class Adversary:
    """How samples are pushed, and how the effect is measured.

    Attributes:
        epsilon: the length ε of a push; the paper does not give one. Where features have unit length it is a share of that.
        power_iterations: gradients taken; 1 in the paper.
        score: "kl_perturbed_clean" is KL(ŷ, ȳ) as in §3.3, "kl_clean_perturbed" KL(ȳ, ŷ) as in Eq. 4, by which the push is made in
            either case. They rank alike while ε is small.
    """

    epsilon: float = 0.1
    power_iterations: int = 1
    score: str = "kl_perturbed_clean"


def check_adversary(adversary: Adversary) -> None:
    """ValueError that names a setting outside its range."""
    if not adversary.epsilon > 0 or not math.isfinite(adversary.epsilon):
        raise ValueError(f"epsilon: {adversary.epsilon!r}, expected a number above 0")
    check_count("power_iterations", adversary.power_iterations)
    if adversary.score not in SCORES:
        raise ValueError(f"score: unknown value {adversary.score!r}{nearest(adversary.score, SCORES)}")


def divergence(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(p, q) (N,) of log-probabilities (N, C), in nats."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def adversarial_divergence(
    propagator: Propagator,
    adversary: Adversary = Adversary(),  # noqa: B008 — frozen
    *,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """How far each unlabelled node's virtual label moves when all of them are pushed (Eq. 4–5).

    A push is ε times the direction of the gradient of Σ KL(ȳ, ŷ) over the unlabelled nodes, by the representations alone, taken once
    for all of them at pushes of unit length in random directions (at none it vanishes). Labelled nodes stay where they are. A
    node whose gradient is zero is not pushed, in the iterations after that neither: at no push a gradient is rounding.

    Of a push Δ the network sees Δ W0 alone, and the gradient by Δ is that by Δ W0 times W0ᵀ: both are made by blocks, so that memory
    is a few arrays (N, H) beyond the features.

    Args:
        propagator: the trained network.
        adversary: how it pushes.
        rng: what draws the directions.

    Returns:
        (N,), zero for labelled nodes.

    Raises:
        ValueError: settings out of range.
    """
    check_adversary(adversary)
    base = propagator.projected()
    with torch.no_grad():
        clean = propagator.log_probs(base)
    free = np.ones(len(base), bool)
    free[propagator.labeled] = False
    mask = torch.as_tensor(free, device=base.device)
    pushed_on = mask
    push = _random_pushes(propagator, mask, rng)
    for _ in range(adversary.power_iterations):
        push.requires_grad_()
        target = divergence(clean, propagator.log_probs(base + push))[mask].sum()
        (gradient,) = torch.autograd.grad(target, push)
        pushed_on = pushed_on & gradient.ne(0).any(dim=1)
        push = _along(propagator, gradient, pushed_on)
    with torch.no_grad():
        pushed = propagator.log_probs(base + adversary.epsilon * push)
        return _scored(clean, pushed, adversary).masked_fill(~mask, 0).double().cpu().numpy()


def _scored(clean: torch.Tensor, pushed: torch.Tensor, adversary: Adversary) -> torch.Tensor:
    # A rounding below zero is none.
    pair = (pushed, clean) if adversary.score == "kl_perturbed_clean" else (clean, pushed)
    return divergence(*pair).clamp_min(0)


def _random_pushes(propagator: Propagator, mask: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Δ W0 (N, H) of random Δ of unit length; zero outside the mask (N,)."""

    def drawn(idx: NDArray) -> torch.Tensor:
        directions = rng.standard_normal((len(idx), propagator.features.shape[1]), dtype=np.float32)
        return torch.as_tensor(directions, dtype=propagator.first.dtype, device=propagator.first.device)

    return _projected_units(propagator, drawn, mask)


def _along(propagator: Propagator, gradient: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Δ W0 (N, H) of the Δ of unit length along the gradient, which is given by Δ W0 (N, H); zero outside the mask (N,)."""
    return _projected_units(propagator, lambda idx: gradient[idx[0] : idx[-1] + 1] @ propagator.first.T, mask)


@torch.no_grad()
def _projected_units(propagator: Propagator, make: Callable[[NDArray], torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    first = propagator.first
    out = first.new_empty(len(mask), first.shape[1])
    for idx in blocks(np.arange(len(mask)), first.shape[0]):
        part = slice(idx[0], idx[-1] + 1)
        torch.mm(_unit(make(idx)), first, out=out[part])
        out[part][~mask[part]] = 0
    return out


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows (B, D) of length one; those of zeros stay zeros."""
    # First by the largest entry: the square of a small gradient would vanish.
    rows = rows / _nonzero(rows.abs().amax(dim=1, keepdim=True))
    return rows / _nonzero(rows.norm(dim=1, keepdim=True))


def _nonzero(lengths: torch.Tensor) -> torch.Tensor:
    return torch.where(lengths > 0, lengths, 1)


def head_divergence(
    features: NDArray,
    idx: NDArray[np.int64],
    logits: Callable[[torch.Tensor], torch.Tensor],
    adversary: Adversary = Adversary(),  # noqa: B008 — frozen
    *,
    relative: bool = True,
    device: torch.device | str = "cpu",
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """The same by a classifier that looks at each sample alone, without a graph (VAG of Table 1 without LP).

    Args:
        features: (N, D).
        idx: (U,) which samples.
        logits: features (B, D) → logits (B, C), differentiable.
        adversary: how it pushes.
        relative: ε is a share of each sample's own length; otherwise a length.
        device: where the classifier is.
        rng: what draws the directions.

    Returns:
        (U,).

    Raises:
        ValueError: settings out of range.
    """
    check_adversary(adversary)
    out = np.empty(len(idx))
    at = 0
    for rows in blocks(idx, features.shape[1]):
        x = torch.as_tensor(np.array(features[rows]), dtype=torch.float32, device=device)
        start = torch.as_tensor(rng.standard_normal(x.shape, dtype=np.float32), device=device)
        scale = x.norm(dim=1, keepdim=True) if relative else 1.0
        out[at : at + len(rows)] = _pushed_alone(x, start, scale, logits, adversary)
        at += len(rows)
    return out


def _pushed_alone(
    x: torch.Tensor, start: torch.Tensor, scale: torch.Tensor | float, logits: Callable[[torch.Tensor], torch.Tensor], adversary: Adversary
) -> NDArray[np.float64]:
    with torch.no_grad():
        clean = logits(x).float().log_softmax(dim=1)
    push = _unit(start) * scale
    pushed_on = torch.ones(len(x), 1, dtype=torch.bool, device=x.device)
    for _ in range(adversary.power_iterations):
        push.requires_grad_()
        target = divergence(clean, logits(x + push).float().log_softmax(dim=1)).sum()
        (gradient,) = torch.autograd.grad(target, push)
        pushed_on = pushed_on & gradient.ne(0).any(dim=1, keepdim=True)
        push = (_unit(gradient) * scale).masked_fill(~pushed_on, 0)
    with torch.no_grad():
        pushed = logits(x + adversary.epsilon * push).float().log_softmax(dim=1)
        return _scored(clean, pushed, adversary).double().cpu().numpy()
