"""What ASSAL trains, step by step, whoever drives it: the terms of Eq. 6, the sampler's step on Eq. 5, and what is said of both.

Algorithm `assal` drives it in USB's loop, acquisition `assal` with `beside: true` inside `select`.

Dimension letters: B batch, C classes, d length of the code, L and U samples of the two pools in a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from usb_active.plugins.assal.functional import (
    BETA,
    Coded,
    active_dims,
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
        """NotFinite where a term that counts is not finite.

        Args:
            terms: by the keys of their λ.
        """
        for key, term in terms.items():
            if self.weights[key] and not torch.isfinite(term):
                raise NotFinite(f"the term '{self.term(key)}' of {key} is not finite ({term.item()})")

    def loss(self, terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Eq. 6 of the terms, by the keys of their λ."""
        return weighted_loss(self.weights, terms)

    # ------------------------------------------------------------------------------------------ what is warned of
    def collapse(self, state: Mapping[str, float]) -> str:
        """What is to be said of a code (see `code_state`) of several images that is the same for all of them; "" where it is not."""
        if state["active_dims"] > 0:
            return ""
        cure = f"a smaller {self.key('beta')} or {self.key('lambda1')}, or a smaller {self.key('scale')}, may help"
        found = f"spread {state['spread']:.3g}, KL {state['kl']:.3g}"
        return f"the code has collapsed ({found}): it is the same for all images; {cure}"

    def chance(self, accuracy: float) -> str:
        """What is to be said of a sampler at chance; "" of another."""
        if accuracy >= CHANCE:
            return ""
        cure = f"a smaller {self.key('lambda4')} or a larger {self.key('sampler_lr')} may help, or a shorter training"
        found = f"the sampler's balanced accuracy is {accuracy:.3f}, near chance: it chooses almost at random"
        return f"{found}; {cure}: this is also its equilibrium"


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
    ) -> tuple[dict[str, torch.Tensor], Coded, Coded]:
        """The terms of Eq. 6 by the keys of their λ, and what became of the two pools' images.

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
            pools = slice(0, sum(sizes))
            reconstruction = net.decode(z[pools]).float()
        parts = [part.split(sizes) for part in (images[pools], reconstruction, mu[pools], log_var[pools])]
        coded_l, coded_u = (Coded(*(part[number] for part in parts)) for number in range(2))
        with self.autocast():
            logits = net.classifier(z[: sizes[0]]).float()
            turned = net.rotation(z[sum(sizes) :]).float() if objective.turns else None
        terms = (
            representation_loss(coded_l, coded_u, objective.scale),
            classifier_loss(logits, targets, coded_l.mu, coded_l.log_var, objective.beta),
            self._pseudo_label_loss(z[sizes[0] : sum(sizes)], coded_u) if turned is None
            else classifier_loss(turned, turns, mu[sum(sizes) :], log_var[sum(sizes) :], objective.beta),
            self._adversarial_loss(coded_l.mu, coded_u.mu),
        )  # fmt: skip
        return dict(zip(objective.weights, terms, strict=True)), coded_l, coded_u

    def _pseudo_label_loss(self, z: torch.Tensor, pool: Coded) -> torch.Tensor:
        with torch.no_grad():
            sure, classes = self.net.classifier(pool.mu).float().softmax(dim=1).max(dim=1)
        rows = sure >= self.objective.threshold
        return classifier_loss(self.net.classifier(z[rows]).float(), classes[rows], pool.mu[rows], pool.log_var[rows], self.objective.beta)

    def _adversarial_loss(self, labeled: torch.Tensor, unlabeled: torch.Tensor) -> torch.Tensor:
        with frozen(self.sampler):
            return adversarial_loss(self.sampler(labeled), self.sampler(unlabeled))

    def step_sampler(self, labeled: torch.Tensor, unlabeled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Eq. 5 on a fresh encoding of the images, which learns nothing from it. NotFinite, before the step, where it is not finite.

        Returns:
            Its loss, and how many it told right before it learned from them (see `told`).
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
        return loss.detach(), told(*logits)


def told(labeled: torch.Tensor, unlabeled: torch.Tensor) -> torch.Tensor:
    """(4,) float: labelled samples that D's logits (B,) tell right, all labelled ones; the same of unlabelled ones. To be added up."""
    right = [(labeled > 0).sum(), torch.tensor(len(labeled)), (unlabeled <= 0).sum(), torch.tensor(len(unlabeled))]
    return torch.stack([number.to(labeled.device, torch.float32) for number in right])


def accuracy_of(counts: torch.Tensor) -> float:
    """The sampler's balanced accuracy of what `told` gave, added up; ½ is chance, and before there is anything."""
    right_l, labeled, right_u, unlabeled = counts.tolist()
    return 0.5 * (right_l / labeled + right_u / unlabeled) if labeled and unlabeled else 0.5


def code_state(pool: Coded) -> dict[str, float]:
    """KL of a sample, the code's spread (standard deviation of μ over samples, averaged over d), how many of d are in use."""
    variance = pool.mu.detach().var(dim=0, correction=0)
    values = {"kl": gaussian_kl(pool.mu.detach(), pool.log_var.detach()).mean().item()}
    return values | {"spread": variance.sqrt().mean().item(), "active_dims": float(active_dims(variance))}


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
