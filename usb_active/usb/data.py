"""The pool in USB's loaders: one base dataset behind the labelled and the unlabelled stream, and the evaluation sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from semilearn.datasets.cv_datasets.datasetbase import BasicDataset
from torch.utils.data import default_collate

from usb_active.contracts.dataset import Dataset, Samples, are_image_views, may_load_in_threads, sample_for_views
from usb_active.contracts.task import Task
from usb_active.errors import UsageError, name_some
from usb_active.images.ahead import go_on
from usb_active.pool.inference import eval_views
from usb_active.pool.sampling import CollatedBatch, TravellingRows
from usb_active.usb.batch_draws import Draw, draw_exact
from usb_active.usb.batched_views import Plan, can_batch, plan_of, views_of
from usb_active.usb.device_views import UnmadeViews, unmade_views
from usb_active.usb.unlabeled import View, view_functions

# Where a batch has, in place of its views, what they are to be made of.
UNMADE = "views to be made"
_OTHER_VIEWS = "the installed Pillow, Python, numpy or torch gives other views than what is compiled"


class PoolStream(BasicDataset):
    """Rows of the pool in the views that USB gives to an algorithm (its own `__getitem__`), or in those that the algorithm declares.

    USB's `idx_lb`, `idx_ulb` are rows of this stream, because its tables and banks have as many entries as the stream;
    `idx[row]` is the dataset index.

    Attributes:
        draw: what decides on the crops and operations of a batch that is made at once. Rows that are made one by one draw as USB does.
        leaves_unmade: whether the views of whole batches are left to be made on the device (`unmade_views`).
        kept: then, where images are kept there: (N,) where each sample of the data set is among them, and their height and width.
    """

    def __init__(
        self,
        algorithm: str,
        base: Dataset,
        idx: np.ndarray,
        labels: np.ndarray | None,
        declared: Mapping[str, View] | str | None = None,
        draw: Draw = draw_exact,
    ):
        views = base.views
        # Of another algorithm's name USB makes that one's rows, of both streams.
        rows_of = declared if isinstance(declared, str) else algorithm
        # A strong transform is always given: USB's check of it is inverted. By keyword: another USB has another order.
        super().__init__(
            alg=rows_of, data=idx, targets=labels, num_classes=base.task.num_outputs, transform=views.weak,
            is_ulb=labels is None, strong_transform=views.strong,
        )  # fmt: skip
        self.base, self.idx, self.draw = base, idx, draw
        self.declared = declared if isinstance(declared, Mapping) and labels is None else None
        self.own_views = None if self.declared is None else view_functions(views, self.declared, algorithm)
        # An algorithm's own functions get the sample itself.
        self.leaves_unmade = False
        self.kept: tuple[np.ndarray, tuple[int, int]] | None = None
        self._takes_pixels = all(isinstance(view, str) for view in (self.declared or {}).values())

    def __getitem__(self, row: int) -> dict[str, Any]:
        if self.own_views is None:
            return super().__getitem__(row)
        # An algorithm that looks at no unlabelled image pays for none.
        sample = self._sample(row) if self.own_views else None
        if isinstance(sample, np.ndarray):
            # As USB's rows do.
            sample = Image.fromarray(sample)
        return {"idx_ulb": row, **{name: view(sample) for name, view in self.own_views.items()}}

    @cached_property
    def plan(self) -> Plan | None:
        """How a whole batch is made at once; None where its rows are made one by one."""
        usual = type(self) is PoolStream and are_image_views(self.base.views) and self.base.collate is None
        plan = plan_of(self) if usual and len(self) else None
        if plan is None or not plan.outputs or can_batch():
            return plan
        if self.draw is not draw_exact:
            # One by one the draws would be others, and a run may be resumed where they are not.
            raise UsageError(f"active.views: vectorized makes batches at once, and {_OTHER_VIEWS}; use active.views: exact")
        return None

    @property
    def can_run_ahead(self) -> bool:
        """Whether another thread may make batches: as wholes, from samples that several threads may load at once."""
        return self.plan is not None and may_load_in_threads(self.base)

    def why_one_by_one(self) -> str:
        """Why there is no plan, for people; empty where there is."""
        if self.plan is not None:
            return ""
        if not are_image_views(self.base.views):
            return f"dataset '{self.base.name}' makes views of its own"
        if self.base.collate is not None:
            return f"dataset '{self.base.name}' puts its batches together itself"
        return f"'{self.alg}' makes its {'unlabelled' if self.is_ulb else 'labelled'} views itself" if can_batch() else _OTHER_VIEWS

    def collated_batch(self, rows: np.ndarray, seed: int) -> CollatedBatch | None:
        """A batch's rows, collated; None where they are to be made one by one. Under `draw_exact` it has the views that these would have
        after the generators were seeded."""
        if self.plan is None:
            return None
        views = self._views(self.plan, rows, seed)
        entries: dict[str, Any] = {UNMADE: views} if isinstance(views, UnmadeViews) else {}
        for name in self.plan.names:
            if name in self.plan.outputs:
                # The loader puts them there.
                entries |= {} if UNMADE in entries else {name: views[self.plan.outputs[name]]}
            elif name == "y_lb":
                entries[name] = default_collate([self.base.task.target(self.targets[row]) for row in rows])
            else:
                entries[name] = torch.from_numpy(np.array(rows, dtype=np.int64))
        return CollatedBatch(entries)

    def _views(self, plan: Plan, rows: np.ndarray, seed: int) -> Any:
        if not plan.outputs:
            return ()
        views = self.base.views
        if self.leaves_unmade and self.kept is not None:
            places, sides = self.kept
            return unmade_views(views, places[self.idx[rows]], plan, seed, self.draw, sides)
        samples = [self._sample(int(row)) for row in rows]
        unmade = unmade_views(views, samples, plan, seed, self.draw) if self.leaves_unmade else None
        return views_of(views, samples, plan, seed, self.draw) if unmade is None else unmade

    def __sample__(self, row: int) -> tuple[Any, Any]:
        """USB's way to a row: what its views are made of, which under `active.cache_images` has the size of a view already."""
        return self._sample(row), None if self.targets is None else self.base.task.target(self.targets[row])

    def _sample(self, row: int) -> Any:
        go_on()
        index = int(self.idx[row])
        return sample_for_views(self.base, index, self.base.views) if self._takes_pixels else self.base.load(index)

    def rows_of(self, idx: np.ndarray) -> np.ndarray:
        """Dataset indices → rows. UsageError for an index that is not in the stream."""
        rows = np.searchsorted(self.idx, idx)
        found = (rows < len(self.idx)) & (self.idx[np.minimum(rows, len(self.idx) - 1)] == idx)
        if not found.all():
            raise UsageError(f"make_sampler: samples that are not in this stream: {name_some(np.asarray(idx)[~found])}")
        return rows


