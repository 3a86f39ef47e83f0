"""Plugins that read a file: a prior table, initial weights, labels that exist already."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch

from usb_active.acquisition import Acquisition
from usb_active.artifacts import load_array
from usb_active.checkpoint import read_checkpoint
from usb_active.errors import UsageError, name_some, nearest
from usb_active.plugin import PluginConfig
from usb_active.pretraining import Pretrained, Pretrainer
from usb_active.prior import Prior, PriorTable
from usb_active.view import PoolView


class FilePrior(Prior):
    """A table (N, C) on disk, as `.npy`, in dataset order."""

    class Config(PluginConfig):
        path: Path

    def fit(self, view: PoolView, when: str) -> PriorTable | None:
        if when != "start":
            return None
        table = load_array(self.config.path)
        if table.shape != (len(view), view.num_classes):
            raise UsageError(f"prior: file: {self.config.path}: expected {(len(view), view.num_classes)}, got {table.shape}")
        return PriorTable(table)


class FilePretrainer(Pretrainer):
    """Initial weights from a checkpoint, read in torch's safe mode: USB's (its EMA model), or a plain state dict."""

    class Config(PluginConfig):
        path: Path

    def run(self, build_net, dataset, scratch, rng, device) -> Pretrained:
        state = read_checkpoint(self.config.path)
        for name in ("ema_model", "model", "state_dict"):
            if isinstance(state.get(name), dict):
                state = state[name]
                break
        if not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise UsageError(f"pretrain: file: {self.config.path}: holds no state dict of a network")
        return Pretrained({name.removeprefix("module."): value for name, value in state.items()})


class KnownLabels(Acquisition):
    """Starts from the labels that the data set itself brings (class folders); nobody is asked."""

    def known_labels(self, view: PoolView) -> tuple[np.ndarray, np.ndarray]:
        targets = np.asarray(view.dataset.targets)
        idx = np.flatnonzero((targets >= 0) & view.dataset.queryable)
        if len(idx) == 0:
            raise UsageError("initial: known: the data set brings no labels")
        return idx, targets[idx]


class FileLabels(Acquisition):
    """Starts from labels that exist already: a CSV with the columns `key` (or `index`) and `label`; nobody is asked."""

    class Config(PluginConfig):
        path: Path

    def known_labels(self, view: PoolView) -> tuple[np.ndarray, np.ndarray]:
        return read_labels(self.config.path, view.dataset.keys, view.dataset.class_names)


def read_labels(path: Path, keys, class_names) -> tuple[np.ndarray, np.ndarray]:
    """(P,) dataset indices and (P,) class indices of a CSV; the last row of a sample counts; skipped ones are left out.

    Raises:
        UsageError: no such file or columns, an unknown key, index or class: file, row and value.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as CSV ({error})") from None
    columns = set(reader.fieldnames or ())
    if "label" not in columns or not columns & {"key", "index"}:
        raise UsageError(f"{path}: needs the columns 'label' and 'key' (or 'index'), has {name_some(sorted(columns)) or 'none'}")
    positions = {key: index for index, key in enumerate(keys)}
    classes = {name: label for label, name in enumerate(class_names)}
    found: dict[int, int] = {}
    for line, row in rows:
        index = _index(f"{path}:{line}", row, positions, len(keys))
        if row.get("status") == "skipped" or not row["label"]:
            found.pop(index, None)
            continue
        if row["label"] not in classes:
            raise UsageError(f"{path}:{line}: unknown class '{row['label']}'{nearest(row['label'], classes)}")
        found[index] = classes[row["label"]]
    if not found:
        raise UsageError(f"{path}: holds no label")
    return np.array(list(found), dtype=np.int64), np.array(list(found.values()), dtype=np.int64)


def _index(where: str, row: dict[str, str], positions: dict[str, int], size: int) -> int:
    if row.get("key"):
        if row["key"] not in positions:
            raise UsageError(f"{where}: no sample has the key '{row['key']}'{nearest(row['key'], list(positions)[:1000])}")
        return positions[row["key"]]
    text = row.get("index") or ""
    if not text.isdigit() or int(text) >= size:
        raise UsageError(f"{where}: no sample has the index '{text}'; valid: 0 to {size - 1}")
    return int(text)
