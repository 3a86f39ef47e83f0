"""What may watch a training: acquisitions, priors and analyses. All of it is optional; the core calls what a class defines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from usb_active.contracts.plugin import Plugin, optional

if TYPE_CHECKING:
    import torch

    from usb_active.contracts.acquisition import TrainBatch, TrainingInfo
    from usb_active.pool.view import PoolView


class Observer(Plugin):
    """Watches trainings. The instance lives for the whole run.

    Besides its own methods it may define those named as USB's hook stages, from `before_run` to `after_run`, called with the
    algorithm. A process that resumes from a checkpoint calls `setup`, loads the state, calls `before_run`, and then only what had not
    been called yet. The global generators are as before after every call, so that a plugin may draw without changing the training;
    what it draws depends on its position alone.
    """

    # Fields of TrainBatch without which `observe`, `extra_loss` make no sense; an algorithm that lacks one is refused.
    batch_fields: frozenset[str] = frozenset()
    # Names of modules of the network (as in `named_modules`) whose outputs `batch.hidden` shall carry.
    hidden_modules: tuple[str, ...] = ()
    # Steps between two calls of `on_interval`; None: never.
    interval: int | None = None

    @property
    def needs(self) -> frozenset[str]:
        """What a view must hold: a subset of {"features", "probs", "truth", "head", "labels"}. May depend on the config."""
        return frozenset()

    @optional
    def choose_hidden_modules(self, info: TrainingInfo) -> Sequence[str]:
        """In place of `hidden_modules`, where they depend on the network that is trained, `info.net`.

        Called when a training is built, before `setup`, and so by `check` and before a run's first query: a UsageError is in time.
        Nothing can be registered yet.
        """
        return self.hidden_modules

    @optional
    def setup(self, info: TrainingInfo) -> None:
        """At the start of every cycle's training: make fresh state."""

    @optional
    def observe(self, batch: TrainBatch) -> None:
        """At every training step, after the forward pass and before the update. Never changes the training."""

    @optional
    def on_interval(self, view: PoolView) -> None:
        """Every `interval` steps, with the pool and the EMA model of that moment."""

    @optional
    def before_run(self, algorithm: Any) -> None:
        """USB's stage: a training begins, or a process resumes one."""

    @optional
    def before_train_epoch(self, algorithm: Any) -> None:
        """USB's stage: an epoch begins."""

    @optional
    def before_train_step(self, algorithm: Any) -> None:
        """USB's stage: before a step's forward pass."""

    @optional
    def after_train_step(self, algorithm: Any) -> None:
        """USB's stage: after a step's update."""

    @optional
    def after_train_epoch(self, algorithm: Any) -> None:
        """USB's stage: an epoch has ended."""

    @optional
    def after_run(self, algorithm: Any) -> None:
        """USB's stage: a training has ended."""

    @optional
    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold of this plugin: tensors, numbers, strings and containers of them."""
        return {}

    @optional
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""


class Contributor(Observer):
    """An observer that may take part in the training as well."""

    # True or False where the method demands that labelled samples are (not) in the unlabelled stream.
    include_labeled: bool | None = None

    @optional
    def extra_loss(self, batch: TrainBatch) -> torch.Tensor | None:
        """A scalar that is added to the loss before the update; None for a step without."""
