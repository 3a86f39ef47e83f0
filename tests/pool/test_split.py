"""Who trains and who is held out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_helpers import labels_of, settings, train

from usb_active.errors import UsageError
from usb_active.pool.pool import Pool
from usb_active.pool.split import hold_out, make_split, provisional_split


def pool_of(rounds, size=100):
    """A pool whose round k labelled `rounds[k]` samples, class = index mod 3, spread over the pool."""
    pool = Pool(np.ones(size, dtype=bool))
    order = np.random.default_rng(0).permutation(size)
    for number, count in enumerate(rounds):
        idx, order = order[:count], order[count:]
        pool.set_labels(idx, idx % 3, number)
    return pool


def test_all_labels_train_without_validation():
    pool = pool_of([10, 5])
    split = make_split(pool, 0.0, True, 3)
    assert np.array_equal(split.labeled, pool.labeled) and np.array_equal(split.labels, split.labeled % 3)
    assert np.array_equal(split.unlabeled, np.arange(100))
    assert len(split.validation) == len(split.validation_labels) == 0


def test_without_labelled_samples_the_unlabelled_stream_is_the_rest():
    pool = pool_of([10, 5])
    for share in (0.0, 0.4):
        split = make_split(pool, share, False, 3)
        assert np.array_equal(split.unlabeled, pool.unlabeled)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=4), st.floats(0.0, 0.5), st.integers(0, 5))
def test_the_share_of_the_labels_is_held_out_after_every_round(rounds, share, seed):
    pool = pool_of(rounds)
    held = hold_out(pool, share, seed)
    for number in range(len(rounds)):
        assert (pool.round[held] <= number).sum() == int(share * sum(rounds[: number + 1]) + 0.5)
    assert np.array_equal(held, np.unique(held)) and np.isin(held, pool.labeled).all()


def test_what_is_held_out_is_in_no_training_stream():
    pool = pool_of([20, 10])
    split = make_split(pool, 0.3, True, 3)
    assert len(split.validation) == 6 + 3
    assert not np.isin(split.validation, split.labeled).any() and not np.isin(split.validation, split.unlabeled).any()
    assert np.array_equal(split.validation_labels, split.validation % 3)
    assert np.array_equal(np.union1d(split.labeled, split.validation), pool.labeled)
    assert len(split.labeled) + len(split.validation) == 30 and len(split.unlabeled) == 100 - 9


def test_what_is_held_out_once_stays_so():
    first, second = pool_of([20]), pool_of([20, 10])
    for share in (0.1, 0.5):
        early, late = hold_out(first, share, 3), hold_out(second, share, 3)
        assert np.isin(early, late).all() and len(late) > len(early)
    assert not np.array_equal(hold_out(first, 0.3, 3), hold_out(first, 0.3, 4))


def test_pseudo_labels_join_and_a_humans_label_wins():
    pool = pool_of([20])
    human, stranger = pool.labeled[0], pool.unlabeled[:2]
    split = make_split(pool, 0.0, True, 3, {"idx": np.array([human, *stranger]), "labels": np.array([2, 2, 1])})
    labels = dict(zip(split.labeled.tolist(), split.labels.tolist(), strict=True))
    assert labels[int(human)] == human % 3
    assert [labels[int(i)] for i in stranger] == [2, 1]
    assert len(split.labeled) == 22 and np.array_equal(split.labeled, np.sort(split.labeled))
    assert len(pool.labeled) == 20, "the pool itself knows nothing of them"


def test_a_held_out_sample_is_not_smuggled_in_by_a_pseudo_label():
    pool = pool_of([20])
    held = hold_out(pool, 0.5, 3)
    split = make_split(pool, 0.5, True, 3, {"idx": held, "labels": np.zeros(len(held), dtype=np.int64)})
    assert np.array_equal(split.validation, held) and not np.isin(held, split.labeled).any()


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(UsageError, match="there is no labelled sample to train on"):
        make_split(pool_of([]), 0.0, True, 3)
    with pytest.raises(
        UsageError, match="every sample is labelled, so there is none for the unlabelled stream; set include_lb_to_ulb: true"
    ):
        make_split(pool_of([100]), 0.0, False, 3)
    assert len(make_split(pool_of([100]), 0.0, True, 3).unlabeled) == 100


def test_a_stand_in_before_anything_is_labelled():
    split = provisional_split(7)
    assert split.labeled.tolist() == [0] and split.unlabeled.tolist() == list(range(7)) and len(split.validation) == 0


def test_a_run_with_validation_charges_it_and_chooses_by_it(tmp_path):
    data = settings(tmp_path, active={"validation": 0.25, "acquisition": "random"}, num_train_iter=4, num_eval_iter=2)
    algorithm = train(data)
    session, split = algorithm.session, algorithm.split
    assert len(labels_of(session.run_dir.path)) == 1 + 30, "held-out labels are part of the 20 + 10"
    # 0.25 · 20 = 5; 0.25 · 30 = 7.5, rounded up.
    assert len(split.validation) == 8 and len(split.labeled) == 22
    record = json.loads((session.run_dir.path / "metrics.jsonl").read_text().splitlines()[1])
    assert record["num_labels"] == 30 and record["validation_accuracy"] is not None
    seen = {int(i) for i in algorithm.dataset_dict["train_ulb"].idx} | {int(i) for i in algorithm.dataset_dict["train_lb"].idx}
    assert not seen & set(split.validation.tolist())


def test_a_share_of_many_small_rounds_does_not_vanish():
    # 0.1 · 2 rounds to nothing in each round of two; of the ten it is one.
    assert len(hold_out(pool_of([2] * 5), 0.1, 3)) == 1
    assert len(hold_out(pool_of([2] * 20), 0.1, 3)) == 4
