"""The streams and loaders of a cycle, without a training."""

from __future__ import annotations

from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from usb_active.contracts.dataset import Samples
from usb_active.contracts.task import Classification
from usb_active.errors import UsageError
from usb_active.pool.split import NOBODY, Split
from usb_active.usb.loaders import CycleLoaders, Position, epoch_end, epoch_position

ARGS = Namespace(batch_size=2, uratio=2, eval_batch_size=4, num_workers=0)
NUM = 20


def as_tensor(sample) -> torch.Tensor:
    return torch.tensor([float(sample)])


def noisy(sample) -> torch.Tensor:
    return as_tensor(sample) + torch.rand(1)


def dataset(test: int = 6):
    """Sample i is the number i, of class i % 3."""
    return SimpleNamespace(
        task=Classification(("a", "b", "c")), views=SimpleNamespace(weak=noisy, strong=noisy, eval=as_tensor), collate=None,
        test=Samples(lambda i: 100 + i, np.arange(test) % 3) if test else None, load=lambda i: i,
    )  # fmt: skip


LABELED, HELD_OUT = np.array([3, 7, 11, 19]), np.array([2, 5])
SPLIT = Split(LABELED, LABELED % 3, np.arange(4, NUM), HELD_OUT, HELD_OUT % 3)
NONE_HELD_OUT = Split(LABELED, LABELED % 3, np.arange(4, NUM), NOBODY, NOBODY)


def position(it: int = 0, epoch: int = 0) -> Position:
    """Of a training of 7 steps in 2 epochs: 3 and, with the remainder, 4."""
    return SimpleNamespace(it=it, epoch=epoch, epochs=2, num_train_iter=7, num_iter_per_epoch=3)


def made(where: Position, seed: int = 0, cycle: int = 1, make_sampler=None, split: Split = SPLIT, **of) -> CycleLoaders:
    loaders = CycleLoaders("fixmatch", dataset(**of), split, None, seed, cycle)
    assert loaders.loaders == {}
    assert loaders.make(ARGS, where, make_sampler) is loaders.loaders
    return loaders


def batches(loaders: CycleLoaders, name: str) -> list[dict]:
    return list(loaders.loaders[name])


@pytest.mark.parametrize(("split", "test", "names"), [
    (SPLIT, 6, ["train_lb", "train_ulb", "eval", "validation"]), (SPLIT, 0, ["train_lb", "train_ulb", "validation"]),
    (NONE_HELD_OUT, 6, ["train_lb", "train_ulb", "eval"]), (NONE_HELD_OUT, 0, ["train_lb", "train_ulb"]),
])  # fmt: skip
def test_there_is_a_loader_for_all_that_is_there(split, test, names):
    loaders = made(position(), split=split, test=test)
    assert list(loaders.rows) == list(loaders.loaders) == names


def test_an_epoch_ends_where_the_next_begins_and_the_last_takes_the_remainder():
    assert [epoch_end(position(epoch=epoch)) for epoch in (0, 1)] == [3, 7]
    assert epoch_position(position(it=5, epoch=1)) == (1, 2, 5, 7)


def test_a_loader_begins_where_the_training_is_with_the_same_batches():
    where = position()
    loaders = made(where)
    first = batches(loaders, "train_ulb")
    where.it, where.epoch = 3, 1
    second = batches(loaders, "train_ulb")
    assert [len(first), len(second)] == [3, 4] and all(len(batch["idx_ulb"]) == 4 for batch in first + second)
    # A process that resumes in the middle of the second epoch.
    resumed = batches(made(position(it=5, epoch=1)), "train_ulb")
    assert len(resumed) == 2
    for one, other in zip(resumed, second[2:], strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    others = [batches(made(position(), **change), "train_ulb")[0]["x_ulb_w"] for change in ({"seed": 1}, {"cycle": 2})]
    assert not any(torch.equal(other, first[0]["x_ulb_w"]) for other in others)


def test_drawing_batches_leaves_the_global_generators_to_the_training_s_own_seeding():
    """No loader asks torch's generator for a seed of its own: what a step draws does not depend on where an epoch begins."""
    loaders = made(position())
    torch.manual_seed(5)
    iter(loaders.loaders["train_lb"]), iter(loaders.loaders["eval"])
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)


