"""Held-out labels divided among the classes: shares, what every class keeps, and what stays held out."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_helpers import settings, train

from usb_active.contracts.task import Classification
from usb_active.pool.pool import Pool
from usb_active.pool.split import classes_without_training, hold_out, make_split
from usb_active.records import LabelRow


def pool_of(rounds, size=200):
    """A pool whose round k gave the classes `rounds[k]` (a list) to so many samples of a shuffled pool."""
    pool = Pool(np.ones(size, dtype=bool))
    order = np.random.default_rng(1).permutation(size)
    for number, classes in enumerate(rounds):
        idx, order = order[: len(classes)], order[len(classes) :]
        pool.set_labels(idx, np.array(classes, dtype=np.int64), number)
    return pool


def counts(pool, idx, classes):
    return np.bincount(pool.labels[idx], minlength=classes).tolist()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("each", "share", "expected"), [(2, 0.5, 1), (4, 0.25, 1), (10, 0.3, 3), (3, 0.34, 1)])
def test_equal_classes_give_alike(seed, each, share, expected):
    # Case 9: ten classes with two labels each, and half of them held out: one of each.
    pool = pool_of([[label for label in range(10) for _ in range(each)]])
    assert counts(pool, hold_out(pool, share, seed, stratified=True), 10) == [expected] * 10


def test_as_it_was_in_runs_of_before():
    pool = pool_of([[label for label in range(10) for _ in range(2)]])
    lost = [len(classes_without_training(pool, make_split(pool, 0.5, True, seed))) for seed in range(5)]
    assert max(lost) > 1, "by the draw alone, classes lose both of their labels"
    assert all(len(classes_without_training(pool, make_split(pool, 0.5, True, seed, stratified=True))) == 0 for seed in range(5))


def test_largest_remainders():
    # 0.25 of 9, 5 and 2 is 2.25, 1.25 and 0.5; four of the sixteen: 2 and 1, then the largest remainder, 0.5, is the third's.
    pool = pool_of([[0] * 9 + [1] * 5 + [2] * 2])
    assert counts(pool, hold_out(pool, 0.25, 0, stratified=True), 3) == [2, 1, 1]


def test_a_class_of_one_trains_it_while_others_can_give():
    pool = pool_of([[0] * 7 + [1]])
    for seed in range(10):
        assert counts(pool, hold_out(pool, 0.75, seed, stratified=True), 2) == [6, 0]


def test_where_no_class_has_another_to_give_the_share_is_taken_all_the_same():
    pool = pool_of([list(range(4))])
    split = make_split(pool, 0.5, True, 3, stratified=True)
    assert len(split.validation) == 2
    assert classes_without_training(pool, split).tolist() == sorted(split.validation_labels.tolist())


rounds_of_classes = st.lists(st.lists(st.integers(0, 4), max_size=20), min_size=1, max_size=4)


@given(rounds_of_classes, st.floats(0.0, 0.6), st.integers(0, 5))
def test_invariants(rounds, share, seed):
    pool, total = pool_of(rounds), sum(map(len, rounds))
    held = hold_out(pool, share, seed, stratified=True)
    assert len(held) <= int(share * total + 0.5) and np.array_equal(held, np.unique(held)) and np.isin(held, pool.labeled).all()
    here, all_of = np.bincount(pool.labels[held], minlength=5), np.bincount(pool.labels[pool.labeled], minlength=5)
    if len(rounds) == 1 and (here < all_of)[all_of > 0].all():
        # Proportional: no class is further from its share than one sample, unless the last one of a class stood in the way.
        assert (np.abs(here - share * all_of)[all_of > 1] <= 1 + (all_of == 1).sum()).all()
    # What was held out after each earlier round still is.
    for number in range(len(rounds)):
        assert np.isin(hold_out(pool_of(rounds[:number]), share, seed, stratified=True), held).all()


def rows_of(*given):
    return [LabelRow(cycle, index, f"k{index}", label, "labeled" if label else "skipped", "m", "t") for cycle, index, label in given]


def test_neither_late_answers_nor_corrections_move_anyone_across():
    names = ("a", "b")
    first = [(0, index, "ab"[index % 2]) for index in range(16)]
    late = [(0, index, "a") for index in range(16, 24)]  # of the first query, answered when cycle 1 had been asked for
    corrected = [(0, index, "ba"[index % 2]) for index in range(0, 16, 3)]
    queryable = np.ones(40, dtype=bool)
    before = Pool.from_rows(rows_of(*first), queryable, Classification(names))
    held = hold_out(before, 0.3, 0, stratified=True)
    for later in (late, corrected, [*late, *corrected], [*corrected, *late]):
        after = Pool.from_rows(rows_of(*first, *later), queryable, Classification(names), starts=[16])
        still = hold_out(after, 0.3, 0, stratified=True)
        assert np.isin(held, still).all()
        assert np.array_equal(np.setdiff1d(still, held), np.intersect1d(still, np.arange(16, 24))), "no sample that has trained is held out"


def test_who_is_refused_is_held_out_no_more():
    rows = rows_of(*[(0, index, "a") for index in range(10)])
    pool = Pool.from_rows(rows, np.ones(10, dtype=bool), Classification(("a",)))
    held = hold_out(pool, 0.3, 0, stratified=True)
    after = Pool.from_rows([*rows, *rows_of((0, int(held[0]), ""))], np.ones(10, dtype=bool), Classification(("a",)), starts=[10])
    assert hold_out(after, 0.3, 0, stratified=True).tolist() == held[1:].tolist()


def test_a_run_says_which_labels_it_counts_and_keeps_what_it_held_out(tmp_path):
    block = {"validation": 0.5, "cycles": 2, "acquisition": "random", "initial": {"name": "balanced", "size": 20}}
    algorithm = train(settings(tmp_path, active=block, num_train_iter=2, num_eval_iter=2, epoch=1))
    run = algorithm.session.run_dir
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["class_counts"] == lines[0]["validation_class_counts"] == [1] * 10
    assert [line["num_labels"] for line in lines] == [20, 30, 40]
    assert [sum(line["class_counts"]) + sum(line["validation_class_counts"]) for line in lines] == [20, 30, 40]
    assert [sum(line["validation_class_counts"]) for line in lines] == [10, 15, 20]


def test_a_run_that_began_before_is_split_as_it_was(tmp_path):
    block = {"validation": 0.5, "cycles": 1, "acquisition": "random", "initial": {"name": "balanced", "size": 20}}
    data = settings(tmp_path, active=block, num_train_iter=2, num_eval_iter=2, epoch=1)
    begun = train({**data, "active": {**data["active"], "cycles": 0}}).session
    path = begun.run_dir.path
    pinned = json.loads((path / "dataset.json").read_text())
    for name in ("format", "run"):
        del pinned[name]
    (path / "dataset.json").write_text(json.dumps(pinned))
    for name in ("start.json", "done.json", "latest_model.pth", "model_best.pth"):
        (path / "cycle_000" / name).unlink()
    algorithm = train(data)
    assert np.array_equal(algorithm.split.validation, hold_out(algorithm.session.pool, 0.5, 3))
    record = json.loads((path / "metrics.jsonl").read_text().splitlines()[1])
    assert sum(record["class_counts"]) == 30 and "validation_class_counts" not in record


def test_classes_without_a_training_label_are_named(tmp_path, caplog):
    block = {"validation": 0.5, "cycles": 0, "initial": {"name": "balanced", "size": 10}}
    with caplog.at_level(logging.WARNING, logger="usb_active"):
        logging.getLogger("usb_active").propagate = True
        split = train(settings(tmp_path, active=block, num_train_iter=2, num_eval_iter=2, epoch=1)).split
    lost = sorted(str(label) for label in split.validation_labels)
    said = [record.getMessage() for record in caplog.records if "no label left to train on" in record.getMessage()]
    assert len(lost) == 5 and len(said) == 1
    assert f"of the classes {', '.join(lost)}; give more labels, or a smaller `validation` than 0.5" in said[0]
