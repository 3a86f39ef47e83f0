"""`active.compile`: steps and scoring by code that torch compiles, with checkpoints, names and resumed runs as ever."""

from __future__ import annotations

import logging
import os
import shutil

import numpy as np
import pytest
import torch
from run_helpers import checkpoint, command, labels_of, settings, train, weights_equal, write_yaml
from torch._dynamo.utils import counters

from usb_active.errors import UsageError
from usb_active.pool import compiled
from usb_active.usb.hooks import ActiveCheckpointHook

COMPILE = {"compile": True}


def test_without_a_compiler_there_is_no_run(tmp_path, monkeypatch):
    def cannot(device):
        raise UsageError("active.compile: torch cannot compile here")

    from usb_active.commands.run import check_all
    from usb_active.usb import algorithm

    monkeypatch.setattr(algorithm, "check_compiler", cannot)
    from run_helpers import config_of

    with pytest.raises(UsageError, match="active.compile: torch cannot compile here"):
        check_all(config_of(settings(tmp_path, active=COMPILE)))
    assert not (tmp_path / "run").exists()


def test_a_plugin_that_looks_inside_keeps_the_steps_as_they_are(tmp_path, monkeypatch, caplog):
    """The learning loss looks at modules in every step; hooks inside of compiled code would not be called."""
    asked = []
    monkeypatch.setattr("usb_active.usb.algorithm.check_compiler", lambda device: None)
    monkeypatch.setattr("usb_active.usb.algorithm.compile_forward", asked.append)
    with caplog.at_level(logging.WARNING, "usb_active"):
        algorithm = train(settings(tmp_path, active={**COMPILE, "acquisition": {"name": "learning_loss"}}))
    lines = [record.getMessage() for record in caplog.records if "steps are not compiled" in record.getMessage()]
    assert len(lines) == 1 and lines[0].startswith("active.compile: steps are not compiled, because a plugin looks at modules in them: ")
    assert asked and all(network is algorithm.ema_model for network in asked)


needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="there is no C++ compiler")


@needs_compiler
@pytest.mark.slow
def test_a_compiled_run_is_killed_and_resumed_and_is_the_plain_one_but_for_rounding(tmp_path, monkeypatch):
    def of(name, **active):
        return settings(tmp_path, name, active={"acquisition": {"name": "random"}, **active})

    counters.clear()
    whole = train(of("whole", **COMPILE))
    # Steps; and whole batches of the pool, of which random asks none.
    assert counters["frames"]["ok"] >= 1
    probs = whole.session.views.of("acquisition", 1).model_pass(["probs"])["probs"]
    assert np.allclose(probs.sum(axis=1), 1, atol=1e-5)
    plain = ActiveCheckpointHook.after_train_step

    def dies(self, algorithm):
        plain(self, algorithm)
        if algorithm.cycle == 1 and algorithm.it == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ActiveCheckpointHook, "after_train_step", dies)
        train(of("cut", **COMPILE))
    # Nothing of what was compiled is kept in this process.
    torch._dynamo.reset()
    train(of("cut", **COMPILE))
    assert weights_equal(checkpoint(tmp_path / "cut", 1), checkpoint(tmp_path / "whole", 1))
    assert labels_of(tmp_path / "cut") == labels_of(tmp_path / "whole")
    train(of("plain"))
    ends = [checkpoint(tmp_path / name, 1)["model"] for name in ("plain", "whole")]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.allclose(value.float(), ends[1][name].float(), rtol=1e-2, atol=1e-3) for name, value in ends[0].items())


@needs_compiler
@pytest.mark.slow
def test_check_says_that_there_is_no_compiler(tmp_path):
    yaml = write_yaml(tmp_path / "run.yaml", settings(tmp_path, active=COMPILE))
    # What torch has compiled before it would take from its cache.
    none = {"CXX": "/nowhere/g++", "PATH": os.path.dirname(os.__file__), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    ended = command("check", yaml, env=none)
    (line,) = [line for line in ended.stderr.splitlines() if "active.compile" in line]
    assert ended.returncode == 2 and "torch cannot compile here, for which it needs a C++ compiler (g++)" in line
    assert not (tmp_path / "run").exists()
    assert compiled.MOST_SHAPES > 8
