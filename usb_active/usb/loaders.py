"""What one cycle trains on and is evaluated on: USB's streams and loaders over the split of its labels."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader

from usb_active.contracts.dataset import Dataset, Samples, is_in_memory
from usb_active.errors import UsageError
from usb_active.pool.inference import PoolRows, view_loader
from usb_active.pool.sampling import EpochSampler, Loader, PermutationStream, PositionSampler, SeededRows, collate_batch, make_loader
from usb_active.pool.split import Split
from usb_active.randomness import generator
from usb_active.usb.batch_draws import Draw, draw_exact
from usb_active.usb.data import EvaluationRows, PoolStream, pool_samples
from usb_active.usb.device_loader import DeviceLoader, OnDevice
from usb_active.usb.unlabeled import View

# Arguments of USB's steps that are rows of a stream → the stream.
_ROWS_OF = {"idx_lb": "train_lb", "idx_ulb": "train_ulb"}

# From how many images of the pool BatchNorm's statistics are recomputed.
STATISTICS_IMAGES = 1024


class Position(Protocol):
    """How far a training is: asked whenever a loader begins, so that a resumed epoch starts in its middle."""

    it: int
    epoch: int
    epochs: int
    num_train_iter: int
    num_iter_per_epoch: int


class CycleLoaders:
    """Owns the streams and loaders of one cycle. What a batch holds depends on its position alone.

    Args:
        algorithm: its name in USB.
        views: what it declares as `unlabeled_views`.
        split: which samples are labelled, unlabelled and held out in this cycle.
        draw: see `PoolStream.draw`.

    Attributes:
        rows: name → the rows of a loader: "train_lb", "train_ulb", and "eval", "validation" where there are such samples.
        dataset_idx: training stream → (rows,) the dataset index of each row.
        loaders: name → loader; empty until `make`.
    """

    def __init__(
        self,
        algorithm: str,
        dataset: Dataset,
        split: Split,
        views: Mapping[str, View] | str | None,
        seed: int,
        cycle: int,
        draw: Draw = draw_exact,
    ):
        self._dataset, self._split, self._seed, self._cycle = dataset, split, seed, cycle
        self._labeled: DataLoader | None = None
        streams = {
            "train_lb": PoolStream(algorithm, dataset, split.labeled, split.labels, views, draw),
            "train_ulb": PoolStream(algorithm, dataset, split.unlabeled, None, views, draw),
        }
        evaluated = {"eval": dataset.test}
        if len(split.validation):
            evaluated["validation"] = pool_samples(dataset, split.validation, split.validation_labels)
        there = {name: samples for name, samples in evaluated.items() if samples is not None}
        self.rows: dict[str, Any] = {
            **streams, **{name: self._evaluation_rows(samples) for name, samples in there.items()},
        }  # fmt: skip
        self.dataset_idx = {name: torch.from_numpy(stream.idx) for name, stream in streams.items()}
        self.loaders: dict[str, DataLoader] = {}

    def make(
        self, args: Namespace, position: Position, make_sampler: Callable | None = None, device: torch.device | None = None,
        say: Callable[[str], None] | None = None, only_useful_workers: bool = False,
    ) -> dict[str, DataLoader]:  # fmt: skip
        """The loaders, which start at the iteration reached.

        Args:
            args: USB's; `batch_size`, `uratio`, `eval_batch_size` and `num_workers` count.
            make_sampler: the algorithm's own, where it has one (`OwnAlgorithm.make_sampler`).
            device: where the views of training batches are made, if not on the CPU by what is compiled for it.
            say: told, for people, why some could not be made there.
            only_useful_workers: none for training batches of images in memory that a thread can make ahead, whatever `num_workers` is.
        """
        # USB gives the unlabelled stream twice the workers.
        training = {
            "train_lb": (args.batch_size, args.num_workers),
            "train_ulb": (int(args.batch_size * args.uratio), 2 * args.num_workers),
        }
        # Asked here, so that workers that are forked have the plan, and what was compiled for it.
        plans = {name: self.rows[name].plan for name in training}
        shown = {name: self.rows[name] for name, plan in plans.items() if plan is not None and plan.outputs}
        shared = None if device is None or say is None else OnDevice(self._dataset, shown, device, say)
        for name, rows in self.rows.items():
            if name in training:
                loader = Loader if shared is None or name not in shown else partial(DeviceLoader, shared, make_sampler is None)
                self.loaders[name] = self._train_loader(name, *training[name], position, make_sampler, loader, only_useful_workers)
            else:
                self.loaders[name] = self._evaluation_loader(rows, args.eval_batch_size, args.num_workers)
        return self.loaders

    def _train_loader(
        self, name: str, batch_size: int, workers: int, position: Position, make_sampler: Callable | None,
        loader: Callable[..., DataLoader], only_useful_workers: bool,
    ) -> DataLoader:  # fmt: skip
        stream = self.rows[name]
        permutations = PermutationStream(len(stream), batch_size, self._seed, self._cycle, name)
        sampler = PositionSampler(permutations.batch, lambda: position.it, lambda: epoch_end(position))
        if make_sampler is not None:
            own = partial(make_sampler, name.partition("_")[2])
            sampler = EpochSampler(own, stream.rows_of, lambda: epoch_position(position), sampler)
        rows = SeededRows(stream, self._seed, self._cycle, name, "views")
        rows.runs_ahead = make_sampler is None
        if only_useful_workers and rows.can_run_ahead and is_in_memory(self._dataset, int(stream.idx[0])):
            workers = 0
        return make_loader(rows, sampler, workers, self._dataset.collate, persistent=True, loader=loader)

    def why_one_by_one(self) -> list[str]:
        """For people, why batches of a training stream are not made at once, where they are not."""
        return [why for name in _ROWS_OF.values() if (why := self.rows[name].why_one_by_one())]

    def _evaluation_rows(self, samples: Samples) -> EvaluationRows:
        return EvaluationRows(samples, self._dataset.views, self._dataset.task, self._dataset.collate)

    def _evaluation_loader(self, rows: EvaluationRows, batch_size: int, workers: int) -> DataLoader:
        own = torch.Generator()
        own.manual_seed(0)
        collated = partial(collate_batch, self._dataset.collate)
        return Loader(rows, batch_size, shuffle=False, num_workers=workers, collate_fn=collated, generator=own)

    def labeled(self, args: Namespace) -> DataLoader:
        """The samples of the labelled stream in their eval view, for scores where nothing is held out."""
        if self._labeled is None:
            samples = pool_samples(self._dataset, self._split.labeled, self._split.labels)
            self._labeled = self._evaluation_loader(self._evaluation_rows(samples), args.eval_batch_size, args.num_workers)
        return self._labeled

    def statistics(self, args: Namespace) -> Iterator[torch.Tensor]:
        """Eval views of `STATISTICS_IMAGES` pool images, the same at every call in a cycle, in batches of about `eval_batch_size`."""
        idx = np.union1d(self._split.labeled, self._split.unlabeled)
        if len(idx) < 2:
            raise UsageError("active.batch_norm: recomputed wants a pool of at least two images")
        if len(idx) > STATISTICS_IMAGES:
            idx = np.sort(generator(self._seed, self._cycle, "batch_norm").choice(idx, STATISTICS_IMAGES, replace=False))
        rows = PoolRows(self._dataset, idx, "eval", 1, self._seed, (self._cycle, "batch_norm"))
        # Of one image there is no variance.
        parts = min(-(-len(idx) // args.eval_batch_size), len(idx) // 2)
        batches = list(enumerate(np.array_split(np.arange(len(idx)), parts)))
        return (batch["x"][0] for batch in view_loader(rows, batches, args.num_workers))

    def with_dataset_idx(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch of the training loaders with dataset indices where USB has rows of a stream."""
        idx = {name: self.dataset_idx[stream][batch[name]] for name, stream in _ROWS_OF.items() if batch.get(name) is not None}
        return {**batch, **idx}

    def stop_workers(self) -> None:
        """End the processes that load; the next iteration starts new ones."""
        for loader in self.loaders.values():
            loader._iterator = None


def epoch_end(position: Position) -> int:
    """The first batch of the training that belongs to the next epoch."""
    # The last epoch takes the remainder; USB would drop it, and with it the last evaluation.
    last = position.epoch + 1 >= position.epochs
    return position.num_train_iter if last else min(position.num_train_iter, (position.epoch + 1) * position.num_iter_per_epoch)


def epoch_position(position: Position) -> tuple[int, int, int, int]:
    """(epoch, batch in it, batch of the training, first batch of the training that belongs to the next epoch)."""
    return position.epoch, position.it - position.epoch * position.num_iter_per_epoch, position.it, epoch_end(position)
