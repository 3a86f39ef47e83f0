"""How good a cycle's training is: scores on the test set and on held-out labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from usb_active.contracts.task import Task
from usb_active.errors import UsageError
from usb_active.pool.inference import evaluating


class Scores:
    """Owns what one cycle's training has scored: the last scores, and the best test score of the headline metric.

    Args:
        task: what scores are computed by.
        to_device: moves a batch's samples to the model.
        diverged: the error about logits that are not finite, from what is wrong with them.

    Attributes:
        last: by USB's names ("eval/top-1-acc"); empty until anything was evaluated.
        best_test: None without a test set.
    """

    def __init__(self, task: Task, to_device: Callable[[Any], Any], diverged: Callable[[str], UsageError]):
        self.last: dict[str, float] = {}
        self.best_test: float | None = None
        self._task, self._to_device, self._diverged = task, to_device, diverged

    @torch.no_grad()
    def score(
        self, model: torch.nn.Module, batches: Iterable[Mapping[str, Any]], split: str, out_key: str = "logits", return_logits: bool = False
    ) -> dict[str, Any]:
        """Scores of a model on the batches of a split ("eval", "validation").

        Raises:
            UsageError: its logits are not finite.
        """
        logits, targets = [], []
        with evaluating(model):
            for batch in batches:
                logits.append(model(self._to_device(batch["x_lb"]))[out_key].float().cpu().numpy())
                targets.append(batch["y_lb"].numpy())
        logits = np.concatenate(logits)
        bad = int((~np.isfinite(logits)).reshape(len(logits), -1).any(axis=1).sum())
        if bad:
            where = {"eval": "the test set"}.get(split, f"the {split} set")
            raise self._diverged(f"the logits of {bad} of {len(logits)} samples of {where} are not finite")
        scores = {f"{split}/{name}": value for name, value in self._task.evaluate(logits, np.concatenate(targets)).items()}
        return {**scores, f"{split}/logits": logits} if return_logits else scores

    def note(self, scores: Mapping[str, float], step: int, best: tuple[float, int]) -> tuple[float, int]:
        """Remember the scores of a step.

        Args:
            best: the score and the number of the best step so far, which USB keeps.

        Returns:
            The same after this step. It is chosen on held-out labels if there are any, else on the test set.
        """
        if not scores:
            return best
        self.last, metric = dict(scores), self._task.metric
        test = scores.get(f"eval/{metric.score}")
        if test is not None and (self.best_test is None or metric.is_better(test, self.best_test)):
            self.best_test = test
        chosen_on = scores.get(f"validation/{metric.score}", test)
        # The first evaluation counts even at accuracy zero.
        return (chosen_on, step) if metric.is_better(chosen_on, best[0]) or best == (0.0, 0) else best

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        # Called so since version 0.1.0, whatever the metric.
        return {"evaluation": self.last, "best_test_accuracy": self.best_test}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.last, self.best_test = state["evaluation"], state["best_test_accuracy"]
