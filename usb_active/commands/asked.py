"""The samples that were asked for or labelled, as they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from usb_active.records import AUDIT, RETRACTED, LabelRow, Query
from usb_active.storage.audit_file import read_audit
from usb_active.storage.run_dir import RunDir
from usb_active.storage.schemas import read_start

PENDING = "pending"
# Of a sample of the pool that no query has asked for, and that nobody has labelled.
UNASKED = "unlabelled"


@dataclass(frozen=True)
class Asked:
    """A sample that was asked for or labelled, as it stands now, in the last query that asked for it.

    `acquisition` is what chose it; `corrections` counts how often it was answered otherwise than before, which taking back is not. `status`
    is "retracted" where an answer was taken back and no query waits for another one.
    """

    cycle: int
    index: int
    key: str
    label: str
    status: str
    acquisition: str
    time: str
    corrections: int

    @property
    def standing(self) -> str:
        """Its label, or its status where it has none."""
        return self.label or self.status


def asked_samples(run: RunDir, queries: Sequence[Query]) -> list[Asked]:
    """Every sample asked for or labelled, by cycle; the last row of a sample counts."""
    rows: dict[int, list[LabelRow]] = {}
    for row in run.rows():
        rows.setdefault(row.index, []).append(row)
    asking, audit = last_queries(queries), set(read_audit(run).tolist())
    keys = {index: key for query in queries for index, key in zip(query.idx.tolist(), query.keys, strict=True)}
    unanswered = ((index, query) for index, query in asking.items() if index not in rows)
    samples = [Asked(query.cycle, index, keys[index], "", PENDING, query.acquisition, "", 0) for index, query in unanswered]
    waiting = None if not queries or read_start(run, queries[-1].cycle) is not None else queries[-1].cycle
    for index, own in rows.items():
        last, query = own[-1], asking.get(index)
        # The acquisition is the query's, not the row's: the row may be a correction.
        cycle, method = (own[0].cycle, own[0].acquisition) if query is None else (query.cycle, query.acquisition)
        # Asked for again, or not yet done with.
        is_pending = last.status == RETRACTED and query is not None and (last.cycle < cycle or cycle == waiting)
        answers = [row.answer for row in own if row.status != RETRACTED]
        changes = sum(before != answer for before, answer in pairwise(answers))
        status, time = (PENDING, "") if is_pending else (last.status, last.time)
        samples.append(Asked(cycle, index, last.key, last.label, status, method, time, changes))
    samples = [replace(sample, acquisition=AUDIT) if sample.index in audit else sample for sample in samples]
    return sorted(samples, key=lambda sample: sample.cycle)


def last_queries(queries: Sequence[Query]) -> dict[int, Query]:
    """Dataset index → the last query that asks for it. A sample is asked for again where its label was taken back."""
    return {index: query for query in queries for index in query.idx.tolist()}
