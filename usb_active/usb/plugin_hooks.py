"""Plugins as hooks of USB: who watches a training, at which of its stages, and who adds to its loss."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from semilearn.core.hooks import Hook

from usb_active.contracts.acquisition import TrainBatch, TrainingInfo
from usb_active.contracts.plugin import overrides
from usb_active.errors import UsageError
from usb_active.randomness import global_generators_kept, seeded_globals
from usb_active.usb.registered import RegisteredState
from usb_active.usb.seams import check_fields, wanted_fields


class PluginHook(RegisteredState):
    """A plugin as a USB hook, registered as `active/<role>`; the stages that the plugin defines reach it.

    The global generators are as before after every call, so that a plugin may draw without changing the training.
    """

    def __init__(self, plugin: Any):
        super().__init__()
        self.plugin = plugin

    def defines(self, method: str) -> bool:
        """Whether the plugin has this optional method of its own."""
        return overrides(self.plugin, method)

    def observe(self, algorithm: Any, batch: Any) -> None:
        with global_generators_kept():
            self.plugin.observe(batch)

    def extra_loss(self, algorithm: Any, batch: Any) -> torch.Tensor | None:
        with global_generators_kept():
            return self.plugin.extra_loss(batch)

    def _forward(self, method: str, algorithm: Any, *values: Any) -> None:
        """Call a stage, if the plugin has it; what it draws depends on its position alone."""
        if self.defines(method):
            with seeded_globals(algorithm.session.seed, algorithm.cycle, self.name, method, algorithm.it):
                getattr(self.plugin, method)(*(values or (algorithm,)))

    def before_run(self, algorithm: Any) -> None:
        resumed = algorithm.it > 0
        state = copy.deepcopy(self.plugin.state_dict()) if resumed and self.defines("state_dict") else None
        self._forward("before_run", algorithm)
        if state is not None:
            # What the call does to the state was in the checkpoint already.
            self.plugin.load_state_dict(state)
        first = algorithm.epoch * algorithm.num_iter_per_epoch
        if resumed and (algorithm.it == first or algorithm.it >= algorithm.num_train_iter):
            # The checkpoint at an epoch's last step was written just before this call.
            algorithm.epoch -= 1
            self._forward("after_train_epoch", algorithm)
            algorithm.epoch += 1

    def before_train_epoch(self, algorithm: Any) -> None:
        # A checkpoint in the middle of an epoch was written after this call.
        if algorithm.it <= algorithm.epoch * algorithm.num_iter_per_epoch:
            self._forward("before_train_epoch", algorithm)

    def before_train_step(self, algorithm: Any) -> None:
        super().before_train_step(algorithm)
        self._forward("before_train_step", algorithm)

    def after_train_step(self, algorithm: Any) -> None:
        super().after_train_step(algorithm)
        self._forward("after_train_step", algorithm)

    def on_interval(self, algorithm: Any) -> None:
        """Every `interval` steps, with the pool and the EMA model of this moment."""
        interval = self.plugin.interval
        if interval and self.every_n_iters(algorithm, interval) and self.defines("on_interval"):
            self._forward("on_interval", algorithm, algorithm.session.interval_view(self.name.partition("/")[2]))

    def after_train_epoch(self, algorithm: Any) -> None:
        self._forward("after_train_epoch", algorithm)

    def after_run(self, algorithm: Any) -> None:
        self._forward("after_run", algorithm)


class IntervalHook(Hook):
    """Calls `on_interval` of the plugins; after USB's EMAHook, so that they see the EMA model of this step."""

    def after_train_step(self, algorithm: Any) -> None:
        for hook in [hook for hook in algorithm._hooks if isinstance(hook, PluginHook)]:
            hook.on_interval(algorithm)


class PluginHooks:
    """Owns the hooks of one cycle's training by which its plugins take part in it."""

    def __init__(self, plugins: Mapping[str, Any]):
        self.by_role = {role: PluginHook(plugin) for role, plugin in plugins.items()}
        self._observers = [hook for hook in self.by_role.values() if hook.defines("observe")]
        self._loss_adders = [hook for hook in self.by_role.values() if hook.defines("extra_loss")]

    @property
    def want_batches(self) -> bool:
        """Whether any plugin looks at steps."""
        return bool(self._observers or self._loss_adders)

    def register(self, register_hook: Callable[[Hook, str, str], None], algorithm: str, fields: frozenset[str]) -> None:
        """Give them to USB. UsageError when a plugin needs a field of a step that the algorithm does not have."""
        for role, hook in self.by_role.items():
            check_fields(f"active.{role}: '{hook.plugin.name}'", wanted_fields(hook.plugin), algorithm, fields)
            register_hook(hook, f"active/{role}", "VERY_HIGH")

    def set_up(self, info: Callable[[str], TrainingInfo], seed: int, cycle: int) -> None:
        """Call `setup` of each plugin that has one, with what it is told, which depends on its role."""
        for role, hook in self.by_role.items():
            if hook.defines("setup"):
                with seeded_globals(seed, cycle, role, "setup"):
                    hook.plugin.setup(info(role))

    def observe(self, algorithm: Any, batch: TrainBatch) -> None:
        """Show a step to those who watch."""
        for hook in self._observers:
            hook.observe(algorithm, batch)

    def extra_losses(self, algorithm: Any, batch: TrainBatch) -> Iterator[tuple[str, torch.Tensor]]:
        """What plugins add to the loss of a step, by the name of their hook. UsageError when it is no scalar."""
        for hook in self._loss_adders:
            extra = hook.extra_loss(algorithm, batch)
            if extra is None:
                continue
            if not isinstance(extra, torch.Tensor) or extra.ndim > 0:
                got = f"a tensor of shape {tuple(extra.shape)}" if isinstance(extra, torch.Tensor) else type(extra).__name__
                raise UsageError(f"{hook.title}: extra_loss must return a scalar tensor, got {got}")
            yield hook.name, extra
