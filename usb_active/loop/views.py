"""What methods look at the pool through, and where they log."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.loop.initial_weights import InitialWeights
from usb_active.loop.ledger import Ledger
from usb_active.loop.previous_features import PreviousFeatures
from usb_active.loop.setup import Components
from usb_active.pool.view import PoolView, ViewSource, check_finite_rows

if TYPE_CHECKING:
    from usb_active.loop.trainer import Trainer


class PoolViews:
    """Makes a run's views of the pool.

    Attributes:
        logged: what plugins logged since it was last cleared.
        has_model: whether the trainer's networks are those of a training of this run: not before the first has begun.
    """

    def __init__(self, parts: Components, ledger: Ledger, trainer: Trainer, weights: InitialWeights, previous: PreviousFeatures):
        self._parts, self._ledger, self._trainer, self._weights, self._previous = parts, ledger, trainer, weights, previous
        self.logged: dict[str, float] = {}
        self.has_model = False

    def source(self) -> ViewSource:
        """What views are made from at this moment."""
        parts, trainer, usb = self._parts, self._trainer, self._parts.config.usb
        return ViewSource(
            dataset=parts.dataset, inputs=parts.inputs,
            pool=self._ledger.pool, run_path=parts.run_dir.path, seed=usb["seed"], device=trainer.device,
            model=lambda: trainer.ema_model if self.has_model else None, batch_size=usb["eval_batch_size"],
            num_workers=usb["num_workers"], simulated=parts.oracle.simulated, pretrained_features=self._pretrained_features,
            metrics=self.logged, pretrained_modules=self._weights.modules,
            held_out=self._ledger.held_out(), live_model=lambda: trainer.model if self.has_model else None,
            registered=trainer.registered, previous_features=lambda cycle: self._previous.before(cycle, len(parts.dataset)),
        )  # fmt: skip

    def _pretrained_features(self) -> np.ndarray | None:
        return self._weights.features(self.source())

    def of_inputs(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """For `train_on: features`: those (N, D) of the pool, (T, D) of the test samples, and the mean (D,) that the run began with."""
        source = self._parts.features["algorithm"]
        view = PoolView(self.source(), 0, "inputs", frozenset({"features"}), source).of_images()
        pool, test = view.features, None
        if view.dataset.test is not None:
            test = source.test(view)
            check_finite_rows(f"features: '{source.name}': of test samples", test)
        return pool, test, view.artifact("inputs_mean", lambda: pool.mean(axis=0, dtype=np.float64).astype(np.float32))

    def of(self, role: str, cycle: int, stage: str = "", **given: Any) -> PoolView:
        """The pool for the plugin of a role. Held-out labels are hidden from all plugins but acquisitions.

        Args:
            role: of `active`, or "initial".
            cycle: the number of the query that is being made.
            stage: sets apart the randomness of several calls in one cycle.
            given: fields of the ViewSource to override.
        """
        plugin = self._parts.initial_labels if role == "initial" and self._parts.initial_labels else self._parts.plugins[role]
        return PoolView(replace(self.source(), **given), cycle, f"{role}{stage}", plugin.needs, self._parts.features[role])

    def of_algorithm(self, cycle: int, needs: frozenset[str] = frozenset()) -> PoolView:
        """The pool for the algorithm itself, at any stage of a training."""
        return PoolView(self.source(), cycle, f"algorithm@{self._trainer.it}", needs, self._parts.features["algorithm"])

    def model_features(self, cycle: int, samples: int | None) -> np.ndarray:
        """(M, D) features of the first `samples` samples by the model in memory, which belongs to this cycle."""
        view = PoolView(self.source(), cycle, "previous_features", frozenset(), None)
        return view.model_pass(["features"], first=samples)["features"]
