"""ASSAL beside another task model: its autoencoder, classifier and sampler trained inside `select` of the acquisition `assal`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from usb_active.plugins.assal.adversaries import Pair, SamplerPair
from usb_active.plugins.assal.learning import STATE, TERMS, Learners, NotFinite, Objective, accuracy_of, code_tensors
from usb_active.plugins.assal.networks import ROTATIONS, ClassifyingVae, Discriminator
from usb_active.plugins.assal.samplers import SamplerTraining

from usb_active import PluginConfig
from usb_active.numerics.arrays import entropy
from usb_active.randomness import position_seed


class BesideKeys(PluginConfig):
    """Keys of what is trained beside. Those of the loss are algorithm `assal`'s without their `assal_`, with the same defaults.

    Attributes:
        epochs: passes over the unlabelled pool.
        batch_size: of each pool; of the labelled at most as many as there are.
        lr: α1, of the Adam of encoder, generator and classifier.
        latent: length of the code.
        width: channels of the autoencoder at the image's own size; they double with every halving of it.
        lambda1: λ1, of the autoencoder's bound (Eq. 1).
        lambda2: λ2, of the classifier on labels (Eq. 2).
        lambda3: λ3, of the classifier on unlabelled samples (Eq. 3).
        lambda4: λ4, of the adversarial loss (Eq. 4).
        beta: the KL's weight in Eq. 2 and 3; 1 as printed, and the code collapses.
        scale: standard deviation of a pixel given its code.
        target: h_U, what is predicted of unlabelled samples.
        threshold: how sure the classifier must be of a pseudo-label.
        sampler_lr: α2, of the sampler's Adam.
        sampler_width: units of its hidden layers.
        sampler_layers: how many hidden layers.
    """

    epochs: int = Field(50, ge=1)
    batch_size: int = Field(64, ge=1)
    lr: float = Field(0.001, gt=0, allow_inf_nan=False)
    latent: int = Field(32, ge=1, le=65536)
    width: int = Field(32, ge=1, le=4096)
    lambda1: float = Field(Objective.lambda1, ge=0, allow_inf_nan=False)
    lambda2: float = Field(Objective.lambda2, ge=0, allow_inf_nan=False)
    lambda3: float = Field(Objective.lambda3, ge=0, allow_inf_nan=False)
    lambda4: float = Field(Objective.lambda4, ge=0, allow_inf_nan=False)
    beta: float = Field(Objective.beta, ge=0, allow_inf_nan=False)
    scale: float = Field(Objective.scale, gt=0, allow_inf_nan=False)
    target: Literal["rotation", "pseudo_label"] = "rotation"
    threshold: float = Field(Objective.threshold, ge=0, le=1)
    sampler_lr: float = Field(0.0005, gt=0, allow_inf_nan=False)
    sampler_width: int = Field(512, ge=1, le=65536)
    sampler_layers: int = Field(2, ge=0, le=64)


class AssalPair(SamplerPair):
    """Algorithm 1's two sides, each with an Adam of its own: the loss and the sampler's step are those of algorithm `assal`.

    Args:
        vae: encoder, generator and both heads.
        discriminator: the sampler.
        keys: what is trained how.
    """

    vae: ClassifyingVae

    def __init__(self, vae: ClassifyingVae, discriminator: Discriminator, keys: BesideKeys):
        super().__init__(vae, discriminator, keys.lr, keys.sampler_lr)
        self.learners = Learners(vae, discriminator, self.discriminator_optimizer, Objective.of(keys))

    def train_vae(self, pair: Pair, noise: torch.Generator) -> dict[str, torch.Tensor]:
        """One step on Eq. 6; the sampler stays as it is. NotFinite before the step.

        Returns:
            The terms that count, weighted, and the state of the code.
        """
        objective, device = self.learners.objective, pair.labeled.device
        turns = torch.randint(ROTATIONS, (len(pair.unlabeled),), generator=noise).to(device)
        # The noise is made on the CPU, the same on every device.
        terms, _, unlabeled = self.learners.terms(
            pair.labeled, pair.targets, pair.unlabeled, turns, lambda mu: torch.randn(mu.shape, generator=noise).to(device)
        )
        objective.check_terms(terms)
        self.optimizer.zero_grad()
        objective.loss(terms).backward()
        self.optimizer.step()
        counted = {objective.term(key): objective.weights[key] * term.detach() for key, term in terms.items()}
        return counted | dict(zip(STATE, code_tensors(unlabeled), strict=True))

    def train_discriminator(self, pair: Pair) -> dict[str, torch.Tensor]:
        """One step on Eq. 5; the autoencoder stays as it is. NotFinite before the step.

        Returns:
            Its loss, and what it told right (see `sampler_counts`), to be added up.
        """
        loss, counts = self.learners.step_sampler(pair.labeled, pair.unlabeled)
        return {"sampler_loss": loss, "counts": counts}

    @torch.no_grad()
    def score_and_classify(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B,) logits of P(labelled), and (B, C) the classifier's probabilities, both of μ."""
        mu = self.represent(x)
        return self.discriminator(mu), self.vae.classifier(mu).softmax(dim=1)


