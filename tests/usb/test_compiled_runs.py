"""`active.compile`: steps and scoring by code that torch compiles, with checkpoints, names and resumed runs as ever."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from run_helpers import checkpoint, command, labels_of, settings, train, train_and_cut, weights_equal, write_yaml

from usb_active.errors import UsageError

COMPILE = {"compile": True}
PLUGINS = [str(Path(__file__).resolve().parents[1] / name) for name in ("seam_plugins.py", "contract_plugins.py")]


class Calls(list):
    """Compiled calls, as (network, whether it trains, length of the batch)."""

    def of(self, network, training):
        return [length for called, trains, length in self if called is network and trains is training]


def counted(monkeypatch, compiled):
    """The calls of what `compiled` makes of a network."""
    calls = Calls()

    def compile(module, **how):
        inner = compiled(module, **how)

        def call(*given, **named):
            calls.append((module, module.training, len(given[0])))
            return inner(*given, **named)

        module._compiled_call_impl = call

    monkeypatch.setattr(torch.nn.Module, "compile", compile)
    return calls


@pytest.fixture
def calls(monkeypatch):
    """Of networks that compute what torch would compile, on a machine that needs no compiler."""
    monkeypatch.setattr("usb_active.usb.algorithm.check_compiler", lambda device: None)
    return counted(monkeypatch, lambda module, **how: module._call_impl)


def said_of_steps(caplog):
    return [record.getMessage() for record in caplog.records if "steps are not compiled" in record.getMessage()]


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


def test_steps_and_whole_batches_of_the_pool_are_compiled(tmp_path, calls, caplog):
    algorithm = train(settings(tmp_path, active=COMPILE, eval_batch_size=64))
    # 12 steps of two cycles, each one pass of labelled images and both views; evaluations are not.
    assert calls.of(algorithm.model, True) == [8 + 2 * 16] * 24
    scored = calls.of(algorithm.ema_model, False)
    assert scored and set(scored) == {64} and len(scored) + 24 == len(calls)
    assert said_of_steps(caplog) == []


def test_a_plugin_that_looks_inside_keeps_the_steps_as_they_are(tmp_path, calls, caplog):
    """The learning loss looks at modules in every step; hooks inside of compiled code would not be called."""
    with caplog.at_level(logging.WARNING, "usb_active"):
        train(settings(tmp_path, active={**COMPILE, "acquisition": {"name": "learning_loss"}}))
    lines = said_of_steps(caplog)
    assert len(lines) == 1 and lines[0].startswith("active.compile: steps are not compiled, because a plugin looks at modules in them: ")
    assert not any(trains for _, trains, _ in calls)


def test_a_plugin_that_begins_to_look_inside_ends_the_compiled_steps(tmp_path, calls, caplog, monkeypatch):
    from usb_active.usb.plugin_hooks import PluginHooks

    monkeypatch.setattr(PluginHooks, "modules_to_capture", lambda self, training: ["stem.conv"] if training.cycle else [])
    with caplog.at_level(logging.WARNING, "usb_active"):
        algorithm = train(settings(tmp_path, active=COMPILE))
    assert len(calls.of(algorithm.model, True)) == 12
    assert said_of_steps(caplog) == ["active.compile: steps are not compiled, because a plugin looks at modules in them: stem.conv"]


def test_batches_of_any_length_are_not_compiled(tmp_path, calls, caplog):
    with caplog.at_level(logging.WARNING, "usb_active"):
        algorithm = train(settings(tmp_path, active=COMPILE, algorithm="growing", plugins=PLUGINS, eval_batch_size=64))
    reason = "batches of 'growing' may be of any length, and each length would be compiled by itself"
    assert said_of_steps(caplog) == [f"active.compile: steps are not compiled, because {reason}"]
    assert set(calls.of(algorithm.ema_model, False)) == {64} and not any(trains for _, trains, _ in calls)


needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="there is no C++ compiler")


@needs_compiler
@pytest.mark.slow
def test_a_compiled_run_is_killed_and_resumed_and_is_the_plain_one_but_for_rounding(tmp_path, monkeypatch):
    def of(name, **active):
        return settings(tmp_path, name, active={"acquisition": {"name": "random"}, **active})

    with monkeypatch.context() as patch:
        calls = counted(patch, lambda module, **how: torch.compile(module._call_impl, **how))
        whole = train(of("whole", **COMPILE))
        assert len(calls.of(whole.model, True)) == 24 and not calls.of(whole.ema_model, False)
        # Whole batches of the pool, of which random asks none.
        probs = whole.session.views.of("acquisition", 1).model_pass(["probs"])["probs"]
        assert set(calls.of(whole.ema_model, False)) == {256}
    assert np.allclose(probs.sum(axis=1), 1, atol=1e-5)
    networks = [weakref.ref(network) for network in (whole.model, whole.ema_model)]
    calls.clear()
    del whole
    gc.collect()
    assert [network() for network in networks] == [None, None]
    train_and_cut(of("cut", **COMPILE), monkeypatch)
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