def test_rows_of_a_stream_become_dataset_indices_and_nothing_else_changes():
    loaders = made(position())
    lb, ulb = batches(loaders, "train_lb")[0], batches(loaders, "train_ulb")[0]
    found = loaders.with_dataset_idx({**lb, **ulb})
    assert torch.equal(found["idx_lb"], torch.tensor(LABELED)[lb["idx_lb"]]) and torch.equal(found["idx_ulb"], ulb["idx_ulb"] + 4)
    # The samples show their indices: each view lies less than one above.
    assert torch.equal(found["x_ulb_w"].floor().long().squeeze(1), found["idx_ulb"])
    assert torch.equal(found["x_lb"].floor().long().squeeze(1), found["idx_lb"]) and torch.equal(found["y_lb"], found["idx_lb"] % 3)
    assert found["x_ulb_s"] is ulb["x_ulb_s"] and torch.equal(ulb["idx_ulb"], found["idx_ulb"] - 4)
    assert set(loaders.with_dataset_idx({"x_lb": lb["x_lb"], "idx_ulb": None})) == {"x_lb", "idx_ulb"}


def test_what_is_evaluated_comes_in_order_in_its_eval_view():
    loaders = made(position(it=3, epoch=1))
    shown = {name: torch.cat([batch["x_lb"] for batch in batches(loaders, name)]).squeeze(1).tolist() for name in ("eval", "validation")}
    assert shown == {"eval": [100.0, 101.0, 102.0, 103.0, 104.0, 105.0], "validation": [2.0, 5.0]}
    assert [len(batch["y_lb"]) for batch in batches(loaders, "eval")] == [4, 2]
    assert batches(loaders, "validation")[0]["y_lb"].tolist() == [2, 2]


def test_an_algorithm_may_make_the_batches_of_one_stream_itself():
    asked = []

    def make_sampler(split, epoch, start):
        asked.append((split, epoch, start))
        return ([idx, 19] for idx in range(4 + start, 12)) if split == "ulb" else None

    loaders = made(position(it=4, epoch=1), make_sampler=make_sampler)
    ulb = [loaders.with_dataset_idx(batch)["idx_ulb"].tolist() for batch in batches(loaders, "train_ulb")]
    assert ulb == [[5, 19], [6, 19], [7, 19]]
    plain = batches(made(position(it=4, epoch=1)), "train_lb")
    for one, other in zip(batches(loaders, "train_lb"), plain, strict=True):
        assert torch.equal(one["x_lb"], other["x_lb"])
    assert asked == [("ulb", 1, 1), ("lb", 1, 1)]


def test_samples_that_are_not_in_the_stream_are_refused():
    loaders = made(position(), make_sampler=lambda split, epoch, start: iter([[4, 0]] * 9))
    with pytest.raises(UsageError, match="make_sampler: samples that are not in this stream: 0"):
        batches(loaders, "train_ulb")


def test_workers_are_ended_and_start_again():
    loaders = CycleLoaders("fixmatch", dataset(), SPLIT, None, 0, 1)
    loader = loaders.make(Namespace(**{**vars(ARGS), "num_workers": 1}), position())["train_lb"]
    first = list(loader)
    process = loader._iterator._workers[0]
    assert process.is_alive()
    loaders.stop_workers()
    process.join(30)
    assert loader._iterator is None and not process.is_alive()
    assert all(torch.equal(one["x_lb"], other["x_lb"]) for one, other in zip(list(loader), first, strict=True))
    loaders.stop_workers()