class AssalTraining(SamplerTraining):
    """Algorithm 1 on the pools of a query. Both pools in the weak view, drawn anew in every epoch, and no labelled image is among the
    unlabelled: the sampler would learn either.

    Args:
        name: the acquisition's.
        config: its keys.
        view: the pool.
    """

    transform: ClassVar[str] = "weak"
    pair: AssalPair

    def make_pair(self, config: Any) -> AssalPair:
        data, device = self.view.dataset, self.view.device
        net = ClassifyingVae(self.view.num_classes, data.img_size, data.in_channels, config.latent, config.width)
        sampler = Discriminator(config.latent, config.sampler_width, config.sampler_layers)
        return AssalPair(net.to(device), sampler.to(device), config)

    def make_batch(self, labeled: Mapping[str, Any], unlabeled: Mapping[str, Any]) -> Pair:
        targets = self.view.labels[np.searchsorted(self.view.labeled, labeled["idx"].numpy())]
        return Pair(self._images(labeled), self._images(unlabeled), torch.from_numpy(targets).to(self.device))

    def train_epoch(self) -> dict[str, Any]:
        batches = math.ceil(len(self.view.unlabeled) / self.config.batch_size)
        counts, lines = torch.zeros(4, device=self.device), []
        for number, batch in enumerate(self._pairs(batches)):
            noise = torch.Generator().manual_seed(position_seed(self.seed, *self.position, "noise", number))
            with self._said_where(number):
                line = {**self.pair.train_vae(batch, noise), **self.pair.train_discriminator(batch)}
            counts += line.pop("counts")
            lines.append(line)
        # On the device till here, so that no step waits for what is logged.
        means = {name: float(np.mean(torch.stack([line[name] for line in lines]).tolist())) for name in lines[0]}
        return {"loss": sum(means[name] for name in TERMS.values() if name in means), **means, "balanced_accuracy": accuracy_of(counts)}

    @contextmanager
    def _said_where(self, number: int) -> Iterator[None]:
        try:
            yield
        except NotFinite as error:
            self.refuse_step(str(error), number)

    def problems(self) -> list[str]:
        """What is to be warned of after the last epoch: a code that has collapsed, a sampler at chance."""
        line, objective = self.log[-1], self.pair.learners.objective
        # Of one image there is no spread.
        several = min(self.config.batch_size, len(self.view.unlabeled)) > 1
        found = [objective.collapse(line) if several else "", objective.chance(line["balanced_accuracy"])]
        return [problem for problem in found if problem]

    def judged(self, idx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(P,) logits of P(labelled) and (P,) entropies of the classifier, of the samples `idx` in the eval view."""
        parts = [self.pair.score_and_classify(self._images(batch)) for batch in self.view.loader(idx)]
        logits, probs = (torch.cat([part[number] for part in parts]).cpu().numpy() for number in range(2))
        return logits, entropy(probs)
