"""Plugins as hooks of USB: which watch a training, at which of its stages, and which add to its loss."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch

from usb_active.contracts.acquisition import TrainBatch, TrainingInfo
from usb_active.contracts.plugin import overrides
from usb_active.errors import UsageError
from usb_active.randomness import global_generators_kept, seeded_globals
from usb_active.usb.registered import RegisteredState
from usb_active.usb.seams import check_fields, wanted_fields
from usb_active.usb.training import Training


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

    @property
    def hidden_modules(self) -> list[str]:
        """Names of the network's modules whose outputs plugins look at."""
        return list(dict.fromkeys(name for hook in self.by_role.values() for name in hook.plugin.hidden_modules))

    def modules_to_capture(self, training: Training) -> list[str]:
        """As `hidden_modules`, with the names that plugins choose by the network of this training."""
        names = list(self.hidden_modules)
        for role, hook in self.by_role.items():
            if hook.defines("choose_hidden_modules"):
                with seeded_globals(training.session.seed, training.cycle, role, "choose_hidden_modules"):
                    names += hook.plugin.choose_hidden_modules(training_info(training, _too_early))
        return list(dict.fromkeys(names))

    def check_fields(self, algorithm: str, fields: frozenset[str], mixing: bool = False) -> None:
        """UsageError when a plugin needs a field of a step that the algorithm, which may be one that `mixes`, does not have."""
        for role, hook in self.by_role.items():
            check_fields(f"active.{role}: '{hook.plugin.name}'", wanted_fields(hook.plugin), algorithm, fields, mixing)

    def set_up(self, training: Training, registrar: Callable[[str], Callable[..., Any]]) -> None:
        """Call `setup` of each plugin that has one; `registrar` gives each role a `register_state` of its own."""
        for role, hook in self.by_role.items():
            if hook.defines("setup"):
                with seeded_globals(training.session.seed, training.cycle, role, "setup"):
                    hook.plugin.setup(training_info(training, registrar(role)))

    def show(self, algorithm: Any, batch: TrainBatch, out_dict: dict[str, Any], log_dict: dict[str, Any]) -> bool:
        """Show a step to the plugins that watch, and add to its loss, and to the log, what others give: whether the loss has changed.

        Raises:
            UsageError: what is added is no scalar.
        """
        added = False
        for hook in self._observers:
            hook.observe(algorithm, batch)
        for hook in self._loss_adders:
            extra = hook.extra_loss(algorithm, batch)
            if extra is None:
                continue
            if not isinstance(extra, torch.Tensor) or extra.ndim > 0:
                got = f"a tensor of shape {tuple(extra.shape)}" if isinstance(extra, torch.Tensor) else type(extra).__name__
                raise UsageError(f"{hook.title}: extra_loss must return a scalar tensor, got {got}")
            out_dict["loss"] = out_dict["loss"] + extra
            log_dict[f"train/{hook.name}_loss"] = float(extra.detach())
            added = True
        return added


def _too_early(name: str, *arguments: Any, **keywords: Any) -> Any:
    raise UsageError(f"register_state: '{name}': only `setup` can register")


def training_info(training: Training, register_state: Callable[..., Any]) -> TrainingInfo:
    """What a plugin is told of the training that begins."""
    dataset = training.session.inputs
    return TrainingInfo(
        num_samples=len(dataset), num_classes=len(dataset.class_names), img_size=dataset.img_size, in_channels=dataset.in_channels,
        feature_dim=getattr(training.model, "num_features", None), device=training.device, cycle=training.cycle,
        num_train_iter=training.num_train_iter, net=training.model, register_state=register_state,
    )  # fmt: skip
