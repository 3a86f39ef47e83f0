"""Small real runs for tests: digits, a tiny network, a dozen steps per cycle."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
# What the mixin is verified for.
ALGORITHMS = ("fixmatch", "flexmatch", "freematch", "softmatch", "uda", "adamatch", "pseudolabel", "mixmatch", "supervised")
# Those whose own weights are not for so small a training.
OWN_KEYS = {"remixmatch": {"kl_loss_ratio": 0.5, "rot_loss_ratio": 0.5}}


def settings(tmp_path: Path, name: str = "run", /, active: Mapping[str, Any] | None = None, **usb: Any) -> dict[str, Any]:
    """The YAML of a tiny run as a dict; `active` and `usb` are put over the defaults."""
    block = {
        "initial": {"name": "random", "size": 20},
        "acquisition": {"name": "margin"},
        "cycles": 1,
        "budget": 10,
        "threads": 1,
    }
    keys = {
        "algorithm": "flexmatch",
        "dataset": "digits",
        "net": {"name": "small_cnn", "width": 4},
        "save_dir": str(tmp_path),
        "save_name": name,
        "num_train_iter": 12,
        "num_eval_iter": 4,
        "num_log_iter": 4,
        "epoch": 2,
        "batch_size": 8,
        "uratio": 2,
        "eval_batch_size": 256,
        "lr": 0.05,
        "ema_m": 0.9,
        "num_workers": 0,
        "seed": 3,
    }
    return {**keys, **usb, "active": {**block, **(active or {})}}


def config_of(data: Mapping[str, Any]) -> Any:
    """The checked configuration of a dict."""
    from usb_active.config.settings import config_from_dict

    return config_from_dict(data, base=Path.cwd(), source="test.yaml")


def train(data: Mapping[str, Any]) -> Any:
    """Run an experiment in this process to its end; the algorithm, whose `session` is the run."""
    from usb_active.usb.launcher import make_algorithm

    torch.set_num_threads(1)
    algorithm = make_algorithm(config_of(data))
    algorithm.train()
    return algorithm


def train_and_cut(data: Mapping[str, Any], monkeypatch: Any) -> None:
    """A run that is interrupted at the seventh step of its second training."""
    from usb_active.usb.hooks import ActiveCheckpointHook

    plain = ActiveCheckpointHook.after_train_step

    def dies(self, algorithm):
        plain(self, algorithm)
        if algorithm.cycle == 1 and algorithm.it == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ActiveCheckpointHook, "after_train_step", dies)
        train(data)


def write_yaml(path: Path, data: Mapping[str, Any]) -> Path:
    """The dict as a YAML file."""
    path.write_text(yaml.safe_dump(dict(data)), encoding="utf-8")
    return path


def command(*arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess:
    """`usb-active` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "usb_active", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def checkpoint(run: Path, cycle: int) -> dict[str, Any]:
    """The last checkpoint of a cycle."""
    return torch.load(run / f"cycle_{cycle:03d}" / "latest_model.pth", map_location="cpu", weights_only=True)


def weights_equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether model and EMA model of two checkpoints are bit-identical."""
    return all(
        one[net].keys() == other[net].keys() and all(torch.equal(value, other[net][name]) for name, value in one[net].items())
        for net in ("model", "ema_model")
    )


def labels_of(run: Path) -> list[tuple[str, ...]]:
    """labels.csv without its times."""
    lines = (run / "labels.csv").read_text(encoding="utf-8").splitlines()
    return [tuple(line.split(",")[:6]) for line in lines]
