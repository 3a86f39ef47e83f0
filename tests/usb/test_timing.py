"""A short training says how long a unit takes, leaves nothing behind, and is broken off where it takes too long."""

from __future__ import annotations

import logging
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from image_makers import write_drawings

from usb_active.errors import UsageError
from usb_active.usb import timing

pytestmark = pytest.mark.slow


def data(folder, algorithm="supervised", **keys):
    rest = {"batch_size": 8, "eval_batch_size": 64, "ema_m": 0.0, "num_workers": 0, "img_size": 8, **keys}
    active = {"initial": {"name": "random", "size": 6}, "acquisition": "random", "cycles": 3, "budget": 5, "threads": 1}
    names = {"name": "image_folder", "class_names": ["a, b", '"c"', "3"], "in_channels": 1}
    net = {"name": "small_cnn", "width": 2}
    return {"algorithm": algorithm, "dataset": names, "data_dir": str(folder), "net": net, **rest, "active": active}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Images, a working directory and a place for temporary files, both empty."""
    for name in ("here", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return write_drawings(tmp_path / "bars", unlabeled=60)


def test_steps(folder, tmp_path):
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    handlers = list(logging.getLogger("usb_active").handlers)
    seen = timing.time_training(data(folder), Path(), "num_train_iter", 12, labels=7)
    assert seen.is_whole and seen.steps == 1 and 0 < seen.unit < 5 and seen.end > 0
    assert seen.training(100, 4) == pytest.approx(100 * seen.unit + 4 * seen.end)
    assert not list((tmp_path / "here").iterdir()) and not list((tmp_path / "temporary").iterdir())
    assert logging.getLogger("usb_active").handlers == handlers
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[:2] and torch.equal(torch.get_rng_state(), before[2])


def test_epochs_of_an_algorithm_that_plans_its_steps(folder):
    keys = {"lp_labeled": 2, "lp_supervised_epochs": 1, "lp_k": 3, "lp_epoch": 0.5, "include_lb_to_ulb": False}
    seen = timing.time_training(data(folder, "lp", **keys), Path(), "epoch", 3, labels=6)
    # Half of the 54 without a label are drawn, 6 a step: 4.5 steps, rounded up.
    assert seen.is_whole and seen.steps == 5


def test_what_takes_too_long_is_broken_off_and_still_says_something(folder, tmp_path):
    seen = timing.time_training(data(folder), Path(), "num_train_iter", 100_000, labels=6, limit=0.5)
    assert not seen.is_whole and 0 < seen.unit < 0.5 and seen.end == 0
    assert not list((tmp_path / "temporary").iterdir())


def test_what_a_run_refuses_is_refused(folder):
    with pytest.raises(UsageError, match="lp_labeled: 8 of a batch_size of 8"):
        timing.time_training(data(folder, "lp", lp_labeled=8, lp_supervised_epochs=1), Path(), "epoch", 2, labels=6)


def test_a_unit_is_the_last_epoch_with_what_comes_between():
    # Epochs of two steps, a second each; before the second and the third epoch 10 seconds pass.
    starts = [0, 1, 12, 13, 24, 25]
    assert timing._timing(starts, 26.5, 2.0, True) == timing.Timing(unit=12, steps=2.0, end=1.5, is_whole=True)
    # Broken off in the second epoch: its first step is all that is known of it.
    assert timing._timing([0, 1, 12], 12, 2.0, False).unit == 12
    # Single steps, of which the first quarter also loads and compiles.
    assert timing._timing([0, 9, 10, 11, 12, 13, 14, 15], 15.5, 1.0, True) == timing.Timing(1.0, 1.0, 0.5, True)
