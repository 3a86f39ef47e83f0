"""Algorithm 1: variational autoencoder, classifier and sampler trained together. An algorithm of USB's kind, in cycles (`active_assal`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from usb_active.plugins.assal.functional import (
    BETA,
    Coded,
    adversarial_loss,
    check_weights,
    classifier_loss,
    discriminator_loss,
    gaussian_kl,
    representation_loss,
    rotated,
    sample_code,
    weighted_loss,
)
from usb_active.plugins.assal.networks import ROTATIONS, Discriminator

from usb_active import UsageError
from usb_active.usb.bases import AlgorithmBase, Argument, Hook, OwnAlgorithm

logger = logging.getLogger("usb_active")

SAMPLER = "sampler"
# A dimension of the code is in use where the variance of its mean over samples is above this (Burda et al. 2016).
ACTIVE_VARIANCE = 0.01
# Balanced accuracy of the sampler below which it is called at chance.
CHANCE = 0.55


class Assal(OwnAlgorithm, AlgorithmBase):
    """ASSAL, Algorithm 1: one step of encoder, generator and classifier on Eq. 6, then one of the sampler on Eq. 5.

    What the draft leaves open or prints wrongly, and what is done here: signs as in `functional`. The line "L^U_VAE by Eq. (3)" is L^U_C,
    and "L^URL_VAE by Eq. (4)" the adversarial loss. The sampler steps after the update, so that both pools are encoded again; it has an
    optimizer of its own (Adam, α2), is not averaged, and is outside the model. D = P(labelled), of μ: Algorithm 3 then chooses without
    noise. Eq. 4 moves the encoder alone. h_U is the number of quarter turns that the unlabelled image was turned by, on a head of its own;
    z of Eq. 1, 4 and 5 is that of the image as it was. α1 and its schedule are USB's `lr` and `optim`. Both pools are seen in the weak
    view, and no labelled image is in the unlabelled stream: the sampler would learn that.

    `assal_target: pseudo_label`: h_U is the class that the classifier gives μ, for samples where it is at least `assal_threshold` sure.
    λ of zero leave a term out; λ2 = λ3 = 0 leave VAAL's autoencoder and sampler (and a classifier that learns nothing).
    USB's `ulb_loss_ratio`, `use_cat`, `p_cutoff` and the like have no part in it.
    """

    unlabeled_views = {"x_ulb_w": "weak"}
    batch_fields = frozenset({"idx_lb", "x_lb", "y_lb", "idx_ulb", "x_ulb_w", "feats"})
    include_labeled = False
    needs_network = ("encode", "decode", "rotation")

    def __init__(self, args: Any, net_builder: Callable, tb_log: Any = None, logger: Any = None, **keywords: Any):
        if not hasattr(self, "session"):
            reason = "USB's own loop keeps no sampler in its checkpoints"
            raise UsageError(f"algorithm 'assal': {reason}; use active_assal: `cycles: 0` in the block `active` is one training")
        super().__init__(args, net_builder, tb_log, logger, **keywords)
        self.weights = {f"assal_lambda{number}": getattr(args, f"assal_lambda{number}") for number in range(1, 5)}
        try:
            check_weights(self.weights)
        except ValueError as error:
            raise UsageError(f"algorithm 'assal': {error}") from error
        if not len(self.dataset_dict["train_lb"]):
            raise UsageError("algorithm 'assal': no sample is labelled, and Algorithm 1 needs some; give `initial` a size of at least 1")
        net = _unwrapped(self.model)
        self.sampler = self.register_state(
            SAMPLER, lambda: Discriminator(net.num_features, args.assal_sampler_width, args.assal_sampler_layers)
        )
        # A state like any other: one that is registered as an optimizer would step with the loss of the rest.
        self.sampler_optimizer = self.register_state(
            "sampler_optimizer", lambda: torch.optim.Adam(self.sampler.parameters(), lr=args.assal_sampler_lr)
        )
        # Of the epoch: labelled samples that the sampler told right, all labelled ones; the same of unlabelled ones. In checkpoints.
        self.told = torch.zeros(4, device=self.device)
        self._seen: tuple[torch.Tensor, torch.Tensor] | None = None
        self._warned = False

    def set_hooks(self) -> None:
        super().set_hooks()
        self.register_hook(SamplerHook(), "SamplerHook", "VERY_HIGH")

    # ------------------------------------------------------------------------------------------ encoder, generator, classifier
    def train_step(self, x_lb: torch.Tensor, y_lb: torch.Tensor, x_ulb_w: torch.Tensor) -> tuple[dict, dict]:
        """The loss of Eq. 6; the sampler's step follows the update (`step_sampler`)."""
        net, sizes = _unwrapped(self.model), (len(x_lb), len(x_ulb_w))
        turns = torch.randint(ROTATIONS, (len(x_ulb_w),), device=x_ulb_w.device)
        turn = self.args.assal_target == "rotation" and self.weights["assal_lambda3"] > 0
        images = torch.cat([x_lb, x_ulb_w, *([rotated(x_ulb_w, turns)] if turn else [])])
        with self.amp_cm():
            mu, log_var = (part.float() for part in net.encode(images))
            z = sample_code(mu, log_var, torch.randn_like(mu))
            pools = slice(0, sum(sizes))
            reconstruction = net.decode(z[pools]).float()
        parts = [part.split(sizes) for part in (images[pools], reconstruction, mu[pools], log_var[pools])]
        labeled, unlabeled = (Coded(*(part[number] for part in parts)) for number in range(2))
        with self.amp_cm():
            logits_lb = net.classifier(z[: len(x_lb)]).float()
            turned = net.rotation(z[sum(sizes) :]).float() if turn else None
        beta = self.args.assal_beta
        terms = {
            "assal_lambda1": representation_loss(labeled, unlabeled, self.args.assal_scale),
            "assal_lambda2": classifier_loss(logits_lb, y_lb, labeled.mu, labeled.log_var, beta),
            "assal_lambda3": (
                classifier_loss(turned, turns, mu[sum(sizes) :], log_var[sum(sizes) :], beta) if turn
                else self._pseudo_label_loss(net, z[len(x_lb) : sum(sizes)], unlabeled)
            ),
            "assal_lambda4": self._adversarial_loss(labeled.mu, unlabeled.mu),
        }  # fmt: skip
        self._check_terms(terms)
        self._seen = x_lb, x_ulb_w
        feats = {"x_lb": labeled.mu, "x_ulb_w": unlabeled.mu}
        values = {_TERMS[name]: term.item() for name, term in terms.items()}
        return self.process_out_dict(loss=weighted_loss(self.weights, terms), feat=feats), self.process_log_dict(
            **values, **self._state_of_code(unlabeled), sampler_accuracy=self.sampler_accuracy()
        )

    def _pseudo_label_loss(self, net: nn.Module, z: torch.Tensor, pool: Coded) -> torch.Tensor:
        with torch.no_grad():
            sure, classes = net.classifier(pool.mu).float().softmax(dim=1).max(dim=1)
        rows = sure >= self.args.assal_threshold
        return classifier_loss(net.classifier(z[rows]).float(), classes[rows], pool.mu[rows], pool.log_var[rows], self.args.assal_beta)

    def _adversarial_loss(self, labeled: torch.Tensor, unlabeled: torch.Tensor) -> torch.Tensor:
        with frozen(self.sampler):
            return adversarial_loss(self.sampler(labeled), self.sampler(unlabeled))

    def _check_terms(self, terms: Mapping[str, torch.Tensor]) -> None:
        """UsageError where a term that counts is not finite: the step, the term, and the last checkpoint."""
        for name, term in terms.items():
            if self.weights[name] and not torch.isfinite(term):
                self._refuse(_TERMS[name], f"of {name} ", term.item())

    def _refuse(self, term: str, where: str, value: float) -> None:
        path = self.session.cycle_path / "latest_model.pth"
        kept = f"the last checkpoint is {path}" if path.exists() else "there is no checkpoint of this training yet"
        step = f"step {self.it + 1} of {self.num_train_iter} of cycle {self.cycle}"
        hint = "a smaller lr, or clip_grad, under another save_name may help"
        raise UsageError(f"algorithm 'assal': {step}: the term '{term}' {where}is not finite ({value}); {kept}; {hint}")

    # ------------------------------------------------------------------------------------------ what is logged of the code
    def _state_of_code(self, pool: Coded) -> dict[str, float]:
        """KL of a sample, the code's spread (standard deviation of μ over samples, averaged over d), how many of d are in use."""
        variance = pool.mu.detach().var(dim=0, correction=0)
        values = {"kl": gaussian_kl(pool.mu.detach(), pool.log_var.detach()).mean().item()}
        values |= {"spread": variance.sqrt().mean().item(), "active_dims": float((variance > ACTIVE_VARIANCE).sum())}
        last = self.it + 1 == self.num_train_iter
        # What a network begins with is no collapse.
        late = self.it + 1 >= self.num_train_iter / 2 and (self.it + 1) % self.num_log_iter == 0
        if (last or late) and values["active_dims"] == 0 and len(pool.mu) > 1 and not self._warned:
            self._warned = True
            cure = "a smaller assal_beta or assal_lambda1, or a smaller assal_scale, may help"
            found = f"spread {values['spread']:.3g}, KL {values['kl']:.3g}"
            logger.warning("assal: step %d: the code has collapsed (%s): it is the same for all images; %s", self.it + 1, found, cure)
        return values

    # ------------------------------------------------------------------------------------------ the sampler
    def step_sampler(self) -> None:
        """Eq. 5 on a fresh encoding of the step's images, which learns nothing from it."""
        (x_lb, x_ulb), self._seen = self._seen, None
        with torch.no_grad(), self.amp_cm():
            codes = _unwrapped(self.model).encode(torch.cat([x_lb, x_ulb]))[0].float()
        labeled, unlabeled = self.sampler(codes).split([len(x_lb), len(x_ulb)])
        loss = discriminator_loss(labeled, unlabeled)
        if not torch.isfinite(loss):
            self._refuse("sampler", "", loss.item())
        self.sampler_optimizer.zero_grad()
        loss.backward()
        self.sampler_optimizer.step()
        self.sampler_optimizer.zero_grad()
        right = [(labeled > 0).sum(), torch.tensor(len(labeled)), (unlabeled <= 0).sum(), torch.tensor(len(unlabeled))]
        self.told = self.told + torch.stack([number.to(self.told) for number in right])

    def sampler_accuracy(self) -> float:
        """Balanced accuracy of the sampler over the epoch so far, on what it was about to learn; ½ is chance, and before its first step."""
        right_l, labeled, right_u, unlabeled = self.told.tolist()
        return 0.5 * (right_l / labeled + right_u / unlabeled) if labeled and unlabeled else 0.5

    def end_epoch(self) -> None:
        """Into metrics.jsonl, where the training's last epoch stays; a sampler at chance is warned of there."""
        accuracy = self.sampler_accuracy()
        self.session.algorithm_view().log("assal/sampler_accuracy", accuracy)
        if self.it + 1 == self.num_train_iter and accuracy < CHANCE:
            cure = "a smaller assal_lambda4 or a larger assal_sampler_lr may help, or a shorter training: this is also its equilibrium"
            logger.warning("assal: the sampler's balanced accuracy is %.3f, near chance: it chooses almost at random; %s", accuracy, cure)

    @staticmethod
    def get_argument() -> list[Argument]:
        weight = "[0, inf)"
        return [
            Argument("--assal_lambda1", float, 0.01, "λ1, of the autoencoder's bound (Eq. 1)", valid=weight),
            Argument("--assal_lambda2", float, 1.0, "λ2, of the classifier on labels (Eq. 2)", valid=weight),
            Argument("--assal_lambda3", float, 1.0, "λ3, of the classifier on unlabelled samples (Eq. 3)", valid=weight),
            Argument("--assal_lambda4", float, 0.1, "λ4, of the adversarial loss (Eq. 4)", valid=weight),
            Argument("--assal_beta", float, BETA, "weight of the KL in Eq. 2 and 3; 1 as printed, which trains to chance", valid=weight),
            Argument("--assal_scale", float, 1.0, "standard deviation of a pixel given its code", valid="(0, inf)"),
            Argument("--assal_target", str, "rotation", "h_U, what is predicted of unlabelled samples", valid=("rotation", "pseudo_label")),
            Argument("--assal_threshold", float, 0.95, "how sure the classifier is of a pseudo-label", valid="[0, 1]"),
            Argument("--assal_sampler_lr", float, 0.0005, "α2, the sampler's rate (Adam)", valid="(0, inf)"),
            Argument("--assal_sampler_width", int, 512, "units of its hidden layers", valid="[1, inf)"),
            Argument("--assal_sampler_layers", int, 2, "how many hidden layers", valid="[0, inf)"),
        ]


_TERMS = {
    "assal_lambda1": "representation_loss", "assal_lambda2": "labeled_loss",
    "assal_lambda3": "unlabeled_loss", "assal_lambda4": "adversarial_loss",
}  # fmt: skip


class SamplerHook(Hook):
    """The sampler's turn, after the update of the rest and before anything is evaluated or kept."""

    def before_train_epoch(self, algorithm: Assal) -> None:
        if algorithm.it <= algorithm.epoch * algorithm.num_iter_per_epoch:
            algorithm.told = torch.zeros_like(algorithm.told)

    def after_train_step(self, algorithm: Assal) -> None:
        algorithm.step_sampler()
        if (algorithm.it + 1) % algorithm.num_iter_per_epoch == 0 or algorithm.it + 1 == algorithm.num_train_iter:
            algorithm.end_epoch()


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


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)) else model
