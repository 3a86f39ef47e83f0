"""Which rows a batch holds: the same whatever step one starts at, and never more in memory than one permutation."""

from __future__ import annotations

import itertools
import pickle
import random
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from usb_active.errors import UsageError
from usb_active.images.ahead import go_on
from usb_active.pool.sampling import (
    CollatedBatch,
    EpochSampler,
    PermutationStream,
    PositionSampler,
    SeededRows,
    SequentialSampler,
    make_loader,
    sequential_batches,
)

sizes = st.integers(1, 12)


def slow(stream, permutations):
    """The endless concatenation, as far as some permutations go."""
    return np.concatenate([stream._permutation(number) for number in range(permutations)])


# ---------------------------------------------------------------------------------------------- permutations
@given(sizes, st.integers(1, 30), st.integers(0, 20))
def test_a_batch_is_a_slice_of_the_concatenation(num_rows, batch_size, number):
    stream = PermutationStream(num_rows, batch_size, 1, "x")
    whole = slow(PermutationStream(num_rows, batch_size, 1, "x"), -(-(number + 1) * batch_size // num_rows))
    batch = stream.batch(number)
    assert batch.tolist() == whole[number * batch_size : (number + 1) * batch_size].tolist()
    assert len(batch) == batch_size


@given(sizes, st.integers(1, 5))
def test_every_turn_holds_every_row_once(num_rows, turns):
    stream = PermutationStream(num_rows, 1, 0, "x")
    drawn = [int(stream.batch(number)[0]) for number in range(num_rows * turns)]
    for turn in range(turns):
        assert sorted(drawn[turn * num_rows : (turn + 1) * num_rows]) == list(range(num_rows))


def test_any_order_of_asking_gives_the_same_batches():
    stream = PermutationStream(100, 7, 4, 0, "train_lb")
    forward = [stream.batch(number).tolist() for number in range(60)]
    order = np.random.default_rng(0).permutation(60)
    assert all(stream.batch(int(number)).tolist() == forward[number] for number in order)


def test_turns_seeds_and_positions_differ():
    orders = {
        tuple(PermutationStream(30, 30, seed, *position).batch(turn))
        for seed, position, turn in itertools.product((0, 1), ((0, "a"), (0, "b"), (1, "a")), (0, 1))
    }
    assert len(orders) == 12


def test_a_million_steps_take_no_more_memory_than_one():
    stream = PermutationStream(1000, 448, 0, "x")
    stream.batch(0)
    small = len(pickle.dumps(stream))
    stream.batch(10**6)
    sampler = PositionSampler(stream.batch, lambda: 10**8, lambda: 2 * 10**8)
    assert next(iter(sampler))[0] == 10**8
    # One permutation of 1,000 rows, 8 bytes each, whatever the step.
    assert len(pickle.dumps(stream)) <= small + 16 < 8 * 1000 + 1000


def test_no_sample_is_an_error():
    with pytest.raises(ValueError, match="there is no sample to draw batches from"):
        PermutationStream(0, 1, 0)


# ---------------------------------------------------------------------------------------------- samplers
def test_a_resumed_epoch_starts_in_its_middle():
    reached = {"it": 0}
    stream = PermutationStream(10, 4, 0, "x")
    sampler = PositionSampler(stream.batch, lambda: reached["it"], lambda: 6)
    whole = [(number, rows.tolist()) for number, rows in sampler]
    assert [number for number, _ in whole] == [0, 1, 2, 3, 4, 5]
    reached["it"] = 4
    assert [(number, rows.tolist()) for number, rows in sampler] == whole[4:]
    reached["it"] = 6
    assert list(sampler) == []


def epochs(position, made, default=()):
    return EpochSampler(made, lambda idx: idx // 10, lambda: position, default)


def test_an_algorithms_own_batches_are_numbered_by_the_training_and_translated():
    asked = []

    def made(epoch, start):
        asked.append((epoch, start))
        return iter([[10, 20], [30]])

    batches = [(number, rows.tolist()) for number, rows in epochs((3, 2, 17, 19), made)]
    assert asked == [(3, 2)]
    assert batches == [(17, [1, 2]), (18, [3])]


def test_an_endless_maker_is_asked_for_no_more_than_the_epoch_has():
    drawn = []

    def made(epoch, start):
        for number in itertools.count(start):
            drawn.append(number)
            yield [number]

    assert [number for number, _ in epochs((0, 0, 0, 4), made)] == [0, 1, 2, 3]
    assert drawn == [0, 1, 2, 3]


def test_a_maker_that_runs_dry_is_an_error_after_its_batches():
    sampler = iter(epochs((1, 2, 12, 15), lambda epoch, start: iter([[0]])))
    assert next(sampler)[0] == 12
    with pytest.raises(UsageError, match="make_sampler: ended 2 batches before the end of epoch 1, which has 5"):
        next(sampler)


def test_none_leaves_the_split_to_the_core():
    assert list(epochs((0, 0, 0, 2), lambda epoch, start: None, default=[(0, "a"), (1, "b")])) == [(0, "a"), (1, "b")]


@given(st.integers(0, 40), sizes)
def test_sequential_batches_are_all_rows_in_order(num_rows, batch_size):
    batches = list(sequential_batches(num_rows, batch_size))
    assert [row for _, rows in batches for row in rows.tolist()] == list(range(num_rows))
    assert all(len(rows) == batch_size for _, rows in batches[:-1])
    sampler = SequentialSampler(num_rows, batch_size)
    assert len(sampler) == len(batches) == len(list(sampler)) == len(list(sampler))


# ---------------------------------------------------------------------------------------------- rows that seed themselves
class Noisy(torch.utils.data.Dataset):
    """Rows that draw from all three generators, as augmentation does."""

    def __len__(self):
        return 12

    def __getitem__(self, row):
        return row, random.random(), float(np.random.rand()), float(torch.rand(1))


def batches_of(workers, first=0, seed=0):
    rows = SeededRows(Noisy(), seed, 2, "train_ulb")
    stream = PermutationStream(12, 5, 0, "x")
    sampler = PositionSampler(stream.batch, lambda: first, lambda: 6)
    return list(make_loader(rows, sampler, workers, lambda batch: batch))


def test_augmentation_depends_on_the_batchs_number_not_on_workers_or_history():
    whole = batches_of(0)
    torch.manual_seed(9)
    random.random()
    assert batches_of(0) == whole
    assert batches_of(2) == whole
    assert batches_of(0, first=4) == whole[4:]
    assert batches_of(0, seed=1)[0][0][1:] != whole[0][0][1:]
    draws = [sample[1:] for batch in whole for sample in batch]
    assert len(set(draws)) == len(draws) == 30


def test_a_loader_draws_nothing_from_the_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    loader = make_loader(SeededRows(Noisy(), 0), SequentialSampler(12, 4), 2, lambda batch: batch, persistent=True)
    iter(loader)
    assert torch.equal(torch.get_rng_state(), before)
    assert loader.persistent_workers


# ---------------------------------------------------------------------------------------------- made ahead by a thread
class Whole:
    """Rows that are made as wholes, in any thread; it is noted in which, and of which batches."""

    can_run_ahead = True

    def __init__(self, broken: int | None = None):
        self.broken, self.threads, self.made = broken, [], []

    def __len__(self):
        return 12

    def collated_batch(self, rows, seed):
        self.threads.append(threading.current_thread())
        self.made.append(rows.tolist())
        if len(self.made) - 1 == self.broken:
            raise UsageError(f"batch {self.broken} is broken")
        return CollatedBatch({"rows": torch.from_numpy(rows), "seed": torch.tensor(seed)})


def ahead(rows, sampler=None):
    return make_loader(SeededRows(rows, 0, "x"), sampler or SequentialSampler(12, 4), 0, None)


def test_a_thread_makes_the_next_batch_and_no_more():
    rows, asked = Whole(), []

    def batches():
        for batch in SequentialSampler(12, 4):
            asked.append(threading.current_thread())
            yield batch

    loader = iter(ahead(rows, batches()))
    first = next(loader)
    assert first["rows"].tolist() == [0, 1, 2, 3] and len(asked) == 2
    rest = list(loader)
    assert [batch["rows"].tolist() for batch in rest] == [[4, 5, 6, 7], [8, 9, 10, 11]] and rows.made == [*batches_in_order()]
    assert len({first["seed"].item(), *(batch["seed"].item() for batch in rest)}) == 3
    # Batches are drawn where they are used, and made elsewhere.
    assert set(asked) == {threading.current_thread()} and threading.current_thread() not in rows.threads


def batches_in_order():
    return (rows.tolist() for _, rows in SequentialSampler(12, 4))


def test_only_rows_that_allow_it_are_made_ahead_and_only_without_workers():
    no = Whole()
    no.can_run_ahead = False
    assert ahead(Whole()).runs_ahead and not ahead(no).runs_ahead and not ahead(Noisy()).runs_ahead
    assert [batch["rows"].tolist() for batch in ahead(no)] == [*batches_in_order()] and set(no.threads) == {threading.current_thread()}
    assert not make_loader(SeededRows(Whole(), 0), SequentialSampler(12, 4), 1, None).runs_ahead


def test_an_error_comes_when_its_batch_is_asked_for_and_ends_the_thread():
    rows = Whole(broken=1)
    loader = iter(ahead(rows))
    assert next(loader)["rows"].tolist() == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="^batch 1 is broken$"):
        next(loader)
    assert not any(thread.is_alive() for thread in rows.threads)


def test_an_error_of_what_draws_the_batches_comes_after_those_it_has_drawn():
    def batches():
        yield 0, np.arange(4)
        raise UsageError("make_sampler: ended")

    loader, rows = iter(ahead(Whole(), batches())), []
    with pytest.raises(UsageError, match="^make_sampler: ended$"):
        rows.extend(batch["rows"].tolist() for batch in loader)
    assert rows == [[0, 1, 2, 3]]
    # The batch's own error is the first.
    with pytest.raises(UsageError, match="^batch 0 is broken$"):
        next(iter(ahead(Whole(broken=0), batches())))


def test_a_batch_that_nobody_waits_for_is_given_up():
    """Within the batch: a run that is interrupted must not wait for hundreds of photographs."""
    begun = threading.Event()

    class Endless(Whole):
        def collated_batch(self, rows, seed):
            while self.made:
                begun.set()
                go_on()
            return super().collated_batch(rows, seed)

    rows = Endless()
    loader = iter(ahead(rows))
    next(loader)
    assert begun.wait(30)
    loader.close()
    assert len(rows.made) == 1 and not any(thread.is_alive() for thread in rows.threads)


def test_whatever_an_algorithm_makes_its_batches_of_is_not_asked_ahead():
    rows, asked = SeededRows(Whole(), 0, "x"), []
    rows.runs_ahead = False

    def batches():
        for batch in SequentialSampler(12, 4):
            asked.append(len(asked))
            yield batch

    loader = iter(make_loader(rows, batches(), 0, None))
    next(loader)
    assert len(asked) == 1


def test_a_loader_that_is_left_ends_its_thread():
    rows = Whole()
    loader = iter(ahead(rows))
    next(loader)
    loader.close()
    assert rows.threads and not any(thread.is_alive() for thread in rows.threads)


def test_batches_made_ahead_leave_the_global_generators_alone():
    state = lambda: (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: E731 — asked twice
    before = state()
    assert len(list(ahead(Whole()))) == 3
    assert state() == before
