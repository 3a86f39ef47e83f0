"""The desk: what is asked of people in a run, what stands, and what they answer. Every answer is in labels.csv before it counts.

Rows are written as those of `usb-active labels --set`, with the acquisition "correction": to an oracle that reads files, an answer of its
own that is in none of them (the CSV's cell is empty) would look as if somebody had taken it back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from usb_active.builtin.answer_files import csv_path
from usb_active.errors import UsageError
from usb_active.labeling.leases import Leases
from usb_active.records import CORRECTION, SKIP, LabelRow, Query, status_of
from usb_active.storage.classes import with_added
from usb_active.storage.journal_checks import check_labels
from usb_active.storage.run_dir import RunDir, utc_now
from usb_active.storage.schemas import read_done, read_start

# What stands in place of a class where nobody has answered yet.
PENDING = -2
# So many tabs may have something to undo, each so many steps.
_CLIENTS, _STEPS = 50, 1000
# What people wrote into the files of queries and no run has taken yet, of some samples, as rows.
Unread = Callable[[RunDir, Sequence[Query], set[int]], list[LabelRow]]


@dataclass
class Sample:
    """A sample at the desk.

    Attributes:
        cycle: of the query that asked for it last.
        index: its dataset index.
        key: its key.
        answer: what stands: the name of a class, "" where it is refused, None where there is no answer.
        suggestion: the class that the model takes it for; None where the model was not asked.
        confidence: with which probability.
        by: the client that answered last, since the desk was opened.
    """

    cycle: int
    index: int
    key: str
    answer: str | None = None
    suggestion: int | None = None
    confidence: float | None = None
    by: str | None = None


@dataclass(frozen=True)
class _Change:
    place: int
    before: str | None
    after: str | None
    # Whose the answer before was.
    by: str | None = None


class Desk:
    """The samples of a run at which people work, with the run's lock. Places are positions in `samples`.

    Attributes:
        samples: those of the last query first, as it has them, then those of earlier ones, the latest first.
        batch: how many of them are the last query's.
        cycle: the last query's.
        class_names: the labels that may be given, those that were added since included.
        is_asking: whether the last query waits for answers: no training has begun with it.
        is_interrupted: whether a training has begun with it, and has not ended.
        history: places in the order in which they changed, for pages that show them.
    """

    def __init__(self, path: Path, unread: Unread):
        """Take the run.

        Args:
            path: the run's directory.
            unread: what people wrote into the queries' files and no run has taken yet.

        Raises:
            UsageError: no run, a damaged one, one that another process uses, one that has asked for nothing yet or for labels that are
                no classes.
        """
        self.run = RunDir.open(path, RunDir.read(path).config)
        self.leases = Leases()
        self.history: list[int] = []
        self._unread = unread
        self._steps: dict[str, list[list[_Change]]] = {}
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the run's lock back."""
        self.run.close()

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------ what there is
    def _read(self) -> None:
        self._queries = check_labels(self.run)
        if not self._queries:
            raise UsageError(f"{self.run.path}: nothing has been asked yet: usb-active run {self.run.path / 'config.yaml'}")
        last = self._queries[-1]
        if not last.class_names:
            what = f"labels are no classes here ({last.expects}), and the page is for classes"
            raise UsageError(f"{self.run.path}: {what}; write them into {csv_path(self.run.path, last.cycle)}")
        self.cycle, self.batch = last.cycle, len(last.idx)
        self.class_names = with_added(self.run, last.class_names)
        self._numbers = {name: number for number, name in enumerate(self.class_names)}
        self.is_asking = read_start(self.run, self.cycle) is None
        self.is_interrupted = not self.is_asking and read_done(self.run, self.cycle) is None
        rows: dict[int, LabelRow] = {row.index: row for row in self.run.rows()}
        self.samples = _samples(self.run, self._queries, rows)
        self._asked = {index for query in self._queries for index in query.idx.tolist()}
        self._places = {sample.index: place for place, sample in enumerate(self.samples)}
        self._seen: list[tuple[int, int] | None] = []
        self._take_up()

    @property
    def pending(self) -> list[int]:
        """Places of the last query's samples that nobody has answered."""
        return [place for place in range(self.batch) if self.samples[place].answer is None]

    @property
    def is_complete(self) -> bool:
        """Whether nothing of the last query is left to answer."""
        return not self.is_asking or not any(sample.answer is None for sample in self.samples[: self.batch])

    def code(self, place: int) -> int:
        """What stands, as a number: the class, `SKIP`, or `PENDING`."""
        answer = self.samples[place].answer
        if answer is None:
            return PENDING
        return self._numbers.get(answer, PENDING) if answer else SKIP

    def changed_since(self, version: int) -> dict[int, int]:
        """Place → what stands, of those that changed since the history was so long."""
        return {place: self.code(place) for place in dict.fromkeys(self.history[max(0, version) :])}

    # ------------------------------------------------------------------------------------------ what people do
    def answer(self, client: str, place: int, label: int) -> None:
        """Take an answer: when this returns it survives a power cut; when it raises nothing has changed.

        Somebody else's answer to the same sample stays in the journal as a row of its own, and the last one counts. What the same client
        says again, or what the journal said already, is no news.

        Args:
            client: who answers.
            place: of which sample.
            label: a class, or `SKIP`.

        Raises:
            UsageError: no such sample or class; a disk that is full or cannot be written.
        """
        sample, answer = self._sample(place), self._text(label)
        self._take_up()
        if sample.answer != answer or sample.by not in (None, client):
            self._write(client, [_Change(place, sample.answer, answer, sample.by)])

    def accept_above(self, client: str, least: float, now: float) -> list[int]:
        """Answer as the model suggests wherever it is at least so sure: places of the last query without an answer, in one step.

        Args:
            client: who accepts; what others look at is left to them.
            least: the confidence, in [0, 1].
            now: the time in seconds.
        """
        self._take_up()
        places = self.sure(client, least, now)
        samples = [self.samples[place] for place in places]
        changes = [_Change(at, None, self.class_names[one.suggestion or 0], one.by) for at, one in zip(places, samples, strict=True)]
        self._write(client, changes)
        return places

    def sure(self, client: str, least: float, now: float) -> list[int]:
        """The places that `accept_above` would answer. UsageError when `least` is no probability."""
        if not 0 <= least <= 1:
            raise UsageError(f"the confidence must be from 0 to 1, is {least}")
        others = self.leases.others(client, now)
        sure = (place for place in self.pending if (self.samples[place].confidence or 0.0) >= least)
        return [place for place in sure if self.samples[place].suggestion is not None and place not in others]

    def undo(self, client: str) -> list[int]:
        """Take the client's last step back: what stood before stands again, by a row of its own. The places; none where there is no step.

        What somebody else has answered since is left as it is, even where it is the same; a step of which nothing is left is none.
        """
        steps = self._steps.get(client, [])
        if steps:
            self._take_up()
        while steps:
            undone = [one for one in steps[-1] if (self.samples[one.place].answer, self.samples[one.place].by) == (one.after, client)]
            self._write(client, [_Change(one.place, one.after, one.before) for one in undone], is_step=False)
            steps.pop()
            for one in undone:
                self.samples[one.place].by = one.by
            if undone:
                return [one.place for one in undone]
        return []

    # ------------------------------------------------------------------------------------------ the journal
    def _sample(self, place: int) -> Sample:
        if not 0 <= place < len(self.samples):
            raise UsageError(f"no sample at place {place}; valid: 0 to {len(self.samples) - 1}")
        return self.samples[place]

    def _text(self, label: int) -> str:
        if label != SKIP and not 0 <= label < len(self.class_names):
            raise UsageError(f"no class {label}; valid: 0 to {len(self.class_names) - 1}, and {SKIP} to skip")
        return "" if label == SKIP else self.class_names[label]

    def _write(self, client: str, changes: Sequence[_Change], is_step: bool = True) -> None:
        if not changes:
            return
        now = utc_now()
        samples = [self.samples[change.place] for change in changes]
        rows = [
            LabelRow(self._cycle_of(sample), sample.index, sample.key, change.after or "", status_of(change.after), CORRECTION, now)
            for sample, change in zip(samples, changes, strict=True)
        ]
        self.run.append_rows(rows)
        self._apply(rows, client)
        if is_step:
            self._remember(client, list(changes))

    def _cycle_of(self, sample: Sample) -> int:
        """Of a row: that of the query that asked for the sample; what nobody asked for is given while the last one is there."""
        return sample.cycle if sample.index in self._asked else self.cycle

    def _apply(self, rows: Iterable[LabelRow], client: str | None) -> None:
        for row in rows:
            place = self._places[row.index]
            self.samples[place].answer, self.samples[place].by = row.answer, client
            self.history.append(place)

    def _remember(self, client: str, step: list[_Change]) -> None:
        steps = self._steps.pop(client, [])
        # The one that worked last is last.
        self._steps[client] = [*steps[1 - _STEPS :], step]
        if len(self._steps) > _CLIENTS:
            del self._steps[next(iter(self._steps))]

    def _take_up(self) -> None:
        """What people wrote into the queries' files meanwhile came first, and must not be taken later for an answer after this one."""
        paths = [path for query in self._queries for path in _files(self.run.path, query.cycle)]
        seen = [_stamp(path) for path in paths]
        if seen == self._seen:
            return
        rows = self._unread(self.run, self._queries, set(self._places))
        self.run.append_rows(rows)
        self._apply(rows, None)
        self._seen = seen


