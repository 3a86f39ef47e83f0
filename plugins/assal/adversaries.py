"""VAAL's and SRAAL's training: an autoencoder, and a discriminator that learns to tell labelled from unlabelled samples by its code.

S. Sinha, S. Ebrahimi, T. Darrell, "Variational Adversarial Active Learning", ICCV 2019. B. Zhang et al., "State-Relabeling Adversarial
Active Learning", CVPR 2020. The losses that they share with ASSAL are in `functional`. Statements about either refer to the code that its
authors published (sinhasam/vaal at 67263f3, Beichen1996/SRAAL at 274539c); docs/vaal.md lists what could not be checked.

Dimension letters: B batch, L labelled, U unlabelled, C classes, d length of the code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn import functional as F
from usb_active.plugins.assal.functional import (
    BETA,
    Coded,
    adversarial_loss,
    balanced_accuracy,
    classifier_loss,
    discriminator_loss,
    pool_mean,
    representation_loss,
    sample_code,
)
from usb_active.plugins.assal.networks import Discriminator, UnifiedVae, Vae

from usb_active.numerics.arrays import blocks

# A largest probability this near to 1/C is that of a uniform vector, to rounding.
_UNIFORM = 1e-6


@dataclass(frozen=True)
class Weights:
    """The weights of the terms of the autoencoder's loss.

    The terms are of a likelihood that is summed over the P numbers of an image, as the bound of a variational autoencoder has it. VAAL's
    code adds up other terms: squares that are averaged over P, and a KL that is summed over the B samples of a batch, each of weight 1.
    Multiplied by P/2, which Adam does not see, that is beta = B · P/2 and adversary = P/2 here: 196,608 and 1,536 for CIFAR's batches of
    128. A KL of that weight leaves the code empty but for what the adversarial term asks for, hence 1 and 1 (ours). SRAAL's code has five
    times the averaged squares and five times the classifier's cross-entropy, beside a KL that is averaged over the batch: beta =
    adversary = P/10, target = P/2, target_beta = 1/5.

    Attributes:
        beta: β of the KL.
        adversary: of the adversarial term, λ2 of VAAL.
        target: of SRAAL's classifier.
        target_beta: of the KL of the code that SRAAL's classifier sees; see `classifier_loss`.
    """

    beta: float = 1.0
    adversary: float = 1.0
    target: float = 1.0
    target_beta: float = BETA


@dataclass(frozen=True)
class Pair:
    """A batch of each pool.

    Attributes:
        labeled: (B, channels, height, width).
        unlabeled: likewise, of another B.
        targets: (B,) classes of the labelled, for SRAAL.
        uncertainty: (B,) of the unlabelled, 0 to 1, for SRAAL.
    """

    labeled: torch.Tensor
    unlabeled: torch.Tensor
    targets: torch.Tensor | None = None
    uncertainty: torch.Tensor | None = None

    @cached_property
    def both(self) -> torch.Tensor:
        """The images of both pools, labelled first. One pass of a network over both is faster than two over small batches."""
        return torch.cat([self.labeled, self.unlabeled])

    def parts(self, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Of values for `both`, those of the labelled and those of the unlabelled."""
        return values.split([len(self.labeled), len(self.unlabeled)])


class SamplerPair:
    """An autoencoder and a discriminator on its code, each with an Adam of its own. A subclass defines a step of each.

    Args:
        vae: encodes and decodes.
        discriminator: sees μ (B, d), and gives the logit of D = P(labelled).
        lr: of the autoencoder's optimizer.
        discriminator_lr: of the discriminator's; None: the same.
    """

    def __init__(self, vae: Vae, discriminator: Discriminator, lr: float, discriminator_lr: float | None = None):
        self.vae, self.discriminator = vae, discriminator
        self.optimizer = torch.optim.Adam(vae.parameters(), lr=lr)
        self.discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), lr=discriminator_lr or lr)

    def represent(self, x: torch.Tensor) -> torch.Tensor:
        """The discriminator's input for images: μ (B, d)."""
        return self.vae.encode(x)[0]

    def train_vae(self, pair: Pair, noise: torch.Generator) -> dict[str, torch.Tensor]:
        """One step of the autoencoder's optimizer; the discriminator stays as it is. Returns what is logged, by name."""
        raise NotImplementedError(f"{type(self).__name__}.train_vae")

    def train_discriminator(self, pair: Pair) -> dict[str, torch.Tensor]:
        """One step of the discriminator's optimizer; the autoencoder stays as it is. Returns what is logged, by name."""
        raise NotImplementedError(f"{type(self).__name__}.train_discriminator")

    @torch.no_grad()
    def score(self, x: torch.Tensor) -> torch.Tensor:
        """(B,) logits of P(labelled). The lowest are picked; logits have the order of the probabilities, without rounding to 0 or 1."""
        return self.discriminator(self.represent(x))


