"""Algorithm 1: variational autoencoder, classifier and sampler trained together. An algorithm of USB's kind, in cycles (`active_assal`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from usb_active.plugins.assal.functional import check_weights
from usb_active.plugins.assal.learning import Codes, Learners, NotFinite, Objective, accuracy_of, code_state
from usb_active.plugins.assal.networks import ROTATIONS, Discriminator
from usb_active.plugins.assal.selection import keep_epochs

from usb_active import UsageError
from usb_active.usb.bases import AlgorithmBase, Argument, Hook, OwnAlgorithm

logger = logging.getLogger("usb_active")

SAMPLER = "sampler"
# What the artifact with the sampler's balanced accuracies begins with: the acquisition `assal` may train another one in the same cycle.
EPOCHS = "assal_training"
# What this algorithm's keys begin with.
PREFIX = "assal_"
# A sampler is called at chance by so many last steps of a training; by all of a shorter one.
JUDGED_STEPS = 100


class Assal(OwnAlgorithm, AlgorithmBase):
    """ASSAL, Algorithm 1: one step of encoder, generator and classifier on Eq. 6, then one of the sampler on Eq. 5.

    What the draft leaves open or prints wrongly, and what is done here: signs as in `functional`. The line "L^U_VAE by Eq. (3)" is L^U_C,
    and "L^URL_VAE by Eq. (4)" the adversarial loss. The sampler steps after the update, so that both pools are encoded again; it has an
    optimizer of its own (Adam, α2), is not averaged, and is outside the model. D = P(labelled), of μ: Algorithm 3 then chooses without
    noise. Eq. 4 moves the encoder alone. h_U is the number of quarter turns that the unlabelled image was turned by, on a head of its own;
    z of Eq. 1, 4 and 5 is that of the image as it was. α1 and its schedule are USB's `lr` and `optim`. Both pools are seen in the weak
    view, and no labelled image is in the unlabelled stream: the sampler would learn that.

    `assal_target: pseudo_label`: h_U is the class that the classifier gives μ, for samples where it is at least `assal_threshold` sure; the
    sum over these is divided by all unlabelled samples of the step. λ of zero leave a term out, which is then not computed; λ2 = λ3 = 0
    leave VAAL's autoencoder and sampler (and a classifier that learns nothing).
    USB's `ulb_loss_ratio`, `use_cat`, `p_cutoff` and the like have no part in it.
    """

    unlabeled_views = {"x_ulb_w": "weak"}
    batch_fields = frozenset({"idx_lb", "x_lb", "y_lb", "idx_ulb", "x_ulb_w", "feats"})
    include_labeled = False
    needs_network = ("encode", "decode", "rotation", "classifier", "num_features")

    def __init__(self, args: Any, net_builder: Callable, tb_log: Any = None, logger: Any = None, **keywords: Any):
        if not hasattr(self, "session"):
            reason = "USB's own loop keeps no sampler in its checkpoints"
            raise UsageError(f"algorithm 'assal': {reason}; use active_assal: `cycles: 0` in the block `active` is one training")
        super().__init__(args, net_builder, tb_log, logger, **keywords)
        self.objective = Objective.of(args, PREFIX)
        self.weights = self.objective.weights
        try:
            check_weights(self.weights)
        except ValueError as error:
            raise UsageError(f"algorithm 'assal': {error}") from error
        net = _unwrapped(self.model)
        self.sampler = self.register_state(
            SAMPLER, lambda: Discriminator(net.num_features, args.assal_sampler_width, args.assal_sampler_layers)
        )
        # A state like any other: one that is registered as an optimizer would step with the loss of the rest.
        self.sampler_optimizer = self.register_state(
            "sampler_optimizer", lambda: torch.optim.Adam(self.sampler.parameters(), lr=args.assal_sampler_lr)
        )
        # Of the epoch, and of each of the last steps (see `learning.sampler_counts`). In checkpoints, as is whether was warned.
        self.sampler_counts = torch.zeros(4, device=self.device)
        self.last_sampler_counts = torch.zeros(JUDGED_STEPS, 4, device=self.device)
        # Its balanced accuracy in the epochs of this training that are over.
        self.epoch_accuracies = torch.empty(0, dtype=torch.float64, device=self.device)
        self.warned_of_collapse = False
        self._seen: tuple[torch.Tensor, torch.Tensor] | None = None

    def set_hooks(self) -> None:
        super().set_hooks()
        self.register_hook(SamplerHook(), "SamplerHook", "VERY_HIGH")

    # ------------------------------------------------------------------------------------------ encoder, generator, classifier
    @property
    def learners(self) -> Learners:
        """Encoder, generator, classifier and sampler as they are now."""
        return Learners(_unwrapped(self.model), self.sampler, self.sampler_optimizer, self.objective, self.amp_cm)

    def train_step(self, x_lb: torch.Tensor, y_lb: torch.Tensor, x_ulb_w: torch.Tensor) -> tuple[dict, dict]:
        """The loss of Eq. 6; the sampler's step follows the update (`step_sampler`)."""
        turns = torch.randint(ROTATIONS, (len(x_ulb_w),), device=x_ulb_w.device)
        terms, labeled, unlabeled = self.learners.terms(x_lb, y_lb, x_ulb_w, turns)
        self._check_terms(terms)
        self._seen = x_lb, x_ulb_w
        feats = {"x_lb": labeled.mu, "x_ulb_w": unlabeled.mu}
        # Numbers alone where they are logged: the device has to be waited for.
        logged = self._logged(terms, unlabeled) if self._is_logged() else {}
        return self.process_out_dict(loss=self.objective.loss(terms), feat=feats), self.process_log_dict(**logged)

    def _check_terms(self, terms: Mapping[str, torch.Tensor]) -> None:
        with self._said_where():
            self.objective.check_terms(terms)

    @contextmanager
    def _said_where(self) -> Iterator[None]:
        """UsageError where a term that counts is not finite: the step, the term, and the last checkpoint."""
        try:
            yield
        except NotFinite as error:
            path = self.session.cycle_path / "latest_model.pth"
            kept = f"the last checkpoint is {path}" if path.exists() else "there is no checkpoint of this training yet"
            step = f"step {self.it + 1} of {self.num_train_iter} of cycle {self.cycle}"
            hint = "a smaller lr, or clip_grad, under another save_name may help"
            raise UsageError(f"algorithm 'assal': {step}: {error}; {kept}; {hint}") from error

    # ------------------------------------------------------------------------------------------ what is logged of the code
    def _is_logged(self) -> bool:
        """Whether what this step gives is logged: every `num_log_iter` and `num_eval_iter` steps, and at the last."""
        done = self.it + 1
        return done == self.num_train_iter or not done % self.num_log_iter or not done % self.num_eval_iter

    def _logged(self, terms: Mapping[str, torch.Tensor], unlabeled: Codes) -> dict[str, float]:
        values = {self.objective.term(key): term.item() for key, term in terms.items()}
        return {**values, **self._state_of_code(unlabeled), "sampler_accuracy": self.sampler_accuracy()}

    def _state_of_code(self, pool: Codes) -> dict[str, float]:
        """See `code_state`; a collapse is warned of, once."""
        values = code_state(pool)
        last = self.it + 1 == self.num_train_iter
        # What a network begins with is no collapse.
        late = self.it + 1 >= self.num_train_iter / 2 and (self.it + 1) % self.num_log_iter == 0
        problem = self.objective.collapse(values) if (last or late) and len(pool.mu) > 1 and not self.warned_of_collapse else ""
        if problem:
            self.warned_of_collapse = True
            logger.warning("assal: step %d: %s", self.it + 1, problem)
        return values

    # ------------------------------------------------------------------------------------------ the sampler
    def step_sampler(self) -> None:
        """Eq. 5 on a fresh encoding of the step's images, which learns nothing from it."""
        images, self._seen = self._seen, None
        with self._said_where():
            _, counts = self.learners.step_sampler(*images)
        self.sampler_counts = self.sampler_counts + counts
        self.last_sampler_counts[self.it % len(self.last_sampler_counts)] = counts

    def sampler_accuracy(self) -> float:
        """Balanced accuracy of the sampler over the epoch so far, on what it was about to learn; ½ is chance, and before its first step."""
        return accuracy_of(self.sampler_counts)

    def end_epoch(self) -> None:
        """Into metrics.jsonl, where the training's last epoch stays. After the last, all are kept as an artifact, and a sampler at chance
        is warned of where it chooses."""
        view, accuracy = self.session.algorithm_view(), self.sampler_accuracy()
        view.log("assal/sampler_accuracy", accuracy)
        self.epoch_accuracies = torch.cat([self.epoch_accuracies, self.epoch_accuracies.new_tensor([accuracy])])
        if self.it + 1 < self.num_train_iter:
            return
        # A training that was begun before they were kept lacks some.
        if len(self.epoch_accuracies) == self.epochs:
            keep_epochs(view, EPOCHS, self.epoch_accuracies.tolist())
        if not self._is_chosen_by():
            return
        problem = self.objective.chance(accuracy_of(self.last_sampler_counts.sum(dim=0)))
        if problem:
            logger.warning("assal: %s", problem)

    def _is_chosen_by(self) -> bool:
        """Whether the run's acquisition asks the sampler."""
        # Which imports this module.
        from usb_active.plugins.assal.acquisitions import AssalSampling

        return isinstance(self.session.plugins.get("acquisition"), AssalSampling)

    @staticmethod
    def get_argument() -> list[Argument]:
        weight, eq6 = "[0, inf)", Objective()
        return [
            Argument("--assal_lambda1", float, eq6.lambda1, "λ1, of the autoencoder's bound (Eq. 1)", valid=weight),
            Argument("--assal_lambda2", float, eq6.lambda2, "λ2, of the classifier on labels (Eq. 2)", valid=weight),
            Argument("--assal_lambda3", float, eq6.lambda3, "λ3, of the classifier on unlabelled samples (Eq. 3)", valid=weight),
            Argument("--assal_lambda4", float, eq6.lambda4, "λ4, of the adversarial loss (Eq. 4)", valid=weight),
            Argument("--assal_beta", float, eq6.beta, "the KL's weight in Eq. 2 and 3; 1 as printed, and the code collapses", valid=weight),
            Argument("--assal_scale", float, eq6.scale, "standard deviation of a pixel given its code", valid="(0, inf)"),
            Argument("--assal_target", str, eq6.target, "h_U, what is predicted of unlabelled samples", valid=("rotation", "pseudo_label")),
            Argument("--assal_threshold", float, eq6.threshold, "how sure the classifier is of a pseudo-label", valid="[0, 1]"),
            Argument("--assal_sampler_lr", float, 0.0005, "α2, the sampler's rate (Adam)", valid="(0, inf)"),
            Argument("--assal_sampler_width", int, 512, "units of its hidden layers", valid="[1, 65536]"),
            Argument("--assal_sampler_layers", int, 2, "how many hidden layers", valid="[0, 64]"),
        ]


class SamplerHook(Hook):
    """The sampler's turn, after the update of the rest and before anything is evaluated or kept."""

    def before_train_epoch(self, algorithm: Assal) -> None:
        if algorithm.it <= algorithm.epoch * algorithm.num_iter_per_epoch:
            algorithm.sampler_counts = torch.zeros_like(algorithm.sampler_counts)

    def after_train_step(self, algorithm: Assal) -> None:
        algorithm.step_sampler()
        done, last = algorithm.it + 1, algorithm.epoch + 1 >= algorithm.epochs
        # The last epoch takes the remainder.
        if done == (algorithm.num_train_iter if last else (algorithm.epoch + 1) * algorithm.num_iter_per_epoch):
            algorithm.end_epoch()


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network itself. Under DataParallel it works on one GPU: its methods, beside `forward`, are not spread.

    Raises:
        UsageError: DistributedDataParallel, which averages gradients in its `forward` alone, and not the sampler's.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise UsageError("algorithm 'assal': its gradients would not be averaged over processes (DistributedDataParallel); use one GPU")
    return model.module if isinstance(model, nn.DataParallel) else model
