"""Small real runs for the suites of what takes part in a training: digits, a tiny network, a dozen steps per cycle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from usb_active.config.settings import config_from_dict
from usb_active.contracts.dataset import Dataset
from usb_active.loop.setup import build_parts
from usb_active.storage.checkpoint import read_checkpoint
from usb_active.storage.journal import read_journal
from usb_active.usb.launcher import make_algorithm

STEPS = 12


class TrainingStopped(Exception):
    """What ends a run in the middle of a training."""


@dataclass
class Trained:
    """A run that has ended, and what was seen of it: the loss of every step of this process."""

    path: Path
    algorithm: Any
    losses: list[float] = field(default_factory=list)


def settings(folder: Path, active: Mapping[str, Any], usb: Mapping[str, Any]) -> dict[str, Any]:
    """The YAML of a run of one training; a key that is None is left out."""
    block = {"initial": {"name": "file", "path": str(_initial(folder))}, "cycles": 0, "threads": 1, "keep": "all"}
    keys = {
        "algorithm": "supervised", "dataset": "digits", "net": {"name": "small_cnn", "width": 4},
        "save_dir": str(folder), "save_name": "run",
        "num_train_iter": STEPS, "num_eval_iter": 4, "num_log_iter": 4, "epoch": 2, "batch_size": 8, "uratio": 2, "eval_batch_size": 512,
        "lr": 0.05, "ema_m": 0.9, "num_workers": 0, "seed": 3,
    }  # fmt: skip
    given = {key: value for key, value in {**keys, **usb}.items() if value is not None}
    return {**given, "active": {**block, **active}}


def _initial(folder: Path) -> Path:
    """Labels of the first forty digits, right ones: a run need not name an acquisition that is installed."""
    from usb_active.builtin.array_datasets import Digits

    digits, path = Digits(), folder / "initial.csv"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{digits.keys[i]},{digits.class_names[digits.targets[i]]}\n" for i in range(40)]
    path.write_text("key,label\n" + "".join(rows), encoding="utf-8")
    return path


def train(data: Mapping[str, Any], stop_at: int | None = None, change: Callable[[Dataset], None] | None = None) -> Trained:
    """Run or resume an experiment in this process.

    Args:
        stop_at: the number of the step before which it ends with `TrainingStopped`.
        change: is given the data set before anything runs.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = config_from_dict(dict(data), base=Path.cwd(), source="contract")
    parts = build_parts(config)
    if change is not None:
        change(parts["dataset"])
    found = Trained(config.run_path, make_algorithm(config, parts))
    step = found.algorithm.train_step

    def seen(**inputs: Any) -> Any:
        if len(found.losses) == stop_at:
            raise TrainingStopped
        out, log = step(**inputs)
        found.losses.append(float(out["loss"]))
        return out, log

    found.algorithm.train_step = seen
    try:
        found.algorithm.train()
    finally:
        torch.set_num_threads(threads)
    return found


def labels_of(run: Path) -> list[tuple[int, str]]:
    """What the journal holds, in order."""
    return [(row.index, row.label) for row in read_journal(run / "labels.csv")]


def differing_weights(one: Path, other: Path) -> list[str]:
    """The weights of the last training, live and EMA, that are not bit-identical."""
    first, second = (read_checkpoint(run / "cycle_000" / "latest_model.pth") for run in (one, other))
    return [
        f"{net}.{name}" for net in ("model", "ema_model") for name, value in first[net].items() if not torch.equal(value, second[net][name])
    ]  # fmt: skip