class VaalPair(SamplerPair):
    """VAAL's two networks.

    Args:
        vae: encodes and decodes.
        discriminator: sees what `represent` gives.
        lr: of both optimizers.
        weights: of the autoencoder's terms.
    """

    def __init__(self, vae: Vae, discriminator: Discriminator, lr: float, weights: Weights):
        super().__init__(vae, discriminator, lr)
        self.weights = weights

    def terms(self, pair: Pair, noise: torch.Generator) -> dict[str, torch.Tensor]:
        """The weighted terms of the autoencoder's loss: both pools reconstructed, and both taken for labelled."""
        codes = self.vae.encode(pair.both)
        adversarial = adversarial_loss(*pair.parts(self.discriminator(codes[0])))
        return {
            "representation": representation_loss(*self._coded(pair, *codes, noise), beta=self.weights.beta),
            "adversarial": self.weights.adversary * adversarial,
        }

    def _coded(self, pair: Pair, mu: torch.Tensor, log_var: torch.Tensor, noise: torch.Generator) -> list[Coded]:
        """Images, reconstructions and codes of either pool, from the codes (both, d) of both pools."""
        samples = [sample_with(*code, noise) for code in zip(pair.parts(mu), pair.parts(log_var), strict=True)]
        made = self.vae.decode(torch.cat(samples))
        return [Coded(*values) for values in zip(*(pair.parts(part) for part in (pair.both, made, mu, log_var)), strict=True)]

    def discriminator_loss(self, labeled: torch.Tensor, unlabeled: torch.Tensor, pair: Pair) -> torch.Tensor:
        """The discriminator's loss, of its logits (B,) of each pool: labelled is 1, unlabelled 0."""
        return discriminator_loss(labeled, unlabeled)

    # ------------------------------------------------------------------------------------------ steps
    def train_vae(self, pair: Pair, noise: torch.Generator) -> dict[str, torch.Tensor]:
        """One step of the autoencoder's optimizer; the discriminator stays as it is. Returns the weighted terms."""
        terms = self.terms(pair, noise)
        self.optimizer.zero_grad()
        # Gradients of the autoencoder's weights alone: the discriminator's would be thrown away.
        torch.stack(list(terms.values())).sum().backward(inputs=list(self.vae.parameters()))
        self.optimizer.step()
        return {name: value.detach() for name, value in terms.items()}

    def train_discriminator(self, pair: Pair) -> dict[str, torch.Tensor]:
        """One step of the discriminator's optimizer, on a fresh, detached encoding. Returns its loss and balanced accuracy."""
        with torch.no_grad():
            codes = self.represent(pair.both)
        logits = pair.parts(self.discriminator(codes))
        loss = self.discriminator_loss(*logits, pair)
        # Whoever calls `terms` may have left gradients of the adversarial term here.
        self.discriminator_optimizer.zero_grad()
        loss.backward()
        self.discriminator_optimizer.step()
        return {"discriminator": loss.detach(), "balanced_accuracy": balanced_accuracy(*(values.detach() for values in logits))}


class SraalPair(VaalPair):
    """SRAAL: the code also learns the labels, and the discriminator's target of an unlabelled sample depends on its uncertainty.

    In its code the discriminator learns 0 for labelled samples, and the autoencoder draws both pools to 1, hence to unlabelled. Here both
    are drawn to labelled, as in VAAL (and as a reimplementation, wenxuanou/SRAAL_Realization, reads the paper). Its second step of the
    autoencoder classifies another batch by the first one's labels; here each batch has its own.
    """

    vae: UnifiedVae

    def represent(self, x: torch.Tensor) -> torch.Tensor:
        """The unified representation: μ of both codes, joined, (B, 2d)."""
        image, _, target, _ = self.vae.encode_both(x)
        return torch.cat([image, target], dim=1)

    def terms(self, pair: Pair, noise: torch.Generator) -> dict[str, torch.Tensor]:
        """VAAL's terms, and the classifier's on the second code of the labelled."""
        image, image_log_var, target, target_log_var = self.vae.encode_both(pair.both)
        images = self._coded(pair, image, image_log_var, noise)
        logits = pair.parts(self.discriminator(torch.cat([image, target], dim=1)))
        mu, log_var = (pair.parts(value)[0] for value in (target, target_log_var))
        learned = self.vae.classifier(sample_with(mu, log_var, noise))
        return {
            "representation": representation_loss(*images, beta=self.weights.beta),
            "target": self.weights.target * classifier_loss(learned, pair.targets, mu, log_var, self.weights.target_beta),
            "adversarial": self.weights.adversary * adversarial_loss(*logits),
        }

    def discriminator_loss(self, labeled: torch.Tensor, unlabeled: torch.Tensor, pair: Pair) -> torch.Tensor:
        return relabeled_loss(labeled, unlabeled, pair.uncertainty)


