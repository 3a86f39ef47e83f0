"""What ASSAL trains, step by step, whoever drives it: the terms of Eq. 6, the sampler's step on Eq. 5, and what is said of both.

Algorithm `assal` drives it in USB's loop, acquisition `assal` with `beside: true` inside `select`.

Dimension letters: B batch, C classes, d length of the code, L and U samples of the two pools in a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from usb_active.plugins.assal.functional import (
    ACTIVE_VARIANCE,
    BETA,
    Coded,
    adversarial_loss,
    classifier_loss,
    discriminator_loss,
    gaussian_kl,
    representation_loss,
    rotated,
    sample_code,
    weighted_loss,
)

# Balanced accuracy of the sampler below which it is called at chance.
CHANCE = 0.55
# What each λ of Eq. 6 weighs, as it is logged.
TERMS = {"lambda1": "representation_loss", "lambda2": "labeled_loss", "lambda3": "unlabeled_loss", "lambda4": "adversarial_loss"}
_OTHERS = ("beta", "scale", "target", "threshold")


class NotFinite(ValueError):
    """A term that is not finite. Whoever drives the training says where it was and what is kept."""


@dataclass(frozen=True)
class Objective:
    """What Eq. 6 is made of. The defaults are those of all who have these keys; the draft gives none.

    Attributes:
        lambda1: λ1, of the autoencoder's bound (Eq. 1).
        lambda2: λ2, of the classifier on labels (Eq. 2).
        lambda3: λ3, of the classifier on unlabelled samples (Eq. 3).
        lambda4: λ4, of the adversarial loss (Eq. 4).
        beta: the KL's weight in Eq. 2 and 3.
        scale: standard deviation of a pixel given its code.
        target: h_U: "rotation" or "pseudo_label".
        threshold: how sure the classifier must be of a pseudo-label.
        prefix: what the keys begin with where a user writes them.
    """

    lambda1: float = 0.01
    lambda2: float = 1.0
    lambda3: float = 1.0
    lambda4: float = 0.1
    beta: float = BETA
    scale: float = 1.0
    target: str = "rotation"
    threshold: float = 0.95
    prefix: str = ""

    @classmethod
    def of(cls, keys: Any, prefix: str = "") -> Objective:
        """Of an object that has the keys as attributes, under `prefix`."""
        return cls(**{name: getattr(keys, prefix + name) for name in (*TERMS, *_OTHERS)}, prefix=prefix)

    @property
    def weights(self) -> dict[str, float]:
        """λ1 … λ4 by their keys."""
        return {self.key(name): getattr(self, name) for name in TERMS}

    @property
    def turns(self) -> bool:
        """Whether unlabelled images are turned as well."""
        return self.target == "rotation" and self.lambda3 > 0

    def key(self, name: str) -> str:
        """As a user writes it."""
        return self.prefix + name

    def term(self, key: str) -> str:
        """The name of what a λ weighs, by its key."""
        return TERMS[key.removeprefix(self.prefix)]

    def check_terms(self, terms: Mapping[str, torch.Tensor]) -> None:
        """NotFinite where a term that counts is not finite. The device is waited for once.

        Args:
            terms: by the keys of their λ.
        """
        counted = [key for key in terms if self.weights[key]]
        values = torch.stack([terms[key].detach() for key in counted]).tolist() if counted else []
        for key, value in zip(counted, values, strict=True):
            if not math.isfinite(value):
                raise NotFinite(f"the term '{self.term(key)}' of {key} is not finite ({value})")

    def loss(self, terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Eq. 6 of the terms, by the keys of their λ."""
        return weighted_loss(self.weights, terms)

    # ------------------------------------------------------------------------------------------ what is warned of
    def collapse(self, state: Mapping[str, float]) -> str:
        """What is to be said of a code (see `code_state`) of several images that is the same for all of them; "" where it is not."""
        if state["active_dims"] > 0:
            return ""
        # Of what is 0 there is no smaller one, nor does a key without effect help.
        smaller = [self.key("beta")] if self.beta and (self.lambda2 or self.lambda3) else []
        smaller += [self.key("lambda1")] if self.lambda1 else []
        scale = f"a smaller {self.key('scale')}" if self.lambda1 else ""
        cures = ", or ".join(cure for cure in (f"a smaller {' or '.join(smaller)}" if smaller else "", scale) if cure)
        cure = f"; {cures}, may help" if cures else ""
        found = f"spread {state['spread']:.3g}, KL {state['kl']:.3g}"
        return f"the code has collapsed ({found}): it is the same for all images{cure}"

    def chance(self, accuracy: float) -> str:
        """What is to be said of a sampler at chance; "" of another."""
        if accuracy >= CHANCE:
            return ""
        found = f"the sampler's balanced accuracy is {accuracy:.3f}, near chance: it chooses almost at random"
        if not self.lambda4:
            # Nothing works against it.
            return f"{found}; a larger {self.key('sampler_lr')} may help"
        cure = f"a smaller {self.key('lambda4')} or a larger {self.key('sampler_lr')} may help, or a shorter training"
        return f"{found}; {cure}: this is also its equilibrium"


