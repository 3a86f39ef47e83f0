"""ASSL's analyses of a training as a plugin. What they compute is in `analysis_functional`, how they are shown in `analysis_page`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from usb_active.plugins.assl import functional
from usb_active.plugins.assl.analysis_functional import VisitInstability
from usb_active.plugins.assl.analysis_page import page
from usb_active.plugins.assl.observations import pool_name, read_cycles, step_name, training_name

from usb_active import Analysis, PluginConfig, PoolView, RunRecord, TrainBatch, TrainingInfo, save_artifact
from usb_active.errors import errors_named

logger = logging.getLogger("usb_active")


class TemporalInstability(Analysis):
    """Temporal instability, rank correlation of uncertainty, and pseudo-labelled shares (§3.3 and §3.5: Figs. 3b and 4, Table 1).

    After every `interval` steps of a training (the untrained model is not observed) all unlabelled samples are predicted: by the EMA
    model on the plain view (ours; the paper does not say which model, nor which view). Kept of each sample, in `analysis/` of the
    run: the predicted label, the pseudo-EL2N (Eq. 1), and whether the largest probability is above `threshold`: 6 bytes per
    sample and observation (7 beyond 256 classes), and at most 24 bytes per sample and cycle for the rest. They are on disk at once, for
    all cycles, under `keep: last` too: 50,000 samples seen 10 times in each of 11 cycles are 46 MB.

    Meanwhile the training steps are watched: how often the predicted class changed between a sample's visits (another quantity
    than Eq. 2, and reported under its own name), and the moving averages with weight `alpha` by which Table 1 ranks. `watch`
    says what of it: `both` needs weak and strong views, `uncertainty` the weak one, `nothing` no view at all.
    """

    least_intervals = 2

    class Config(PluginConfig):
        interval: int = Field(5000, ge=1)
        threshold: float = Field(0.95, ge=0, lt=1)
        alpha: float = Field(0.8, gt=0, le=1)
        watch: Literal["both", "uncertainty", "nothing"] = "both"

    def __init__(self, config: PluginConfig | None = None):
        super().__init__(config)
        self._info: dict[str, int] = {}
        self._step = 0
        # By name of the score; with `visits`, what was watched of the training under way.
        self._watched: dict[str, functional.EmaUcb | VisitInstability] = {}

    @property
    def interval(self) -> int:
        return self.config.interval

    @property
    def batch_fields(self) -> frozenset[str]:
        fields = {"both": {"idx_ulb", "probs_weak", "logits_strong"}, "uncertainty": {"idx_ulb", "probs_weak"}, "nothing": set()}
        return frozenset(fields[self.config.watch])

    # ------------------------------------------------------------------------------------------ watching
    def setup(self, info: TrainingInfo) -> None:
        self._info = {"cycle": info.cycle, "num_samples": info.num_samples, "num_train_iter": info.num_train_iter}
        self._watched = self._fresh(info.num_samples, info.device)
        times = info.num_train_iter // self.interval
        if times < self.least_intervals:
            what = (self.name, info.cycle, info.num_train_iter, self.interval)
            logger.warning("analysis '%s': cycle %d trains %d steps: with interval %d there is nothing to compare", *what)

    def _fresh(self, num_samples: int, device: torch.device | str) -> dict[str, functional.EmaUcb | VisitInstability]:
        if self.config.watch == "nothing":
            return {}
        names = ("uncertainty", "inconsistency") if self.config.watch == "both" else ("uncertainty",)
        averages = {name: functional.EmaUcb(num_samples, self.config.alpha, device) for name in names}
        return {"visits": VisitInstability(num_samples, device), **averages}

    @torch.no_grad()
    def observe(self, batch: TrainBatch) -> None:
        self._step = batch.iteration + 1
        if not self._watched:
            return
        idx, probs = batch.idx_ulb, batch.probs_weak
        with errors_named(f"analysis '{self.name}'"):
            self._watched["visits"].update(idx, probs.argmax(dim=1))
            self._watched["uncertainty"].update(idx, functional.pseudo_el2n(probs, idx))
            if "inconsistency" in self._watched:
                self._watched["inconsistency"].update(idx, functional.symmetric_kl_from_logits(probs, batch.logits_strong, idx))

    def on_interval(self, view: PoolView) -> None:
        size = len(view.unlabeled)
        found = {
            "labels": np.empty(size, dtype=np.min_scalar_type(view.num_classes - 1)),
            "uncertainty": np.empty(size, dtype=np.float32),
            "confident": np.empty(size, dtype=bool),
        }
        start = 0
        with errors_named(f"analysis '{self.name}'"):
            for idx, values in view.predict(["probs"], view.unlabeled):
                probs, part = values["probs"][0], slice(start, start + len(idx))
                found["labels"][part] = probs.argmax(axis=1)
                found["uncertainty"][part] = functional.pseudo_el2n(probs, idx)
                found["confident"][part] = probs.max(axis=1) > self.config.threshold
                start += len(idx)
        # First what the observation refers to. Steps that are repeated after a kill write the same again.
        save_artifact(self.folder / pool_name(view.cycle), view.unlabeled)
        save_artifact(self.folder / step_name(view.cycle, self._step), found)

    def after_run(self, algorithm: Any) -> None:
        """The end of a cycle's training: what was watched of it goes to disk, and is no state any more."""
        found = {"num_train_iter": torch.tensor(self._info["num_train_iter"])}
        for name, watched in self._watched.items():
            found |= dict(watched.state_dict()) if name == "visits" else {name: watched.mean}
        found.pop("last", None)
        cycle = self._info["cycle"]
        save_artifact(self.folder / training_name(cycle), {name: value.cpu().numpy() for name, value in found.items()})
        self._watched = {}

    def state_dict(self) -> dict[str, Any]:
        return {name: dict(watched.state_dict()) for name, watched in self._watched.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        # Also before `setup`, in a process that begins between two trainings: there is nothing then.
        if not state:
            self._watched = {}
            return
        device = self._watched["visits"].last.device if self._watched else "cpu"
        self._watched = self._fresh(len(state["visits"]["last"]), device)
        for name, values in state.items():
            self._watched[name].load_state_dict(values)

    # ------------------------------------------------------------------------------------------ reporting
    def report(self, run: RunRecord, out: Path) -> str | None:
        cycles = read_cycles(self.folder, self.interval)
        return page(cycles, out, self.config) if cycles else None
