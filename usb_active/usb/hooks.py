"""USB hooks of the active algorithms: evaluation and checkpoints without USB's faults, the prior's turn, progress."""

from __future__ import annotations

import sys
from typing import Any

from semilearn.core.hooks import EvaluationHook, Hook


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