@dataclass(frozen=True)
class Codes:
    """The images of one pool and their codes.

    Attributes:
        x: (B, channels, S, S).
        mu: (B, d) of q(z|x).
        log_var: (B, d) logarithms of its variances.
    """

    x: torch.Tensor
    mu: torch.Tensor
    log_var: torch.Tensor


@dataclass(frozen=True)
class Learners:
    """The networks that learn together, and the sampler's optimizer; that of the rest belongs to whoever drives the training.

    Attributes:
        net: encoder, generator and both heads, as in `networks.ClassifyingVae`.
        sampler: μ (B, d) → the logit (B,) of D = P(labelled).
        sampler_optimizer: of the sampler alone.
        objective: what Eq. 6 is made of.
        autocast: what the networks of the first of these compute inside; the losses are in single precision.
    """

    net: nn.Module
    sampler: nn.Module
    sampler_optimizer: torch.optim.Optimizer
    objective: Objective
    autocast: Callable[[], AbstractContextManager] = nullcontext

    def terms(
        self,
        labeled: torch.Tensor,
        targets: torch.Tensor,
        unlabeled: torch.Tensor,
        turns: torch.Tensor,
        noise: Callable[[torch.Tensor], torch.Tensor] = torch.randn_like,
    ) -> tuple[dict[str, torch.Tensor], Codes, Codes]:
        """The terms of Eq. 6 that have a weight, by the keys of their λ, and the codes of both pools. Other terms are not computed.

        Args:
            labeled: (L, channels, S, S).
            targets: (L,) their classes.
            unlabeled: (U, channels, S, S).
            turns: (U,) quarter turns, 0 to 3, that h_U is to tell.
            noise: gives unit Gaussian numbers of the shape of a tensor.
        """
        net, objective, sizes = self.net, self.objective, (len(labeled), len(unlabeled))
        images = torch.cat([labeled, unlabeled, *([rotated(unlabeled, turns)] if objective.turns else [])])
        with self.autocast():
            mu, log_var = (part.float() for part in net.encode(images))
        z = sample_code(mu, log_var, noise(mu))
        # The images as they are; behind them the turned ones.
        total = sum(sizes)
        of_l, of_u = (Codes(*parts) for parts in zip(*(part[:total].split(sizes) for part in (images, mu, log_var)), strict=True))
        terms = {}
        if objective.lambda1:
            terms["lambda1"] = self._representation_loss((of_l, of_u), z[:total])
        if objective.lambda2:
            terms["lambda2"] = self._classifier_loss(net.classifier, z[: sizes[0]], targets, of_l)
        if objective.turns:
            turned = Codes(images[total:], mu[total:], log_var[total:])
            terms["lambda3"] = self._classifier_loss(net.rotation, z[total:], turns, turned)
        elif objective.lambda3:
            terms["lambda3"] = self._pseudo_label_loss(z[sizes[0] : total], of_u)
        if objective.lambda4:
            terms["lambda4"] = self._adversarial_loss(of_l.mu, of_u.mu)
        return {objective.key(name): term for name, term in terms.items()}, of_l, of_u

    def _representation_loss(self, codes: Sequence[Codes], z: torch.Tensor) -> torch.Tensor:
        with self.autocast():
            reconstruction = self.net.decode(z).float()
        made = reconstruction.split([len(pool.x) for pool in codes])
        pools = [Coded(pool.x, image, pool.mu, pool.log_var) for pool, image in zip(codes, made, strict=True)]
        return representation_loss(*pools, scale=self.objective.scale)

    def _classifier_loss(
        self, head: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor, classes: torch.Tensor, codes: Codes
    ) -> torch.Tensor:
        with self.autocast():
            logits = head(z).float()
        return classifier_loss(logits, classes, codes.mu, codes.log_var, self.objective.beta)

    def _pseudo_label_loss(self, z: torch.Tensor, pool: Codes) -> torch.Tensor:
        with self.autocast():
            with torch.no_grad():
                sure, classes = self.net.classifier(pool.mu).float().softmax(dim=1).max(dim=1)
            logits = self.net.classifier(z).float()
        counted = sure >= self.objective.threshold
        return classifier_loss(logits, classes, pool.mu, pool.log_var, self.objective.beta, counted)

    def _adversarial_loss(self, labeled: torch.Tensor, unlabeled: torch.Tensor) -> torch.Tensor:
        with frozen(self.sampler):
            return adversarial_loss(self.sampler(labeled), self.sampler(unlabeled))

    def step_sampler(self, labeled: torch.Tensor, unlabeled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Eq. 5 on a fresh encoding of the images, which learns nothing from it. NotFinite, before the step, where it is not finite.

        Returns:
            Its loss, and how many it told right before it learned from them (see `sampler_counts`).
        """
        with torch.no_grad(), self.autocast():
            codes = self.net.encode(torch.cat([labeled, unlabeled]))[0].float()
        logits = self.sampler(codes).split([len(labeled), len(unlabeled)])
        loss = discriminator_loss(*logits)
        if not torch.isfinite(loss):
            raise NotFinite(f"the term 'sampler' is not finite ({loss.item()})")
        self.sampler_optimizer.zero_grad()
        loss.backward()
        self.sampler_optimizer.step()
        self.sampler_optimizer.zero_grad()
        return loss.detach(), sampler_counts(*logits)


def sampler_counts(labeled: torch.Tensor, unlabeled: torch.Tensor) -> torch.Tensor:
    """(4,) float: labelled samples that D's logits (B,) tell right, all labelled ones; the same of unlabelled ones. To be added up."""
    right_l, right_u = (labeled > 0).sum(), (unlabeled <= 0).sum()
    # Made on the device, not copied to it.
    counts = [right_l, torch.full_like(right_l, len(labeled)), right_u, torch.full_like(right_u, len(unlabeled))]
    return torch.stack(counts).float()


def accuracy_of(counts: torch.Tensor) -> float:
    """The sampler's balanced accuracy of what `sampler_counts` gave, added up; ½ is chance, and before there is anything."""
    right_l, labeled, right_u, unlabeled = counts.tolist()
    return 0.5 * (right_l / labeled + right_u / unlabeled) if labeled and unlabeled else 0.5


# What is logged of a code.
STATE = ("kl", "spread", "active_dims")


def code_tensors(pool: Codes) -> torch.Tensor:
    """(3,) of `STATE`: KL of a sample, spread (standard deviation of μ over samples, averaged over d), how many dimensions are in use."""
    variance = pool.mu.detach().var(dim=0, correction=0)
    kl = gaussian_kl(pool.mu.detach(), pool.log_var.detach()).mean()
    return torch.stack([kl, variance.sqrt().mean(), (variance > ACTIVE_VARIANCE).sum().to(kl)])


def code_state(pool: Codes) -> dict[str, float]:
    """`code_tensors` as numbers, by name. The device is waited for once."""
    return dict(zip(STATE, code_tensors(pool).tolist(), strict=True))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """What passes through the module inside has gradients for what was given, none for the module's own weights."""
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
