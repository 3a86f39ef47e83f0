"""The pool: every sample is in exactly one state, and the journal's last word counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usb_active.contracts.task import Classification
from usb_active.errors import UsageError
from usb_active.pool.pool import Pool
from usb_active.records import LabelRow

NAMES = ("cat", "dog")


def row(index, label="cat", cycle=0):
    return LabelRow(cycle, index, f"k{index}", label, "labeled" if label else "skipped", "random", "")


def test_a_new_pool_has_only_candidates_that_are_queryable():
    pool = Pool(np.array([True, False, True]))
    assert len(pool) == 3
    assert pool.labeled.tolist() == [] and pool.unlabeled.tolist() == [0, 1, 2]
    assert pool.candidates.tolist() == [0, 2]
    assert pool.labels.dtype == np.int64 and pool.round.dtype == np.int32 and pool.candidates.dtype == np.int64


def test_the_states_of_a_sample():
    pool = Pool(np.ones(6, dtype=bool))
    pool.set_pending(np.array([1, 2, 3]))
    assert pool.candidates.tolist() == [0, 4, 5]
    pool.set_labels(np.array([3, 1]), np.array([1, 0]), cycle=2)
    pool.skip(np.array([2]))
    assert pool.labels.tolist() == [-1, 0, -1, 1, -1, -1]
    assert pool.round.tolist() == [-1, 2, -1, 2, -1, -1]
    assert pool.labeled.tolist() == [1, 3] and pool.unlabeled.tolist() == [0, 2, 4, 5]
    assert pool.candidates.tolist() == [0, 4, 5]
    assert not pool.pending.any() and pool.skipped.tolist() == [False, False, True, False, False, False]


def test_pending_adds_up_and_spares_what_is_answered():
    pool = Pool(np.ones(5, dtype=bool))
    pool.set_labels(np.array([0]), np.array([1]), cycle=0)
    pool.skip(np.array([1]))
    pool.set_pending(np.array([2]))
    pool.set_pending(np.array([0, 1, 3]))
    assert pool.pending.tolist() == [False, False, True, True, False]


def test_corrections():
    pool = Pool(np.ones(2, dtype=bool))
    pool.set_labels(np.array([0, 1]), np.array([0, 1]), cycle=0)
    pool.set_labels(np.array([0]), np.array([1]), cycle=0)
    pool.skip(np.array([1]))
    assert pool.labels.tolist() == [1, -1] and pool.round.tolist() == [0, -1]
    pool.set_labels(np.array([1]), np.array([0]), cycle=1)
    assert pool.labels.tolist() == [1, 0] and not pool.skipped.any()


def test_the_pool_does_not_share_its_input():
    queryable = np.ones(3, dtype=bool)
    pool = Pool(queryable)
    queryable[:] = False
    assert pool.candidates.tolist() == [0, 1, 2]


def test_from_rows_takes_the_last_row_of_a_sample():
    rows = [row(0, "cat"), row(1, ""), row(2, "dog"), row(0, "dog"), row(1, "cat", cycle=1), row(2, "")]
    pool = Pool.from_rows(rows, np.ones(4, dtype=bool), Classification(NAMES))
    assert pool.labels.tolist() == [1, 0, -1, -1]
    assert pool.round.tolist() == [0, 1, -1, -1]
    assert pool.skipped.tolist() == [False, False, True, False]


def test_from_rows_names_the_line():
    with pytest.raises(UsageError, match=r"labels\.csv:3: unknown class 'dgo'; did you mean 'dog'\?"):
        Pool.from_rows([row(0), row(1, "dgo")], np.ones(2, dtype=bool), Classification(NAMES))
    with pytest.raises(UsageError, match=r"labels\.csv:2: no sample 2; valid: 0 to 1"):
        Pool.from_rows([row(2)], np.ones(2, dtype=bool), Classification(NAMES))


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda pool: pool.skip(np.array([0, 3])), r"pool\.skip: no samples 3; valid: 0 to 2"),
        (lambda pool: pool.skip(np.array([-1])), r"no samples -1"),
        (lambda pool: pool.set_pending(np.array([1, 1])), "set_pending: samples given twice: 1"),
        (lambda pool: pool.set_pending(np.array([True, False, True])), "must be 1-D integers, got bool"),
        (lambda pool: pool.set_labels(np.array([0]), np.array([-1]), 0), "negative labels of samples 0"),
        (lambda pool: pool.set_labels(np.array([0]), np.array([1, 2]), 0), "labels must be 1 integers"),
        (lambda pool: pool.set_labels(np.array([0]), np.array([0.5]), 0), "labels must be 1 integers, got float64"),
        (lambda pool: Pool(np.ones((2, 2))), r"queryable must be \(N,\)"),
    ],
)
def test_misuse_is_one_line_and_changes_nothing(call, what):
    pool = Pool(np.ones(3, dtype=bool))
    with pytest.raises(UsageError, match=what) as caught:
        call(pool)
    assert "\n" not in str(caught.value)
    assert pool.candidates.tolist() == [0, 1, 2]


def test_nothing_to_do_is_fine():
    pool = Pool(np.ones(2, dtype=bool))
    pool.set_labels([], [], cycle=0)
    pool.skip([])
    pool.set_pending(np.array([], dtype=float))
    assert pool.candidates.tolist() == [0, 1]


@given(steps=st.lists(st.tuples(st.sampled_from("lsp"), st.integers(0, 7), st.integers(0, 1)), max_size=30))
def test_a_slow_model_agrees(steps):
    """Against a dict of sample → answer: the last answer counts, and a question never undoes one."""
    pool, answers, asked = Pool(np.arange(8) != 3), {}, set()
    for what, index, label in steps:
        idx = np.array([index])
        if what == "l":
            pool.set_labels(idx, np.array([label]), cycle=0)
            answers[index] = label
        elif what == "s":
            pool.skip(idx)
            answers[index] = None
        else:
            pool.set_pending(idx)
            asked.add(index)
    labeled = sorted(index for index, label in answers.items() if label is not None)
    assert pool.labeled.tolist() == labeled
    assert pool.labels[labeled].tolist() == [answers[index] for index in labeled]
    assert pool.unlabeled.tolist() == [index for index in range(8) if index not in labeled]
    assert pool.candidates.tolist() == [i for i in range(8) if i != 3 and i not in answers and i not in asked]
    assert np.flatnonzero(pool.pending).tolist() == sorted(asked - answers.keys())


def test_from_rows_equals_the_steps():
    rng = np.random.default_rng(0)
    rows = [row(int(i), NAMES[i % 2] if i % 3 else "", cycle=int(i) % 5) for i in rng.integers(0, 50, 200)]
    pool = Pool(np.ones(50, dtype=bool))
    for one in rows:
        if one.label:
            pool.set_labels(np.array([one.index]), np.array([NAMES.index(one.label)]), one.cycle)
        else:
            pool.skip(np.array([one.index]))
    other = Pool.from_rows(rows, np.ones(50, dtype=bool), Classification(NAMES))
    for name in ("labels", "skipped", "pending", "round"):
        assert np.array_equal(getattr(pool, name), getattr(other, name))
