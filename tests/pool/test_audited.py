"""Samples of the audit: labelled, and yet in no part of the pool that anything trains on or chooses from."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usb_active.config.upper_bound import with_known_labels
from usb_active.contracts.task import Classification
from usb_active.pool.pool import Pool
from usb_active.pool.split import hold_out, make_split
from usb_active.records import LABELED, SKIPPED, LabelRow

TASK = Classification(("cat", "dog"))


def row(index: int, label: str, cycle: int = 0) -> LabelRow:
    return LabelRow(cycle, index, f"k{index}", label, LABELED if label else SKIPPED, "x", "t")


def pool_of(rows, audit, size: int = 10) -> Pool:
    return Pool.from_rows(rows, np.ones(size, dtype=bool), TASK, (), audit)


def test_labels_of_the_audit_stand_apart():
    pool = pool_of([row(0, "cat"), row(1, "dog"), row(2, "dog"), row(3, "")], [1, 3, 5])
    assert pool.labeled.tolist() == [0, 2]
    assert pool.unlabeled.tolist() == pool.candidates.tolist() == [4, 6, 7, 8, 9]
    assert pool.audit_labels[[0, 1, 3, 5]].tolist() == [-1, 1, -1, -1]
    assert pool.num_audit_labels == 1
    assert np.flatnonzero(pool.answered).tolist() == [0, 1, 2, 3]
    assert pool.skipped[3]


def test_the_last_row_of_a_sample_of_the_audit_counts():
    assert pool_of([row(0, "cat"), row(1, "dog"), row(1, "cat")], [1]).audit_labels[1] == 0
    refused = pool_of([row(0, "cat"), row(1, "dog"), row(1, "")], [1])
    assert refused.num_audit_labels == 0
    assert refused.skipped[1]
    assert pool_of([row(0, "cat"), row(1, ""), row(1, "dog")], [1]).audit_labels[1] == 1


def test_what_is_answered_of_the_audit_is_not_pending():
    pool = pool_of([row(0, "cat"), row(1, "dog"), row(3, "")], [1, 3, 5])
    pool.set_pending(np.array([0, 1, 2, 3, 5]))
    assert np.flatnonzero(pool.pending).tolist() == [2, 5]
    assert not (pool.pending & pool.answered).any()


def test_without_an_audit_the_pool_is_as_it_was():
    rows = [row(0, "cat"), row(1, "dog"), row(3, "")]
    one, other = pool_of(rows, ()), Pool.from_rows(rows, np.ones(10, dtype=bool), TASK)
    assert all(np.array_equal(vars(one)[name], vars(other)[name]) for name in vars(one))


@given(st.data())
def test_no_sample_of_the_audit_is_in_any_part(data):
    size = 12
    audit = data.draw(st.sets(st.integers(0, size - 1), max_size=6))
    labels = data.draw(st.dictionaries(st.integers(0, size - 1), st.sampled_from(["cat", "dog", ""]), min_size=1))
    pool = pool_of([row(index, label) for index, label in labels.items()], sorted(audit), size)
    parts = [pool.labeled, pool.unlabeled, pool.candidates, hold_out(pool, 0.5, 0), hold_out(pool, 0.5, 0, stratified=True)]
    full = with_known_labels(pool, SimpleNamespace(targets=np.zeros(size, dtype=np.int64)))
    assert not audit & set(np.concatenate([*parts, full.labeled, full.unlabeled]).tolist())
    # What is not of the audit is labelled or unlabelled, as ever.
    assert {*pool.labeled.tolist(), *pool.unlabeled.tolist(), *audit} == set(range(size))


@pytest.mark.parametrize("include_labeled", [False, True])
def test_no_sample_of_the_audit_is_in_a_split(include_labeled):
    audit = [1, 5]
    pool = pool_of([row(0, "cat"), row(1, "dog"), row(2, "dog"), row(4, "cat")], audit)
    pseudo = {"idx": np.array([5, 6]), "labels": np.array([0, 1])}
    split = make_split(pool, 0.34, include_labeled, 0, pseudo, stratified=True)
    assert not {*audit} & {*split.labeled.tolist(), *split.unlabeled.tolist(), *split.validation.tolist()}
    assert 6 in split.labeled
    assert len(split.validation) == 1