def _samples(run: RunDir, queries: Sequence[Query], rows: Mapping[int, LabelRow]) -> list[Sample]:
    """Every sample that was asked for or labelled, once: as the last query that asked for it has it."""
    found: dict[int, Sample] = {}
    for query in reversed(queries):
        fresh = [at for at, index in enumerate(query.idx.tolist()) if index not in found]
        best, sure = _suggestions(run, query, fresh)
        for at, label, probability in zip(fresh, best, sure, strict=True):
            index = int(query.idx[at])
            answer = rows[index].answer if index in rows else None
            found[index] = Sample(query.cycle, index, query.keys[at], answer, label, probability)
    others = [Sample(row.cycle, row.index, row.key, row.answer) for row in rows.values() if row.index not in found]
    return [*found.values(), *others]


def _suggestions(run: RunDir, query: Query, places: Collection[int]) -> tuple[list[int | None], list[float | None]]:
    """What the model took these samples of a query for, and with which probability."""
    probs = run.query(query.cycle).probs
    nothing: list[None] = [None] * len(places)
    if probs is None or not places:
        return list(nothing), list(nothing)
    table = np.asarray(probs[list(places)], dtype=np.float64)
    best = table.argmax(axis=1)
    sure = table[np.arange(len(table)), best]
    # What is no number is no suggestion: the run says so where it asks.
    known = np.isfinite(table).all(axis=1)
    labels = [int(label) if good else None for label, good in zip(best, known, strict=True)]
    return labels, [float(value) if good else None for value, good in zip(sure, known, strict=True)]


def _files(run_path: Path, cycle: int) -> tuple[Path, Path]:
    path = csv_path(run_path, cycle)
    return path, path.with_suffix(".xlsx")


def _stamp(path: Path) -> tuple[int, int] | None:
    """By which a file is known to be as it was; None where there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size
