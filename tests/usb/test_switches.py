"""What a YAML switches on and off without changing a method: fast hooks, threads, determinism, the progress bar, TensorBoard."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import sys
from types import SimpleNamespace

import pytest
import tqdm.std
from run_helpers import checkpoint, command, config_of, labels_of, settings, train, weights_equal, write_yaml
from semilearn.algorithms.flexmatch.utils import FlexMatchThresholdingHook
from semilearn.core.hooks import EMAHook

from usb_active.usb.device import configure_torch
from usb_active.usb.fast_hooks import FastEMAHook, FastFlexMatchThresholdingHook
from usb_active.usb.hooks import ProgressHook
from usb_active.usb.launcher import make_algorithm


# ---------------------------------------------------------------------------------------------- fast_hooks
def test_without_fast_hooks_usbs_own_give_the_same_weights(tmp_path):
    # Many unlabelled samples pass, so that thresholds move.
    run = lambda name, fast: train(settings(tmp_path, name, active={"fast_hooks": fast}, p_cutoff=0.12))  # noqa: E731 — called twice
    fast, usb = run("fast", True), run("usb", False)
    hooks = lambda algorithm: [type(algorithm.hooks_dict[name]) for name in ("MaskingHook", "EMAHook")]  # noqa: E731 — called twice
    assert hooks(fast) == [FastFlexMatchThresholdingHook, FastEMAHook]
    assert hooks(usb) == [FlexMatchThresholdingHook, EMAHook]
    assert usb.hooks_dict["MaskingHook"].classwise_acc.max() > 0
    assert weights_equal(checkpoint(tmp_path / "fast", 1), checkpoint(tmp_path / "usb", 1))
    assert labels_of(tmp_path / "fast") == labels_of(tmp_path / "usb")


# ---------------------------------------------------------------------------------------------- threads, deterministic
def active_of(tmp_path, **block):
    return config_of(settings(tmp_path, active=block)).active


def test_threads_are_set_or_left_to_torch(tmp_path, torch_settings):
    torch = torch_settings
    torch.set_num_threads(3)
    configure_torch(active_of(tmp_path, threads=None))
    assert torch.get_num_threads() == 3
    configure_torch(active_of(tmp_path, threads=2))
    assert torch.get_num_threads() == 2


def test_determinism_is_switched_on_only_where_it_is_asked_for(tmp_path, torch_settings):
    torch = torch_settings
    torch.backends.cudnn.benchmark = True
    configure_torch(active_of(tmp_path))
    assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.benchmark
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    configure_torch(active_of(tmp_path, deterministic=True))
    assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_workspace_that_the_user_chose_is_kept(tmp_path, torch_settings):
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
    configure_torch(active_of(tmp_path, deterministic=True))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_run_trains_under_its_settings_and_deterministic_changes_no_bit_here(tmp_path, torch_settings):
    torch = torch_settings
    train(settings(tmp_path, "plain", active={"cycles": 0}))
    assert not torch.are_deterministic_algorithms_enabled()
    train(settings(tmp_path, "deterministic", active={"cycles": 0, "deterministic": True}))
    assert torch.are_deterministic_algorithms_enabled()
    assert weights_equal(checkpoint(tmp_path / "plain", 0), checkpoint(tmp_path / "deterministic", 0))


# ---------------------------------------------------------------------------------------------- the progress bar
class Screen(io.StringIO):
    """A standard error that is a terminal, or none."""

    def __init__(self, terminal=True):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    @property
    def frames(self):
        """What could be seen, one after the other; a bar draws over itself."""
        return self.getvalue().split("\r")[1:]


def show_on(screen, monkeypatch):
    """Make it the standard error, with a second between any two looks at the clock, so that no frame is left out.

    To be called by the test itself: between a fixture and its test, pytest puts its own in the place.
    """
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(tqdm.std, "time", itertools.count(1000.0).__next__)
    return screen


def test_the_bar_shows_the_steps_and_the_time_left(monkeypatch):
    screen = show_on(Screen(), monkeypatch)
    hook, algorithm = ProgressHook("cycle 2/5"), SimpleNamespace(num_train_iter=10, it=4)
    hook.before_run(algorithm)
    assert "4/10" in screen.frames[-1]
    for step in (5, 6, 7):
        hook.after_train_step(algorithm)
        assert re.search(rf"^cycle 2/5: +\d+%.* {step}/10 \[00:\d\d<00:\d\d, ", screen.frames[-1]), screen.frames[-1]
    hook.after_run(algorithm)
    assert screen.frames[-2].strip() == screen.frames[-1] == ""


def test_a_bar_is_closed_at_the_end_of_a_cycle_and_when_a_step_fails(tmp_path, monkeypatch):
    screen = show_on(Screen(), monkeypatch)
    algorithm = make_algorithm(config_of(settings(tmp_path)))
    step = algorithm.train_step

    def train_step(**inputs):
        if (algorithm.cycle, algorithm.it) == (1, 5):
            raise RuntimeError("out of luck")
        return step(**inputs)

    # USB looks at the signature of what it calls.
    algorithm.train_step = train_step
    with pytest.raises(RuntimeError, match="out of luck"):
        algorithm.train()
    shown = [match.groups() for match in map(re.compile(r"cycle (\d)/1: .* (\d+)/12 \[").match, screen.frames) if match]
    assert list(dict.fromkeys(shown)) == [("0", str(n)) for n in range(13)] + [("1", str(n)) for n in range(6)]
    assert screen.frames[-2].strip() == screen.frames[-1] == ""
    # What is closed draws no more.
    before = screen.getvalue()
    algorithm._progress.after_train_step(algorithm)
    assert screen.getvalue() == before


def test_without_a_terminal_there_is_no_bar(monkeypatch):
    pipe = show_on(Screen(terminal=False), monkeypatch)
    hook, algorithm = ProgressHook("cycle 0/1"), SimpleNamespace(num_train_iter=3, it=0)
    hook.before_run(algorithm)
    for _ in range(3):
        hook.after_train_step(algorithm)
    hook.after_run(algorithm)
    assert pipe.getvalue() == ""


# ---------------------------------------------------------------------------------------------- TensorBoard
@pytest.mark.slow
def test_tensorboard_has_scores_over_labels_and_steps_that_go_on(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    yaml = write_yaml(tmp_path / "run.yaml", settings(tmp_path, use_tensorboard=True))
    # A process of its own: what is not written when it ends is lost.
    ended = command("run", yaml)
    assert ended.returncode == 0, ended
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    read = lambda tag: [(event.step, event.value) for event in events.Scalars(tag)]  # noqa: E731 — called for every tag
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert read("cycle/accuracy") == [(20, pytest.approx(records[0]["accuracy"])), (30, pytest.approx(records[1]["accuracy"]))]
    assert read("cycle/class_count/3") == [(record["num_labels"], record["class_counts"][3]) for record in records]
    steps = [step for step, _ in read("eval/top-1-acc")]
    assert steps == sorted(set(steps)) and len(steps) == 6 and steps[2] < 12 <= steps[3] < steps[5] <= 24