class EvaluationRows(TravellingRows):
    """Samples with targets in their eval view; `views` and `collate` are those of their data set, which itself need not travel."""

    def __init__(self, samples: Samples, views: Any, task: Task, collate: Callable | None = None):
        self.samples, self.views, self.task, self.collate = samples, views, task, collate

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, rows: Sequence[int]) -> list[Any] | CollatedBatch:
        # One by one: photographs may be large.
        loaded = (sample_for_views(self.samples, row, self.views) for row in rows)
        targets = [self.task.target(self.samples.targets[row]) for row in rows]
        views = eval_views(self.views, self.collate, loaded)
        if views is not None:
            return CollatedBatch({"idx_lb": torch.tensor(rows), "x_lb": views, "y_lb": default_collate(targets)})
        each = zip(rows, map(self.views.eval, loaded), targets, strict=True)
        return [{"idx_lb": row, "x_lb": view, "y_lb": target} for row, view, target in each]


def pool_samples(base: Dataset, idx: np.ndarray, labels: np.ndarray) -> Samples:
    """Samples of the pool with labels that people gave, for the views of its data set."""
    return Samples(_PoolPart(base, idx).load, labels)


@dataclass(frozen=True)
class _PoolPart:
    """Some samples of a pool. A class, because a worker that is started fresh could not be given a function made here."""

    base: Dataset
    idx: np.ndarray

    def load(self, row: int) -> Any:
        return sample_for_views(self.base, int(self.idx[row]), self.base.views)
