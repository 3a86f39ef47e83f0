"""Plugins that read a file: a prior table, initial weights, labels that exist already."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from usb_active.builtin.label_file import read_known_labels
from usb_active.contracts.initial_labels import InitialLabels
from usb_active.contracts.plugin import PluginConfig
from usb_active.contracts.pretrainer import Pretrained, Pretrainer
from usb_active.contracts.prior import Prior, PriorTable
from usb_active.errors import UsageError
from usb_active.pool.view import PoolView
from usb_active.storage.artifacts import load_array
from usb_active.storage.checkpoint import read_weights


class FilePrior(Prior):
    """A table (N, C) on disk, as `.npy`, in dataset order."""

    class Config(PluginConfig):
        path: Path

    def check(self, num_samples: int, num_classes: int) -> None:
        self._read(num_samples, num_classes)

    def fit(self, view: PoolView, when: str) -> PriorTable | None:
        return PriorTable(self._read(len(view), view.num_classes)) if when == "start" else None

    def _read(self, num_samples: int, num_classes: int) -> np.ndarray:
        table = load_array(self.config.path)
        if table.shape != (num_samples, num_classes):
            raise UsageError(f"prior: file: {self.config.path}: expected {(num_samples, num_classes)}, got {table.shape}")
        return table


class FilePretrainer(Pretrainer):
    """Initial weights from a checkpoint, read in torch's safe mode: USB's (its EMA model), or a plain state dict."""

    class Config(PluginConfig):
        path: Path

    def check(self, num_samples: int, num_classes: int) -> None:
        read_weights(self.config.path, "pretrain: file")

    def run(self, build_net, dataset, scratch, rng, device) -> Pretrained:
        return Pretrained(read_weights(self.config.path, "pretrain: file"))


class KnownLabels(InitialLabels):
    """Starts from the labels that the data set itself brings (class folders), without a query."""

    def known_labels(self, view: PoolView) -> tuple[np.ndarray, np.ndarray]:
        targets = np.asarray(view.dataset.targets)
        idx = np.flatnonzero((targets >= 0) & view.dataset.queryable)
        if len(idx) == 0:
            raise UsageError("initial: known: the data set brings no labels")
        return idx, targets[idx]


class FileLabels(InitialLabels):
    """Starts from labels that exist already: a CSV with the columns `key` (or `index`) and `label`, without a query."""

    class Config(PluginConfig):
        path: Path

    def known_labels(self, view: PoolView) -> tuple[np.ndarray, np.ndarray]:
        found = read_known_labels(self.config.path, view.dataset.keys, view.dataset.task)
        return np.array(list(found), dtype=np.int64), np.array(list(found.values()), dtype=np.int64)
