"""USB hooks of the active algorithms: plugins as hooks, evaluation and checkpoints without USB's faults, progress."""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from semilearn.core.hooks import EvaluationHook, Hook

from usb_active.contracts.plugin import overrides
from usb_active.randomness import global_generators_kept, seeded_globals


class RegisteredState(Hook):
    """What was given to `register_state`: objects with a state dict, and optimizers that step with the loss."""

    def __init__(self, name: str = ""):
        self.name = name
        self.registered: dict[str, Any] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._scale = 1.0

    @property
    def title(self) -> str:
        """Whose it is, in the words of a YAML."""
        role = self.name.partition("/")[2]
        return role if role == "algorithm" else f"active.{role}"

    def before_train_step(self, algorithm: Any) -> None:
        # The scale under which this step's loss will be differentiated; ParamUpdateHook changes it afterwards. Asked only where
        # needed, because on a GPU the answer has to be waited for.
        self._scale = algorithm.loss_scaler.get_scale() if algorithm.use_amp and self.optimizers else 1.0

    def after_train_step(self, algorithm: Any) -> None:
        for optimizer in self.optimizers.values():
            step_scaled(optimizer, self._scale)


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


def step_scaled(optimizer: torch.optim.Optimizer, scale: float) -> None:
    """Step on gradients of a loss that was multiplied by `scale`; skipped, as mixed precision does, when one is not finite."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if scale != 1.0:
        for gradient in gradients:
            gradient.div_(scale)
    if scale == 1.0 or all(torch.isfinite(gradient).all() for gradient in gradients):
        optimizer.step()
    optimizer.zero_grad()


class IntervalHook(Hook):
    """Calls `on_interval` of the plugins; after USB's EMAHook, so that they see the EMA model of this step."""

    def after_train_step(self, algorithm: Any) -> None:
        for hook in [hook for hook in algorithm._hooks if isinstance(hook, PluginHook)]:
            hook.on_interval(algorithm)


class PriorUpdateHook(Hook):
    """Gives the prior its chance to be fitted anew between two steps."""

    def after_train_step(self, algorithm: Any) -> None:
        algorithm.session.update_prior(algorithm.it + 1)


class ActiveEvaluationHook(EvaluationHook):
    """Evaluates during training and remembers the best step; never loads a checkpoint into live weights, as USB's does.

    The best step is chosen on held-out labels when there are any, else on the test set (and is then reported as optimistic).
    """

    def after_train_step(self, algorithm: Any) -> None:
        due = self.every_n_iters(algorithm, algorithm.num_eval_iter) or self.is_last_iter(algorithm)
        # Before anything of this step is evaluated or kept, and before plugins look at the model.
        if due or self.every_n_iters(algorithm, algorithm.num_log_iter):
            algorithm.check_divergence(thoroughly=due)
        if not due:
            return
        scores = {}
        for split in ("eval", "validation"):
            if split in algorithm.loader_dict:
                scores.update(algorithm.evaluate(split))
        algorithm.log_dict.update(scores)
        algorithm.note_evaluation(scores)

    def after_run(self, algorithm: Any) -> None:
        """Nothing: the core evaluates the chosen checkpoint apart from the live model."""


class ActiveCheckpointHook(Hook):
    """Writes the latest and the best checkpoint of this cycle, after every other hook of the step has run."""

    def after_train_step(self, algorithm: Any) -> None:
        if self.every_n_iters(algorithm, algorithm.num_eval_iter) or self.is_last_iter(algorithm):
            folder = algorithm.session.cycle_path
            if algorithm.it == algorithm.best_it and algorithm.evaluation:
                algorithm.save_model("model_best.pth", folder)
            algorithm.session.save_prior_log()
            # The latest one last: a resumed run trusts that what it refers to is there.
            algorithm.save_model("latest_model.pth", folder)
            algorithm.session.forget_tables()


class ProgressHook(Hook):
    """A bar with the time left, on a terminal."""

    def __init__(self, title: str):
        self._title = title
        self._bar: Any = None

    def before_run(self, algorithm: Any) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=algorithm.num_train_iter, initial=min(algorithm.it, algorithm.num_train_iter), desc=self._title,
            unit="step", leave=False, disable=not sys.stderr.isatty(), file=sys.stderr,
        )  # fmt: skip

    def after_train_step(self, algorithm: Any) -> None:
        self._bar.update(1)

    def after_run(self, algorithm: Any) -> None:
        self.close()

    def close(self) -> None:
        """Clear the bar, also when training was interrupted."""
        if self._bar is not None:
            self._bar.close()
