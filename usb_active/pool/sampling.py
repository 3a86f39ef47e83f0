"""From index to batch: samplers that can start anywhere, and rows that seed themselves by position.

A batch travels to the loader's workers as `(k, rows)`: the number of the batch, from which its augmentation is seeded, and
the rows it is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from usb_active.contracts.file_imports import import_files, imported_files
from usb_active.environment.signals import held_for_workers, ignore_in_worker
from usb_active.errors import UsageError
from usb_active.images.ahead import read_ahead
from usb_active.randomness import generator, position_seed, seed_globals

Batch = tuple[int, np.ndarray]


class PermutationStream:
    """An endless concatenation of permutations of `range(num_rows)`, cut into batches; any batch on its own.

    Permutation j depends on (seed, position, j) alone and only the current one is held: (num_rows,) int64, however many
    steps the training has.
    """

    def __init__(self, num_rows: int, batch_size: int, seed: int, *position: int | str):
        if num_rows < 1:
            raise ValueError("there is no sample to draw batches from")
        self.num_rows, self.batch_size = num_rows, batch_size
        self._seed, self._position = seed, position
        self._held: tuple[int, np.ndarray] | None = None

    def _permutation(self, number: int) -> np.ndarray:
        if self._held is None or self._held[0] != number:
            self._held = number, generator(self._seed, *self._position, number).permutation(self.num_rows)
        return self._held[1]

    def batch(self, number: int) -> np.ndarray:
        """(batch_size,) rows of batch `number`."""
        parts, missing = [], self.batch_size
        turn, offset = divmod(number * self.batch_size, self.num_rows)
        while missing:
            part = self._permutation(turn)[offset : offset + missing]
            parts.append(part)
            missing -= len(part)
            turn, offset = turn + 1, 0
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class PositionSampler(Sampler):
    """Yields batches `first() … last() - 1`; both are asked whenever an iteration begins, so a resumed epoch starts in its middle."""

    def __init__(self, batch: Callable[[int], np.ndarray], first: Callable[[], int], last: Callable[[], int]):
        self._batch, self._first, self._last = batch, first, last

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self._first(), self._last()):
            yield number, self._batch(number)


class EpochSampler(Sampler):
    """Yields the batches an algorithm makes for the current epoch, from the position reached to the epoch's end.

    `make(epoch, start)` yields lists of dataset indices from batch `start` of the epoch, or is None for a split that it
    leaves to `default`; what it has beyond the epoch is not asked for. `to_rows` translates them; `position()` is
    (epoch, batch in it, batch of the training, first batch of the training that belongs to the next epoch).
    """

    def __init__(
        self,
        make: Callable[[int, int], Iterable[Any] | None],
        to_rows: Callable[[np.ndarray], np.ndarray],
        position: Callable[[], tuple[int, int, int, int]],
        default: Sampler,
    ):
        self._make, self._to_rows, self._position, self._default = make, to_rows, position, default

    def __iter__(self) -> Iterator[Batch]:
        epoch, start, first, last = self._position()
        made = self._make(epoch, start)
        if made is None:
            yield from self._default
            return
        number = first
        for number, idx in zip(range(first, last), made, strict=False):
            yield number, self._to_rows(np.asarray(idx))
            number += 1
        if number < last:
            missing, length = last - number, start + last - first
            raise UsageError(f"make_sampler: ended {missing} batches before the end of epoch {epoch}, which has {length}")


class TravellingRows(Dataset):
    """Rows of a loader: they can be pickled for a worker that is started fresh, which imports the plugin files first.

    A forked worker has all that its parent has. One that is started by `spawn` or `forkserver` knows no plugin that was imported
    from a file, and could not unpickle a data set, a view or a collate function that such a file defines.
    """

    def __reduce__(self) -> tuple:
        return _arrived, (type(self), imported_files()), vars(self)


def _arrived(cls: type, files: tuple[str, ...]) -> Any:
    # The rows' own attributes are unpickled after this.
    import_files(files)
    return cls.__new__(cls)


class Loader(DataLoader):
    """torch's loader, whose workers ignore the signals that a terminal sends to them as well: the process that started them ends them.

    Without workers, and of rows that say `can_run_ahead`, a thread makes the next batch while the last one is used. Batches are drawn
    by whoever iterates, in their own thread, one earlier than without.
    """

    def __init__(self, rows: Dataset, *arguments: Any, **options: Any):
        super().__init__(rows, *arguments, worker_init_fn=ignore_in_worker, **options)

    def __iter__(self) -> Iterator[Any]:
        if self.runs_ahead:
            return read_ahead(self._batch_of, self.batch_sampler, threads=1, ahead=1)
        with held_for_workers() if self.num_workers else nullcontext():
            return super().__iter__()

    @property
    def runs_ahead(self) -> bool:
        """Whether a thread makes batches."""
        # Of the class: an error within a property would be taken for a lack of it.
        return self.num_workers == 0 and hasattr(type(self.dataset), "can_run_ahead") and self.dataset.can_run_ahead

    def _batch_of(self, batch: Batch) -> Any:
        return self.collate_fn(self.dataset.__getitems__(batch))

    def check_worker_number_rationality(self) -> None:
        """Nothing. How many workers there are is the user's choice; torch's advice counts those of one loader alone."""


@dataclass(frozen=True)
class CollatedBatch:
    """A batch that was made as a whole: what a collate function would give."""

    entries: dict[str, Any]


class SeededRows(TravellingRows):
    """Wraps rows so that each batch seeds the global generators once, by (seed, position, number of the batch).

    Rows that have a method `collated_batch(rows, seed)` are asked for the whole batch first; it is told the seed that `seed_globals(…)`
    would set for this batch, and nothing else may decide on what it gives. None: one by one.
    """

    # False where an algorithm makes its own batches: it may look at what the last step left.
    runs_ahead = True

    def __init__(self, rows: Any, seed: int, *position: int | str):
        self.rows, self.seed, self.position = rows, seed, position

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def can_run_ahead(self) -> bool:
        """Whether batches may be made in another thread than the training: they are made as a whole, without the global generators."""
        return self.runs_ahead and hasattr(type(self.rows), "can_run_ahead") and self.rows.can_run_ahead

    def __getitems__(self, batch: Batch) -> list[Any] | CollatedBatch:
        number, rows = batch
        whole = getattr(self.rows, "collated_batch", None)
        made = None if whole is None else whole(rows, position_seed(self.seed, *self.position, number))
        if made is not None:
            return made
        seed_globals(self.seed, *self.position, number)
        return [self.rows[int(row)] for row in rows]


def sequential_batches(num_rows: int, batch_size: int) -> Iterator[Batch]:
    """Batches 0, 1, … in order, the last one smaller."""
    for number, start in enumerate(range(0, num_rows, batch_size)):
        yield number, np.arange(start, min(start + batch_size, num_rows))


class SequentialSampler(Sampler):
    """`sequential_batches` as often as asked; from batch number `first` on."""

    def __init__(self, num_rows: int, batch_size: int, first: int = 0):
        self.num_rows, self.batch_size, self.first = num_rows, batch_size, first

    def __iter__(self) -> Iterator[Batch]:
        return islice(sequential_batches(self.num_rows, self.batch_size), self.first, None)

    def __len__(self) -> int:
        return -(-self.num_rows // self.batch_size) - self.first


def collate_batch(collate: Callable | None, batch: Any) -> Any:
    """What a loader gives of what its rows made: a batch that was made as a whole is left as it is; `collate`: None for torch's."""
    if isinstance(batch, CollatedBatch):
        return batch.entries
    return (default_collate if collate is None else collate)(batch)


def make_loader(
    rows: Any, sampler: Iterable[Batch], num_workers: int, collate: Callable | None, persistent: bool = False,
    loader: Callable[..., DataLoader] = Loader,
) -> DataLoader:  # fmt: skip
    """A loader that draws nothing from torch's global generator, which belongs to the training.

    Args:
        rows: `rows.__getitems__((number, rows of the batch))` gives what is collated; `rows.can_run_ahead`, where there is one, says
            whether another thread may ask for it.
        sampler: gives the batches.
        num_workers: processes that load. With none of them a thread makes the next batch, where the rows allow it.
        collate: a collate function, or None for torch's.
        persistent: whether the processes stay for the next iteration.
        loader: what makes it, as `Loader` does.
    """
    import torch

    own = torch.Generator()
    own.manual_seed(0)
    return loader(
        rows, batch_sampler=sampler, num_workers=num_workers, collate_fn=partial(collate_batch, collate), generator=own,
        persistent_workers=persistent and num_workers > 0,
    )  # fmt: skip
