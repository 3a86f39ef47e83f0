"""Killed anywhere, a run that is given again ends as if nothing had happened: same labels, same weights bit for bit."""

from __future__ import annotations

import shutil

import killer
import pytest
import run_helpers
import torch
from killer import KILLED, assert_same_end, directory, finish, run, settings

from usb_active.errors import UsageError
from usb_active.loop.plugin_states import PluginStates

pytestmark = pytest.mark.slow

# In the order in which a run comes to them.
POINTS = (
    "first_labels", "done", "predict", "select", "before_query", "query", "in_labels", "labels", "start",
    "train_early", "epoch_end", "checkpoint", "train", "training_end", "before_done", "last_done",
)  # fmt: skip
# Three epochs do not divide 13 steps: the last epoch takes the remainder.
UNEVEN = {"num_train_iter": 13, "epoch": 3, "num_eval_iter": 5}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return killer.References(tmp_path_factory.mktemp("references"))


def kill_and_finish(data, *points):
    """The directory of a run that was killed at these points, one after the other, and then finished."""
    for point in points:
        ended = run(data, point)
        assert ended.code == KILLED, (point, ended)
    return finish(data)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point(tmp_path, reference, point):
    assert_same_end(kill_and_finish(settings(tmp_path), point), reference())


def test_killed_at_one_point_after_the_other_with_workers(tmp_path, reference):
    """Two workers; the uninterrupted run had none."""
    assert_same_end(kill_and_finish(settings(tmp_path, num_workers=2), *POINTS), reference())


def test_workers_and_repetition_change_nothing(tmp_path, reference):
    assert_same_end(finish(settings(tmp_path, num_workers=2)), reference())
    assert_same_end(finish(settings(tmp_path, "again")), reference())


@pytest.mark.parametrize("algorithm", [name for name in run_helpers.ALGORITHMS if name != "flexmatch"])
def test_every_algorithm_killed_in_mid_epoch(tmp_path, algorithm):
    data = settings(tmp_path, "run", {"cycles": 1}, algorithm=algorithm)
    uninterrupted = finish({**data, "save_name": "uninterrupted"})
    assert_same_end(kill_and_finish(data, "train"), uninterrupted, cycle=1)


@pytest.mark.parametrize(
    ("active", "usb"),
    [
        ({"warm_start": True}, {}),
        ({"acquisition": {"name": "running_mean_head"}, "validation": 0.2, "keep": "all"}, {"use_cat": False, **UNEVEN}),
        ({"acquisition": {"name": "running_mean_pseudo"}, "warm_start": True, "schedule": "constant"}, {}),
        ({"acquisition": {"name": "staged"}, "prior": {"name": "learned", "until_iter": 7, "then": "update", "update_every": 2}}, UNEVEN),
    ],
    ids=["warm_start", "head", "pseudo_labels", "prior"],
)
def test_killed_again_and_again_with_other_settings(tmp_path, active, usb):
    data = settings(tmp_path, "run", active, **usb)
    uninterrupted = finish({**data, "save_name": "uninterrupted"})
    assert_same_end(kill_and_finish(data, "done", "query", "train_early", "train", "last_done"), uninterrupted)


def test_killed_through_the_command_line(tmp_path, reference):
    """A process of its own from the start, as a person has it."""
    data = settings(tmp_path)
    yaml = run_helpers.write_yaml(tmp_path / "run.yaml", data)
    assert run_helpers.command("run", yaml, env=killer.environment("train")).returncode == KILLED
    ended = run_helpers.command("run", yaml)
    assert ended.returncode == 0, ended.stderr
    assert_same_end(directory(data), reference())


def test_known_labels_survive_a_kill_before_their_query(tmp_path, reference):
    """Labels that existed already are journaled before the query that stands for them."""
    source = tmp_path / "known.csv"
    rows = [line.split(",") for line in (reference() / "labels.csv").read_text().splitlines()[1:21]]
    source.write_text("key,label\n" + "".join(f"{row[2]},{row[3]}\n" for row in rows))
    active = {"initial": {"name": "file", "path": str(source)}}
    uninterrupted = finish(settings(tmp_path, "uninterrupted", active))
    assert_same_end(kill_and_finish(settings(tmp_path, "run", active), "first_labels", "labels"), uninterrupted)


@pytest.mark.parametrize("algorithm", run_helpers.ALGORITHMS)
def test_a_fresh_cycle_is_a_new_instance_that_starts_there(tmp_path, algorithm):
    """Trained after another cycle in one process, or alone in a new algorithm with the same labels: the same bits."""
    cycles = {"cycles": 1, "keep": "all", "acquisition": {"name": "margin"}}
    data = run_helpers.settings(tmp_path, "one", active=cycles, algorithm=algorithm)
    run_helpers.train(data)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for name in ("latest_model.pth", "model_best.pth", "done.json"):
        (tmp_path / "two" / "cycle_001" / name).unlink()
    run_helpers.train({**data, "save_name": "two"})
    assert run_helpers.weights_equal(run_helpers.checkpoint(tmp_path / "one", 1), run_helpers.checkpoint(tmp_path / "two", 1))
    assert not run_helpers.weights_equal(run_helpers.checkpoint(tmp_path / "one", 0), run_helpers.checkpoint(tmp_path / "one", 1))


@pytest.mark.parametrize("warm_start", [False, True])
def test_initial_weights_of_every_cycle(tmp_path, monkeypatch, warm_start):
    """Fresh cycles start from the same weights; a warm one from the end of the last, EMA and all."""
    from usb_active.usb.algorithm import ActiveMixin

    starts, fit = [], ActiveMixin.fit

    def recorded(algorithm):
        nets = {"model": algorithm.model, "ema_model": algorithm.ema_model}
        starts.append({name: {key: value.clone() for key, value in net.state_dict().items()} for name, net in nets.items()})
        fit(algorithm)

    monkeypatch.setattr(ActiveMixin, "fit", recorded)
    run_helpers.train(run_helpers.settings(tmp_path, active={"cycles": 2, "warm_start": warm_start, "keep": "all"}))
    assert len(starts) == 3
    for cycle in (1, 2):
        before = run_helpers.checkpoint(tmp_path / "run", cycle - 1) if warm_start else starts[0]
        assert run_helpers.weights_equal(starts[cycle], before)
    assert all(torch.equal(value, starts[0]["ema_model"][name]) for name, value in starts[0]["model"].items())


class Forgetful:
    """A plugin that has learned something, or nothing."""

    def __init__(self, learned):
        self.learned = learned

    def state_dict(self):
        return self.learned

    def load_state_dict(self, state):
        self.learned = state


def test_state_that_became_empty_is_no_lost_file(tmp_path):
    plugin = Forgetful({"rounds": 1})
    states = PluginStates({"acquisition": plugin}, tmp_path)
    states.save(0, "query")
    plugin.learned = {}
    states.save(0, "answers")
    plugin.learned = {"rounds": 2}
    states.load(0, "answers")
    states.load(0, "query")
    assert plugin.learned == {"rounds": 1}
    (tmp_path / "cycle_000.query.pth").unlink()
    with pytest.raises(UsageError, match="cycle_000.query.pth is gone; restore it from a copy"):
        states.load(0, "query")