def sample_with(mu: torch.Tensor, log_var: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(B, d) a sample of the code. The noise is made on the CPU, so that it is the same on every device."""
    return sample_code(mu, log_var, torch.randn(mu.shape, generator=generator).to(mu.device))


def relabeled_loss(labeled: torch.Tensor, unlabeled: torch.Tensor, uncertainty: torch.Tensor) -> torch.Tensor:
    """SRAAL's loss of the discriminator: −E log D(z_L), and the cross-entropy of an unlabelled sample's D to its state 1 − uncertainty.

    Where all uncertainties are 1 it is VAAL's; a sample of which the task model is certain counts as labelled. The optimum is
    D = 1 − uncertainty. The authors' code computes the same: its discriminator gives P(unlabelled), with the uncertainty as its target.
    As a reimplementation (wenxuanou/SRAAL_Realization) quotes it, the paper prints −E log(uncertainty − D(z_U)) for the second term, which
    is undefined where D is the larger.

    Args:
        labeled: (B,) logits.
        unlabeled: (B,) logits.
        uncertainty: (B,), 0 to 1, of the unlabelled.
    """
    states = F.binary_cross_entropy_with_logits(unlabeled, 1 - uncertainty, reduction="none")
    return pool_mean(F.softplus(-labeled)) + pool_mean(states)


def online_uncertainty(probs: np.ndarray) -> np.ndarray:
    """(U,) SRAAL's online uncertainty indicator: 1 − MINVAR(V) / Var(V) · max(V) of each vector V of class probabilities.

    Var is the variance of the C probabilities about their mean 1/C; MINVAR the least that a vector with the same maximum m can have, all
    others being equal: ((m − 1/C)² + (C − 1) ((1 − m)/(C − 1) − 1/C)²) / C. So it is at least 1 − m, and 0 for a certain prediction. A
    uniform one, where both variances are 0, gives 1 (ours: nothing is known).

    The authors' code divides by C in MINVAR and by C − 1 in Var, so that it gives 1/C + (C − 1)/C times this: the same order, but 1/C for
    a certain prediction. Here both are divided by C.

    Args:
        probs: (U, C), C ≥ 2; rows add up to 1.

    Raises:
        ValueError: another shape, or fewer than two classes.
    """
    if probs.ndim != 2 or probs.shape[1] < 2:
        raise ValueError(f"probs: expected (samples, classes) with at least 2 classes, got {probs.shape}")
    found = np.empty(len(probs))
    # A large pool's predictions are float32, maybe on disk: in double precision there is a block of rows at a time.
    for rows in blocks(np.arange(len(probs)), probs.shape[1]):
        part = slice(rows[0], rows[-1] + 1)
        found[part] = _uncertainty(probs[part].astype(np.float64))
    return found


def _uncertainty(probs: np.ndarray) -> np.ndarray:
    count, largest = probs.shape[1], probs.max(axis=1)
    variance = ((probs - 1 / count) ** 2).mean(axis=1)
    others = (1 - largest) / (count - 1)
    least = ((largest - 1 / count) ** 2 + (count - 1) * (others - 1 / count) ** 2) / count
    uniform = largest - 1 / count <= _UNIFORM
    ratio = np.where(uniform, 0.0, least / np.where(uniform, 1.0, variance))
    return np.clip(1 - ratio * largest, 0, 1)


def labeled_order(labeled: np.ndarray, batches: int, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """(batches · min(batch_size, L),) of `labeled` (L,), one permutation after the other, so that all come equally often."""
    length = batches * min(batch_size, len(labeled))
    return np.concatenate([rng.permutation(labeled) for _ in range(math.ceil(length / len(labeled)))])[:length]


def train_pass(
    pair: SamplerPair, batches: Iterable[Pair], count: int, vae_steps: int, noise: Callable[[int], torch.Generator]
) -> list[dict[str, torch.Tensor]]:
    """One pass over the pools, the networks trained in place: each batch is a step of the autoencoder, some also of the discriminator.

    Args:
        pair: the networks.
        batches: of both pools, `count` many.
        count: how many there are.
        vae_steps: see `discriminator_learns`.
        noise: the generator of a batch's noise, by its number from 0.

    Returns:
        What the steps of each batch log, by name, on the device.
    """
    steps: list[dict[str, torch.Tensor]] = []
    for number, batch in enumerate(batches):
        steps.append(pair.train_vae(batch, noise(number)))
        if discriminator_learns(number, count, vae_steps):
            steps[-1] |= pair.train_discriminator(batch)
    return steps


def discriminator_learns(number: int, batches: int, vae_steps: int) -> bool:
    """Whether it does after batch `number` (from 0) of an epoch: after every `vae_steps`-th, and after the last."""
    return (number + 1) % vae_steps == 0 or number + 1 == batches
