"""USB hooks of the active algorithms: evaluation and checkpoints without USB's faults, the prior's turn, progress."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from semilearn.core.hooks import EvaluationHook, Hook

from usb_active.usb.device import remove_hook, replace_hook
from usb_active.usb.plugin_hooks import PluginHook


class IntervalHook(Hook):
    """Calls `on_interval` of the plugins; after USB's EMAHook, so that they see the EMA model of this step."""

    def after_train_step(self, algorithm: Any) -> None:
        for hook in [hook for hook in algorithm._hooks if isinstance(hook, PluginHook)]:
            hook.on_interval(algorithm)


class PriorUpdateHook(Hook):
    """Gives the prior its chance to be fitted again between two steps."""

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
        algorithm.settle_ema()
        scores = {}
        for split in ("eval", "validation"):
            if split in algorithm.loader_dict:
                scores.update(algorithm.evaluate(split))
        algorithm.log_dict.update({**scores, **algorithm.score_live(scores)})
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


def register_hooks(algorithm: Any, plugins: Mapping[str, Hook], own: Hook, progress: ProgressHook) -> None:
    """The hooks of an active training, in the order in which they must come, into USB's.

    Args:
        plugins: role → hook.
        own: of what the algorithm itself registered.
    """
    replace_hook(algorithm, ActiveEvaluationHook(), "EvaluationHook", "HIGH")
    # Its samplers are seeded by the epoch alone; ours need no telling.
    remove_hook(algorithm, "DistSamplerSeedHook")
    for role, hook in plugins.items():
        algorithm.register_hook(hook, f"active/{role}", "VERY_HIGH")
    algorithm.register_hook(own, own.name, "VERY_HIGH")
    algorithm.register_hook(progress, "active/progress", "LOWEST")
    algorithm.register_hook(IntervalHook(), "active/interval", "LOW")
    algorithm.register_hook(PriorUpdateHook(), "active/prior_update", "LOW")
    replace_hook(algorithm, ActiveCheckpointHook(), "CheckpointHook", "LOWEST")
