"""Which samples have a label, which one, and which can be queried.

Dimension letters: N pool, M candidates, U unlabelled, L labelled, C classes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from usb_active.errors import UsageError, name_some, printable
from usb_active.records import RETRACTED, SKIPPED

if TYPE_CHECKING:
    from usb_active.contracts.task import Task
    from usb_active.records import LabelRow


class Pool:
    """The labels as they stand.

    Attributes:
        queryable: (N,) bool, whether it can be queried.
        labels: (N,) int64, as the data set's task numbers them (class indices), -1 none.
        skipped: (N,) bool, refused by the oracle.
        pending: (N,) bool, asked and not answered.
        retracted: (N,) int32, the query's cycle whose answer was taken back and not given again, -1 none.
        round: (N,) int32, the query's cycle that brought the label, -1 none.
        first_label: (N,) the first label that a sample ever got, whatever became of it; -1 none. It never changes again.
        first_cycle: (N,) the first cycle that could train on it; -1 none. It never changes again.
        audited: (N,) bool, set aside to measure the model by (`active.audit`): neither labelled nor unlabelled nor a candidate.
        audit_labels: (N,) int64, labels of these alone, -1 none; they have none in `labels`.
    """

    def __init__(self, queryable: np.ndarray):
        self.queryable = np.array(queryable, dtype=bool)
        if self.queryable.ndim != 1:
            raise UsageError(f"pool: queryable must be (N,), got shape {self.queryable.shape}")
        size = len(self.queryable)
        self.labels = np.full(size, -1, dtype=np.int64)
        self.skipped = np.zeros(size, dtype=bool)
        self.pending = np.zeros(size, dtype=bool)
        self.retracted = np.full(size, -1, dtype=np.int32)
        self.round = np.full(size, -1, dtype=np.int32)
        self.first_label = np.full(size, -1, dtype=np.int64)
        self.first_cycle = np.full(size, -1, dtype=np.int32)
        self.audited = np.zeros(size, dtype=bool)
        self.audit_labels = np.full(size, -1, dtype=np.int64)

    @classmethod
    def from_rows(
        cls, rows: Iterable[LabelRow], queryable: np.ndarray, task: Task, starts: Sequence[int] = (), audit: Sequence[int] | np.ndarray = ()
    ) -> Pool:
        """The pool after these rows of the journal, in their order: the last row of a sample counts.

        Args:
            starts: how many rows there were when cycle 0, 1, … began.
            audit: (A,) dataset indices of the samples that are set aside; their rows are in none but `audit_labels` and `skipped`.

        Raises:
            UsageError: no such sample or no such label; names the line of labels.csv.
        """
        pool = cls(queryable)
        for line, row in enumerate(rows, start=2):
            if not 0 <= row.index < len(pool):
                raise UsageError(f"labels.csv:{line}: no sample {row.index}; valid: 0 to {len(pool) - 1}")
            if row.status == SKIPPED:
                pool._refuse(row.index)
                continue
            if row.status == RETRACTED:
                pool._retract(row.index, row.cycle)
                continue
            try:
                label = task.encode(row.label)
            except ValueError:
                raise UsageError(f"labels.csv:{line}: {task.problem} '{printable(row.label)}'{task.hint(row.label)}") from None
            pool._label(row.index, label, row.cycle)
            if pool.first_label[row.index] < 0:
                pool.first_label[row.index] = label
                pool.first_cycle[row.index] = bisect_right(starts, line - 2)
        pool._set_aside(np.asarray(audit, dtype=np.int64))
        return pool

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def labeled(self) -> np.ndarray:
        """(L,) int64 indices with a label, ascending."""
        return np.flatnonzero(self.labels >= 0)

    @property
    def unlabeled(self) -> np.ndarray:
        """(U,) int64 indices without a label, ascending; skipped and pending ones are among them, those of the audit are not."""
        return np.flatnonzero((self.labels < 0) & ~self.audited)

    @property
    def candidates(self) -> np.ndarray:
        """(M,) int64 indices that may be picked, ascending: queryable, not labelled, skipped, pending or audited; retracted ones too."""
        return np.flatnonzero((self.labels < 0) & self.queryable & ~self.skipped & ~self.pending & ~self.audited)

    @property
    def answered(self) -> np.ndarray:
        """(N,) bool: with a label, one of the audit's too, or refused."""
        return (self.labels >= 0) | (self.audit_labels >= 0) | self.skipped

    @property
    def num_audit_labels(self) -> int:
        """How many samples of the audit have a label."""
        return int((self.audit_labels >= 0).sum())

    def set_labels(self, idx: np.ndarray, labels: np.ndarray, cycle: int) -> None:
        """Give labels (K,), as the task numbers them, to samples idx (K,), which end being pending or skipped."""
        idx = self._check(idx, "set_labels")
        labels = np.asarray(labels)
        if labels.shape != idx.shape or len(idx) and not np.issubdtype(labels.dtype, np.integer):
            got = f"{labels.dtype} of shape {labels.shape}"
            raise UsageError(f"pool.set_labels: labels must be {len(idx)} integers, got {got}")
        if (labels < 0).any():
            raise UsageError(f"pool.set_labels: negative labels of samples {name_some(idx[labels < 0])}")
        self._label(idx, labels, cycle)
        new = idx[self.first_label[idx] < 0]
        self.first_label[new], self.first_cycle[new] = self.labels[new], cycle

    def skip(self, idx: np.ndarray) -> None:
        """The oracle refuses samples idx (K,): never asked again. A label they had is taken back."""
        self._refuse(self._check(idx, "skip"))

    def retract(self, idx: np.ndarray, cycle: int) -> None:
        """What was said of samples idx (K,), asked for in a cycle, is taken back: no label, not skipped, and to be asked for again."""
        self._retract(self._check(idx, "retract"), cycle)

    def set_pending(self, idx: np.ndarray) -> None:
        """Samples idx (K,) are asked, beside those pending already. One labelled (of the audit too) or skipped stays so."""
        idx = self._check(idx, "set_pending")
        self.pending[idx] = ~self.answered[idx]

    def _label(self, idx: int | np.ndarray, labels: int | np.ndarray, cycle: int) -> None:
        self.labels[idx] = labels
        self.round[idx] = cycle
        self.skipped[idx] = self.pending[idx] = False
        self.retracted[idx] = -1

    def _refuse(self, idx: int | np.ndarray) -> None:
        self.labels[idx] = self.round[idx] = self.retracted[idx] = -1
        self.skipped[idx] = True
        self.pending[idx] = False

    def _retract(self, idx: int | np.ndarray, cycle: int) -> None:
        self.labels[idx] = self.round[idx] = -1
        self.skipped[idx] = self.pending[idx] = False
        self.retracted[idx] = cycle

    def _set_aside(self, idx: np.ndarray) -> None:
        self.audited[idx] = True
        self.audit_labels[idx] = self.labels[idx]
        for array in (self.labels, self.round, self.first_label, self.first_cycle):
            array[idx] = -1
        self.pending[idx] = False

    def _check(self, idx: np.ndarray, who: str) -> np.ndarray:
        idx = np.asarray(idx)
        if idx.size == 0:
            return np.empty(0, dtype=np.int64)
        if idx.ndim != 1 or not np.issubdtype(idx.dtype, np.integer):
            raise UsageError(f"pool.{who}: idx must be 1-D integers, got {idx.dtype} of shape {idx.shape}")
        foreign = idx[(idx < 0) | (idx >= len(self))]
        if len(foreign):
            raise UsageError(f"pool.{who}: no samples {name_some(foreign)}; valid: 0 to {len(self) - 1}")
        unique, counts = np.unique(idx, return_counts=True)
        if len(unique) != len(idx):
            raise UsageError(f"pool.{who}: samples given twice: {name_some(unique[counts > 1])}")
        return idx
