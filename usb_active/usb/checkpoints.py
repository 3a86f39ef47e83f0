"""Checkpoints of a cycle: what they hold beside USB's part, and how a training resumes from one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from usb_active.errors import UsageError
from usb_active.pool.divergence import Divergence
from usb_active.storage.checkpoint import must_fit, read_cycle_checkpoint
from usb_active.usb.registered import Registrations
from usb_active.usb.scoring import Scores
from usb_active.usb.state import algorithm_state, load_algorithm_state
from usb_active.usb.stopwatch import Stopwatch
from usb_active.usb.training import Training

logger = logging.getLogger("usb_active")


class CycleCheckpoints:
    """Owns the format of one cycle's checkpoints, and the algorithm's numbers as its constructor left them.

    Everything else belongs to the owners given here and to the training, which say and take their states themselves.
    """

    def __init__(self, cycle: int, registrations: Registrations, scores: Scores, divergence: Divergence, stopwatch: Stopwatch):
        self._cycle = cycle
        self._registrations, self._scores, self._divergence, self._stopwatch = registrations, scores, divergence, stopwatch
        self._constructed: dict[str, Any] = {}

    def begin(self, training: Training) -> None:
        """The algorithm is built: of its numbers, those that differ from now on are state."""
        self._constructed = algorithm_state(training)

    def beside_usb(self, training: Training) -> dict[str, Any]:
        """What a checkpoint holds beside USB's `get_save_dict`: whose it is, and under "active" what a resumed run needs."""
        session = training.session
        return {
            **session.owner(self._cycle).stamp(),
            "best_eval_acc": float(training.best_eval_acc),
            "active": {
                "cycle": self._cycle,
                "device": training.device.type,
                "algorithm": algorithm_state(training, self._constructed),
                "plugins": session.states.collect(),
                **self._registrations.state_dict(),
                **self._scores.state_dict(),
                **session.guidance.state_dict(),
                "elapsed": self._stopwatch.seconds,
                "elapsed_cpu": self._stopwatch.cpu_seconds,
                "log": dict(session.logged),
            },
        }

    def load(self, training: Training, path: Path) -> dict[str, Any]:
        """Resume a training from a checkpoint of this cycle, and return what it holds.

        Raises:
            UsageError: missing, damaged, of another run, cycle, algorithm or network, or of a training that had diverged.
        """
        checkpoint = read_cycle_checkpoint(path, training.session.owner(self._cycle))
        with must_fit(path, "weights"):
            training.model.load_state_dict(checkpoint["model"])
            training.ema_model.load_state_dict(checkpoint["ema_model"])
        found = self._divergence.nonfinite()
        if found:
            raise UsageError(f"{path}: {found}: the training had diverged; {self._divergence.advice}")
        with must_fit(path, "optimizer and schedule"):
            # Empty when it was written without mixed precision on a GPU.
            if checkpoint["loss_scaler"]:
                training.loss_scaler.load_state_dict(checkpoint["loss_scaler"])
            training.optimizer.load_state_dict(checkpoint["optimizer"])
            if training.scheduler is not None:
                training.scheduler.load_state_dict(checkpoint["scheduler"])
        training.it, training.best_it, training.best_eval_acc = (checkpoint[name] for name in ("it", "best_it", "best_eval_acc"))
        self._load_active(training, checkpoint["active"])
        return checkpoint

    def _load_active(self, training: Training, state: Mapping[str, Any]) -> None:
        if state["device"] != training.device.type:
            devices = training.device.type, state["device"]
            logger.warning("resuming on %s (previously %s): results are no longer bit-identical", *devices)
        load_algorithm_state(training, state["algorithm"])
        training.session.states.give(state["plugins"])
        self._registrations.load_state_dict(state)
        self._scores.load_state_dict(state)
        training.session.load_guidance(state)
        training.session.logged.update(state["log"])
        # Checkpoints from before say no CPU seconds.
        self._stopwatch.set(state["elapsed"], state.get("elapsed_cpu"))
