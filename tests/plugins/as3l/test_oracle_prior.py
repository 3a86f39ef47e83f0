"""The prior that knows the truth: how many of its rows are right, which, and when it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_helpers import checkpoint, config_of, settings, train, weights_equal
from usb_active.plugins.as3l.functional import is_correct, partly_true

from usb_active.config.choices import Problems, choose
from usb_active.errors import UsageError
from usb_active.loop.setup import build_parts, make
from usb_active.pool.view import PoolView
from usb_active.testing.pool import CLASSES, World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def view_of(world, seed=0, cycle=0, **source):
    view = world.view({"truth"}, None, cycle=cycle, seed=seed, role="prior/start@0")
    for name, value in source.items():
        setattr(view._source, name, value)
    return view


def oracle(correct=0.9):
    problems = Problems("test")
    choice = choose("prior", {"name": "as3l_oracle", "correct": correct}, "active.prior", Path(), problems)
    problems.raise_if_any()
    return make(choice)


def table_of(view, correct):
    return oracle(correct).fit(view, "start").probs


# ------------------------------------------------------------------------------------------ the arrays
@pytest.mark.parametrize(("correct", "right"), [(0.0, 0), (0.6, 30), (0.74, 37), (0.75, 38), (1.0, 50)])
def test_as_many_rows_are_right_as_the_share_says(correct, right):
    # 0.75 of 50 is 37.5, to the nearest even number as Python rounds: 38.
    truth = np.arange(50) % 4
    probs = partly_true(truth, 4, correct, np.random.default_rng(0))
    assert probs.dtype == np.float32 and (np.sort(probs, axis=1) == [0, 0, 0, 1]).all()
    assert sum(row[c] == 1 for row, c in zip(probs, truth, strict=True)) == right


def test_a_wrong_row_is_of_any_other_class_alike():
    truth = np.full(30_000, 2)
    counts = np.bincount(partly_true(truth, 4, 0.0, np.random.default_rng(0)).argmax(axis=1), minlength=4)
    # 10,000 each; the standard deviation is √(30,000 · 1/3 · 2/3) = 81.6.
    assert counts[2] == 0 and (np.abs(counts[[0, 1, 3]] - 10_000) < 5 * 81.6).all()


def test_which_rows_are_wrong_does_not_follow_their_place():
    truth = np.zeros(2_000, dtype=int)
    right = np.mean([is_correct(partly_true(truth, 2, 0.5, np.random.default_rng(seed)), truth) for seed in range(50)], axis=0)
    # 1,000 rows with 50 draws each: the standard deviation is 0.5 / √50,000 = 0.0022.
    assert abs(right[:1_000].mean() - 0.5) < 5 * 0.0022 and 0 < right.min() and right.max() < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 3], 3, 0.5), "labels: 3 is no class, valid: 0 to 2"),
        (([0.0, 1.0], 3, 0.5), "labels: expected 2 integers, got float64"),
        ((1, 3, 0.5), r"labels: expected 1 integers, got int64 of shape \(\)"),
        (([0, 1], 2, 1.01), "correct: 1.01 is no share, valid: 0 to 1"),
        (([0, 1], 2, float("nan")), "correct: nan is no share"),
        (([0, 0], 1, 0.5), "correct: with one class there is no wrong one, valid: 1"),
        (([0, 0], 0, 0.5), "num_classes: 0, expected an integer, at least 1"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        partly_true(*arguments, np.random.default_rng(0))
    assert "\n" not in str(caught.value)


def test_the_one_class_there_is_may_be_true():
    assert partly_true([0, 0, 0], 1, 1.0, np.random.default_rng(0)).tolist() == [[1], [1], [1]]


# ------------------------------------------------------------------------------------------ the plugin
def test_labelled_samples_have_their_label_and_the_share_is_of_the_others(world):
    view, truth = view_of(world), world.dataset.targets
    right = is_correct(table_of(view, 0.5), truth)
    # 60 samples, 6 of them labelled: 27 of 54.
    assert right[view.labeled].all() and right[view.unlabeled].sum() == 27
    assert view._source.metrics == {"prior_coverage": 1, "prior_accuracy": 0.5, "prior_ece": 0.5}


def test_seed_and_cycle_say_which_are_wrong(world):
    tables = [table_of(view_of(world, seed, cycle), 0.5) for seed, cycle in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert np.array_equal(tables[0], tables[1])
    assert all((tables[0] != other).any() for other in tables[2:])


def test_the_table_stays_while_and_after_the_training(world):
    assert [oracle().fit(view_of(world), when) for when in ("step", "end")] == [None, None]


def test_samples_held_out_have_no_row(world):
    held_out = world.pool.labeled[:2]
    source = replace(world.source(0), held_out=held_out)
    view = PoolView(source, 0, "prior/start@0", frozenset({"truth"}), None)
    table = table_of(view, 1.0)
    assert not table[held_out].any() and np.delete(table, held_out, axis=0).any(axis=1).all()


def test_unknown_classes_are_refused(world):
    world.dataset.targets = np.where(np.isin(np.arange(60), [9, 4]), -1, world.dataset.targets)
    with pytest.raises(UsageError, match="^prior 'as3l_oracle': needs the true class of every sample; unknown for samples 4, 9$"):
        table_of(view_of(world), 0.5)


def test_only_a_simulated_oracle_knows(world, tmp_path):
    with pytest.raises(UsageError, match="only a simulated oracle knows"):
        table_of(view_of(world, simulated=False), 0.5)
    block = {"initial": {"name": "random", "size": 10}, "cycles": 0, "prior": "as3l_oracle", "oracle": "csv"}
    with pytest.raises(UsageError, match="active.prior: 'as3l_oracle' needs the true labels, which only a simulated oracle knows"):
        build_parts(config_of(settings(tmp_path, "run", block)))


def test_a_run_is_guided_by_it(tmp_path):
    block = {"initial": {"name": "random", "size": 10}, "cycles": 0, "prior": {"name": "as3l_oracle", "correct": 0.8}}
    length = {"num_train_iter": 4, "num_eval_iter": 4, "epoch": 2, "p_cutoff": 0.3}
    session = train(settings(tmp_path, "run", block, **length)).session
    unlabeled, table = session.pool.unlabeled, session.guidance.table.probs
    assert table.shape[1] == 10 > CLASSES
    right = is_correct(table, session.dataset.targets)[unlabeled]
    assert right.sum() == round(0.8 * len(unlabeled))
    assert session.run_dir.metrics()[-1]["log"]["prior_accuracy"] == pytest.approx(right.mean())
    train(settings(tmp_path, "alone", {**block, "prior": None}, **length))
    assert not weights_equal(checkpoint(tmp_path / "run", 0), checkpoint(tmp_path / "alone", 0))
