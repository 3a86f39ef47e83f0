"""Contracts between the core and acquisitions, on real runs: picks, pseudo-labels, labels that exist already, state, metrics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from run_helpers import checkpoint, labels_of, settings, train, weights_equal

from usb_active.contracts.acquisition import check_picks, check_pseudo_labels
from usb_active.errors import UsageError

PLUGINS = [str(Path(__file__).parents[1] / "contract_plugins.py")]
SHORT = {"num_train_iter": 4, "num_eval_iter": 4, "epoch": 2, "plugins": PLUGINS}


def prepared(tmp_path, name, acquisition, /, active=None, **usb):
    """A run of two trainings that has not begun yet."""
    return settings(tmp_path, name, active={"acquisition": acquisition, **(active or {})}, **{**SHORT, **usb})


def metrics_of(session):
    return [json.loads(line) for line in (session.run_dir.path / "metrics.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------------------------------------- picks
CANDIDATES = np.array([2, 3, 5, 7, 11])


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_good_picks_come_back_in_their_order(dtype):
    picks = check_picks(np.array([11, 2, 5], dtype=dtype), CANDIDATES, 3, "x")
    assert picks.tolist() == [11, 2, 5] and picks.dtype == np.int64
    assert check_picks([7], CANDIDATES, 1, "x").tolist() == [7]


@pytest.mark.parametrize(
    ("picks", "message"),
    [
        ([2, 3], "x: select returned 2 samples where 3 were asked for"),
        ([2, 3, 5, 7], "x: select returned 4 samples where 3 were asked for"),
        ([2, 3, 2], "x: select picked samples twice: 2$"),
        ([2, 3, 4], r"x: select picked samples that cannot be queried \(.*\): 4$"),
        ([2, 3, -1], r"cannot be queried \(.*\): -1$"),
        ([2.0, 3.0, 5.0], r"must return a 1-D integer array of dataset indices, got float64 of shape \(3,\)"),
        ([[2, 3, 5]], r"got int64 of shape \(1, 3\)"),
        ([True, True, True], "got bool of shape"),
    ],
)
def test_bad_picks_are_one_line(picks, message):
    with pytest.raises(UsageError, match=message) as caught:
        check_picks(picks, CANDIDATES, 3, "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("too few", "acquisition 'careless': select returned 9 samples where 10 were asked for"),
        ("twice", "acquisition 'careless': select picked samples twice"),
        ("labelled", "acquisition 'careless': select picked samples that cannot be queried"),
        ("floats", "acquisition 'careless': select must return a 1-D integer array"),
        ("a column", r"got int64 of shape \(10, 1\)"),
    ],
)
def test_a_plugin_that_breaks_its_contract_costs_no_label(tmp_path, fault, message):
    data = prepared(tmp_path, "run", {"name": "careless", "fault": fault})
    with pytest.raises(UsageError, match=message):
        train(data)
    run = tmp_path / "run"
    assert len(labels_of(run)) == 1 + 20
    assert not (run / "queries" / "cycle_001.json").exists()


def test_what_is_picked_is_what_is_asked_best_first(tmp_path):
    session = train(prepared(tmp_path, "run", "quiet")).session
    query = session.run_dir.query(1)
    asked = [int(row[1]) for row in labels_of(session.run_dir.path)[1:] if row[0] == "1"]
    assert asked == query.idx.tolist() and len(asked) == 10
    assert [session.dataset.keys[i] for i in asked] == list(query.keys)
    assert query.acquisition == "quiet"


def test_a_budget_beyond_what_is_left_is_what_is_left(tmp_path, caplog):
    # 1,343 samples, 1,330 of them at the start.
    active = {"initial": {"name": "random", "size": 1330}, "budget": 13, "cycles": 2, "acquisition": "quiet"}
    session = None
    with pytest.raises(UsageError, match="budget"):
        train(prepared(tmp_path, "run", "quiet", active=active))
    session = train(prepared(tmp_path, "run", "quiet", active={**active, "cycles": 1})).session
    assert len(session.pool.labeled) == 1343 and len(session.pool.candidates) == 0


# ---------------------------------------------------------------------------------------------- pseudo-labels
def test_pseudo_labels_join_the_next_training_only_and_a_humans_label_wins(tmp_path):
    algorithm = train(prepared(tmp_path, "run", "labeller", active={"cycles": 2}))
    session, plugin = algorithm.session, algorithm.session.plugins["acquisition"]
    assert plugin.asked == 2
    split, pool = algorithm.split, session.pool
    given = np.load(session.selection._pseudo_path(2).with_suffix(".npz"))
    # The first of the six was labelled by the oracle in the same round; the other five are the plugin's.
    human, own = given["idx"][0], np.sort(given["idx"][1:])
    assert human in pool.labeled and not np.isin(own, pool.labeled).any()
    assert np.array_equal(split.labeled, np.union1d(pool.labeled, own))
    labels = dict(zip(split.labeled.tolist(), split.labels.tolist(), strict=True))
    assert labels[int(human)] == session.dataset.targets[human]
    assert all(labels[int(i)] == 7 for i in own)
    # Those of the round before are gone, unless they were labelled since.
    earlier = np.load(session.selection._pseudo_path(1).with_suffix(".npz"))["idx"]
    assert not np.isin(np.setdiff1d(earlier, np.union1d(own, pool.labeled)), split.labeled).any()


def test_pseudo_labels_are_neither_journaled_nor_charged(tmp_path):
    labeller = train(prepared(tmp_path, "labeller", "labeller")).session
    assert len(labeller.pool.labeled) == 30
    rows = labels_of(labeller.run_dir.path)
    assert len(rows) == 1 + 30 and {row[4] for row in rows[1:]} == {"labeled"}
    record = metrics_of(labeller)[1]
    assert record["num_labels"] == 30 and record["log"] == {"pseudo_labels": 6.0}


def test_the_training_really_uses_them(tmp_path):
    quiet = train(prepared(tmp_path, "quiet", "quiet"))
    labeller = train(prepared(tmp_path, "labeller", "labeller"))
    assert labels_of(quiet.session.run_dir.path)[:21] == labels_of(labeller.session.run_dir.path)[:21]
    assert [r[1] for r in labels_of(quiet.session.run_dir.path)] == [r[1] for r in labels_of(labeller.session.run_dir.path)]
    assert not weights_equal(*(checkpoint(a.session.run_dir.path, 1) for a in (quiet, labeller)))


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("at", ["pseudo_labels", "before_run"])
def test_a_plugin_remembers_its_query_in_a_process_that_resumes(tmp_path, at, warm_start):
    active = {"warm_start": warm_start, "cycles": 2}
    block = {"name": "stopper", "at": at, "flag": str(tmp_path / "never" / "flag")}
    (tmp_path / "never").mkdir()
    (tmp_path / "never" / "flag").touch()
    whole = train(prepared(tmp_path, "whole", block, active=active))
    data = prepared(tmp_path, "stopped", {**block, "flag": str(tmp_path / "flag")}, active=active)
    with pytest.raises(UsageError, match=f"stopped at {at}"):
        train(data)
    resumed = train(data)
    assert labels_of(whole.session.run_dir.path) == labels_of(resumed.session.run_dir.path)
    assert weights_equal(*(checkpoint(a.session.run_dir.path, 2) for a in (whole, resumed)))
    one, other = (a.session.plugins["acquisition"].state_dict() for a in (whole, resumed))
    assert one == other and one["asked"] == 2


@pytest.mark.parametrize(
    ("idx", "labels", "message"),
    [
        ([1, 2], [0], r"x: must return idx and labels of one length, got \(2,\) and \(1,\)"),
        ([[1, 2]], [[0, 1]], r"got \(1, 2\) and \(1, 2\)"),
        ([1, 9], [0, 0], "x: samples out of range: 9; valid: 0 to 8"),
        ([1, -1], [0, 0], "x: samples out of range: -1"),
        ([1, 2], [0, 3], "x: labels out of range: 3; valid: 0 to 2"),
        ([1, 2], [0.0, 1.0], "x: labels must be integers, got float64"),
        ([1.5, 2.0], [0, 1], "x: samples must be integers, got float64"),
        ([1, 1], [0, 0], "x: a sample stands there twice"),
    ],
)
def test_bad_pseudo_labels_are_one_line(idx, labels, message):
    with pytest.raises(UsageError, match=message):
        check_pseudo_labels(idx, labels, 9, 3, "x")


def test_pseudo_labels_of_a_task_that_knows_no_label_yet_are_one_line():
    with pytest.raises(UsageError, match="^x: labels out of range: 0; valid: none, as long as the task has encoded no text$"):
        check_pseudo_labels([1], [0], 9, 0, "x")


def test_no_pseudo_labels_are_fine():
    checked = check_pseudo_labels([], [], 9, 3, "x")
    assert checked["idx"].shape == checked["labels"].shape == (0,)
    assert check_pseudo_labels(np.array([8, 0], np.uint8), torch.tensor([2, 0]), 9, 3, "x")["labels"].tolist() == [2, 0]


# ---------------------------------------------------------------------------------------------- labels that exist already
@pytest.mark.parametrize("initial", ["teller", "known", "file"])
def test_labels_that_exist_already_are_journaled_without_a_query(tmp_path, initial):
    block = {"name": initial}
    expected = {i: i % 10 for i in range(20)}
    if initial == "file":
        block["path"] = str(tmp_path / "labels.csv")
        (tmp_path / "labels.csv").write_text("key,label\n" + "".join(f"{key_of(i)},{label}\n" for i, label in expected.items()))
    session = train(prepared(tmp_path, "run", "quiet", active={"initial": block, "cycles": 0})).session
    if initial == "known":
        expected = dict(enumerate(session.dataset.targets.tolist()))
    assert dict(zip(session.pool.labeled.tolist(), session.pool.labels[session.pool.labeled].tolist(), strict=True)) == expected
    rows = labels_of(session.run_dir.path)[1:]
    assert len(rows) == len(expected) and {row[5] for row in rows} == {initial}
    assert metrics_of(session)[0]["num_labels"] == len(expected)


def key_of(index):
    """Digits' keys are numbers in scikit-learn's order, those of the test set left out."""
    from usb_active.builtin.array_datasets import Digits

    return Digits().keys[index]


def test_known_labels_are_journaled_once_when_the_run_resumes(tmp_path):
    data = prepared(tmp_path, "run", "quiet", active={"initial": "teller", "cycles": 0})
    train(data)
    before = (tmp_path / "run" / "labels.csv").read_text()
    train(data)
    assert (tmp_path / "run" / "labels.csv").read_text() == before


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("class", "labels out of range: -1; valid: 0 to 9"),
        ("sample", "samples out of range: 1343; valid: 0 to 1342"),
        ("twice", "a sample stands there twice: 4$"),
        ("floats", "labels must be integers, got float64"),
        ("no such class", "labels out of range: 10; valid: 0 to 9"),
        ("names", "labels must be integers, got <U1"),
        ("lengths", r"must return idx and labels of one length, got \(20,\) and \(19,\)"),
        ("ragged", "must return two arrays, idx and labels; got tuple .ValueError: "),
        ("nothing", "must return two arrays, idx and labels; got NoneType"),
        ("empty", "brings no label; a training needs at least one"),
    ],
)
def test_bad_labels_that_exist_already_are_one_line_and_journal_nothing(tmp_path, fault, message):
    with pytest.raises(UsageError, match=f"initial 'teller': known_labels: {message}") as caught:
        train(prepared(tmp_path, "run", "quiet", active={"initial": {"name": "teller", "fault": fault}}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "labels.csv").exists() or len(labels_of(tmp_path / "run")) <= 1


# ---------------------------------------------------------------------------------------------- metrics
def test_the_line_of_a_cycle(tmp_path):
    session = train(prepared(tmp_path, "run", {"name": "explorer", "needs": ["probs"]}, active={"validation": 0.2})).session
    first, second = metrics_of(session)
    targets, pool = session.dataset.targets, session.pool
    assert [first["num_labels"], second["num_labels"]] == [20, 30]
    assert [first["acquisition"], second["acquisition"]] == ["random", "explorer"]
    held = np.bincount(targets[session.ledger.held_out()], minlength=10)
    assert held.sum() > 0 and second["validation_class_counts"] == held.tolist()
    assert second["class_counts"] == (np.bincount(targets[pool.labeled], minlength=10) - held).tolist()
    assert second["selected_class_counts"] == np.bincount(targets[session.run_dir.query(1).idx], minlength=10).tolist()
    assert second["log"] == {"budget": 10.0} and first["log"] == {}
    assert second["evaluated_on"] == "test" and 0 <= second["accuracy"] <= second["best_accuracy"] <= 1
    assert second["validation_accuracy"] is not None and second["selected_accuracy"] is not None
    assert second["acquisition_seconds"] > 0 and second["train_seconds"] > 0 and second["cpu_seconds"] > 0


def test_what_is_logged_in_the_middle_of_a_training_is_in_its_line(tmp_path):
    session = train(prepared(tmp_path, "run", "diary")).session
    first, second = metrics_of(session)
    assert first["log"]["seen"] < second["log"]["seen"]
