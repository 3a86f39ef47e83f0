"""How good a cycle's training is: scores on the test set and on held-out labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch

from usb_active.contracts.task import Task
from usb_active.errors import UsageError
from usb_active.loop.live_scores import LiveScores
from usb_active.pool.inference import evaluating


class Loaded(Protocol):
    """Batches that can be gone through again; `dataset` has as many entries as they have samples."""

    dataset: Any

    def __iter__(self) -> Iterator[Mapping[str, Any]]: ...


class Scores:
    """Owns what one cycle's training has scored: the last scores, and the best test score of the headline metric.

    Args:
        task: what scores are computed by.
        to_device: moves a batch's samples to the model.
        diverged: the error about logits that are not finite, from what is wrong with them.

    Attributes:
        last: by USB's names ("eval/top-1-acc"); empty until anything was evaluated.
        best_test: None without a test set.
        live: of the last evaluation, the live network's scores beside the EMA network's; None until then.
    """

    def __init__(self, task: Task, to_device: Callable[[Any], Any], diverged: Callable[[str], UsageError]):
        self.last: dict[str, float] = {}
        self.best_test: float | None = None
        self.live: LiveScores | None = None
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
            where = {"eval": "the test set", "labeled": "the labels trained on"}.get(split, f"the {split} set")
            raise self._diverged(f"the logits of {bad} of {len(logits)} samples of {where} are not finite")
        scores = {f"{split}/{name}": value for name, value in self._task.evaluate(logits, np.concatenate(targets)).items()}
        return {**scores, f"{split}/logits": logits} if return_logits else scores

    def compare(
        self, ema_model: torch.nn.Module, live_model: torch.nn.Module | None, batches: Loaded, split: str, scores: Mapping[str, float]
    ) -> dict[str, float]:
        """Remember how the live network does where the EMA network was scored, in one more pass.

        Args:
            live_model: None where it is the same network as the EMA model, to the last bit.
            scores: those of the EMA model on all splits; it is scored here where they have none of this one.

        Returns:
            The live network's scores, for logs ("live_eval/top-1-acc").

        Raises:
            UsageError: logits are not finite.
        """
        if not any(name.startswith(f"{split}/") for name in scores):
            scores = self.score(ema_model, batches, split)
        ema = _of_split(scores, split)
        live = ema if live_model is None else _of_split(self.score(live_model, batches, split), split)
        self.live = LiveScores(split, len(batches.dataset), ema, live)
        return {f"live_{split}/{name}": value for name, value in live.items()}

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
        live = {} if self.live is None else {"live": self.live.state_dict()}
        return {"evaluation": self.last, "best_test_accuracy": self.best_test, **live}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.last, self.best_test = state["evaluation"], state["best_test_accuracy"]
        # Checkpoints from before have none.
        self.live = LiveScores(**state["live"]) if "live" in state else None


def _of_split(scores: Mapping[str, float], split: str) -> dict[str, float]:
    return {name.removeprefix(f"{split}/"): value for name, value in scores.items() if name.startswith(f"{split}/")}
