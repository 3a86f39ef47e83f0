"""Baselines that train a part of their own beside the task model, as plugins."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from pydantic import Field, field_validator
from usb_active.plugins.baselines.inner_modules import default_modules, dims_of, inner_modules
from usb_active.plugins.baselines.learning_loss import LossHead, pairwise_ranking_loss

from usb_active import Acquisition, PluginConfig, PoolView, TrainBatch, TrainingInfo, UsageError, top_k
from usb_active.errors import errors_named, name_some
from usb_active.pool.inference import evaluating

HEAD = "head"


class LearningLoss(Acquisition):
    """Largest loss, as a module on the task model's inner layers predicts it (Yoo & Kweon 2019, "Learning Loss for Active Learning").

    The module learns with the task model, from the labelled samples of each step: `weight` times the ranking loss of their pairs (Eq. 2
    and 3) joins the loss. It starts over at every cycle's training. After the share `stop_at` of the steps its gradient no longer reaches
    the task model (120 of the paper's 200 epochs). Its optimizer is the paper's: SGD, whose rate is a tenth of `lr` after the share
    `decay_at` (160 of 200 epochs). `live`: the pool is looked at with the weights that are trained, which the module learned on; the EMA
    weights, which the paper does not have, are others.

    `subset`: so many candidates are drawn first, and the largest of these taken (the paper: 10,000 of 50,000, so that picks differ);
    at least the budget.

    Every batch needs two labelled samples. Algorithms whose labelled logits are those of mixtures are refused.
    """

    class Config(PluginConfig):
        modules: list[str] | None = Field(None, min_length=1)
        margin: float = Field(1.0, gt=0, allow_inf_nan=False)
        weight: float = Field(1.0, gt=0, allow_inf_nan=False)
        stop_at: float = Field(0.6, ge=0, le=1)
        width: int = Field(128, ge=1)
        lr: float = Field(0.1, gt=0, allow_inf_nan=False)
        decay_at: float = Field(0.8, ge=0, le=1)
        momentum: float = Field(0.9, ge=0, lt=1)
        weight_decay: float = Field(5e-4, ge=0, allow_inf_nan=False)
        live: bool = True
        subset: int | None = Field(None, ge=1)

        @field_validator("modules")
        @classmethod
        def _each_once(cls, names: list[str] | None) -> list[str] | None:
            twice = sorted({name for name in names or () if (names or []).count(name) > 1})
            if twice:
                raise ValueError(f"named twice: {name_some(twice)}")
            return names

    batch_fields = frozenset({"y_lb", "logits_lb"})

    # ------------------------------------------------------------------------------------------ learning
    def choose_hidden_modules(self, info: TrainingInfo) -> list[str]:
        return list(self.dims(info))

    def dims(self, info: TrainingInfo) -> dict[str, int]:
        """The modules of the network that are looked at, and how many channels each has. UsageError where that cannot be."""
        with errors_named(f"acquisition '{self.name}': modules"):
            found = inner_modules(info.net, info.in_channels, info.img_size)
            return dims_of(found, self.config.modules or default_modules(found))

    def setup(self, info: TrainingInfo) -> None:
        self._steps, dims = info.num_train_iter, self.dims(info)
        self._head: LossHead = info.register_state(HEAD, lambda: LossHead(dims, self.config.width), optimizer=self._make_optimizer)

    def _make_optimizer(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        config = self.config
        self._optimizer = torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
        return self._optimizer

    def extra_loss(self, batch: TrainBatch) -> torch.Tensor | None:
        """`weight` times the mean of Eq. 2 over the pairs of the labelled batch; None for a batch without a pair."""
        if len(batch.y_lb) < 2:
            if batch.iteration == 0:
                raise UsageError(f"acquisition '{self.name}': learns from pairs of labelled samples; batch_size must be at least 2")
            return None
        # By position, so that a resumed training has it without being told.
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.lr * (0.1 if batch.iteration >= self.config.decay_at * self._steps else 1.0)
        outputs = {name: batch.hidden["x_lb"][name] for name in self._head.names}
        if batch.iteration >= self.config.stop_at * self._steps:
            outputs = {name: output.detach() for name, output in outputs.items()}
        losses = torch.nn.functional.cross_entropy(batch.logits_lb.detach(), batch.y_lb, reduction="none")
        return self.config.weight * pairwise_ranking_loss(self._head(outputs), losses, self.config.margin)

    # ------------------------------------------------------------------------------------------ choosing
    def select(self, view: PoolView, budget: int) -> np.ndarray:
        head: LossHead = view.registered(HEAD).module
        candidates = view.candidates
        if self.config.subset is not None:
            size = min(max(self.config.subset, budget), len(candidates))
            candidates = np.sort(view.rng.choice(candidates, size=size, replace=False))
        stream = view.predict({"loss": head}, candidates, modules=head.names, live=self.config.live)
        with evaluating(head):
            scores = np.concatenate([values["loss"][0] for _, values in stream])
        view.log("learning_loss/mean_predicted", scores.mean())
        return top_k(scores, candidates, budget, view.rng)
