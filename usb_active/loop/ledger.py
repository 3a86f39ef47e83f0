"""The ledger of a run: which samples have a label, which are queried, what is done, as the run directory says."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.config.upper_bound import wants_all_labels, with_known_labels
from usb_active.errors import UsageError, WaitingForLabels, name_some
from usb_active.loop.audit import draw_audit
from usb_active.loop.setup import pin, queryable_mask
from usb_active.pool.answers import charge, check_answers, emptied_answers, merge_answers, volunteered_labels
from usb_active.pool.pool import Pool
from usb_active.pool.split import NOBODY, Split, classes_without_training, hold_out, make_split
from usb_active.records import AUDIT, Answers, LabelRow, Query, status_of
from usb_active.storage.audit_file import AUDIT_FILE, read_audit, samples_at_draw, write_audit
from usb_active.storage.journal_checks import check_labels_but_sums, journal_sums, read_starts
from usb_active.storage.run_dir import RunDir, utc_now
from usb_active.storage.run_format import FIRST, run_format
from usb_active.storage.schemas import check_values, need_done, need_start, read_done, read_query_meta, read_start

if TYPE_CHECKING:
    from usb_active.config.settings import RunConfig
    from usb_active.contracts.dataset import Dataset

logger = logging.getLogger("usb_active")


class Ledger:
    """The pool of this moment, and every file of the run directory that decides what comes next.

    Attributes:
        pool: the labels of the first rows of the journal, as far as `replay` was told to read.
        audit: (A,) dataset indices of the samples that are set aside to measure the model by.
    """

    def __init__(self, config: RunConfig, run_dir: RunDir, dataset: Dataset, oracle: Any):
        self._config, self.run_dir, self.dataset, self.oracle = config, run_dir, dataset, oracle
        self._seed: int = config.usb["seed"]
        self.trains_on_all = wants_all_labels(config.usb["algorithm"])
        self.pool = Pool(queryable_mask(dataset, oracle))
        self._starts: list[int] = []
        self.audit = NOBODY

    # ------------------------------------------------------------------------------------------ the pool
    def open(self) -> None:
        """Check the directory against itself and against the data set, and read the journal."""
        # What an oracle accepts today may not be what it accepted when version 0.1.0 began a cycle.
        complete = not self.oracle.accepts_partial() and not self.oracle.partial_may_change
        check_labels_but_sums(self.run_dir, read_starts(self.run_dir), complete)
        pin(self.run_dir, self.dataset)
        self.dataset.align(self.run_dir.keys() or self.dataset.keys, grow=False)
        self.run_dir.write_keys(self.dataset.keys)
        self._verify()
        self.oracle.setup(self.dataset, self.run_dir.path)
        self.audit = read_audit(self.run_dir)
        if self._config.active.audit and not len(self.audit) and self.run_dir.query(0, probs=False) is not None:
            raise UsageError(f"{self.run_dir.path / AUDIT_FILE} is gone; restore it from a copy: it says what must not be trained on")
        self.replay()

    def _verify(self) -> None:
        self.dataset.verify(self.run_dir.path / "verified.json")

    def replay(self, num_rows: int | None = None) -> None:
        """The pool as the first `num_rows` rows of the journal make it; all of them by default."""
        rows = self.run_dir.rows()[:num_rows]
        queryable = queryable_mask(self.dataset, self.oracle)
        self.pool = Pool.from_rows(rows, queryable, self.dataset.task, self._rows_at_starts(), self.audit)

    def _rows_at_starts(self) -> list[int]:
        """How many rows of the journal the cycles that have begun, one after the other, began with."""
        while (record := read_start(self.run_dir, len(self._starts))) is not None:
            self._starts.append(record["journal_rows"])
        return sorted(self._starts)

    def prepare_query(self, cycle: int) -> None:
        """The pool before a query: samples that were added to the data have joined it, and all earlier picks are taken.

        But for those whose answers were taken back since they were asked for: they may be picked again.
        """
        self._grow(cycle)
        self.replay()
        for earlier in range(cycle):
            idx = self.run_dir.query(earlier).idx
            self.pool.set_pending(idx[self.pool.retracted[idx] < earlier])

    def _grow(self, cycle: int) -> None:
        before = len(self.dataset)
        self.dataset.align(self.dataset.keys, grow=True)
        if len(self.dataset) > before:
            logger.info("new samples in the pool: %d", len(self.dataset) - before)
        # The start itself has looked at them before the first query; later on, those that were replaced are named.
        if len(self.dataset) > before or cycle > 0:
            self._verify()
        if len(self.dataset) > before:
            self.run_dir.write_keys(self.dataset.keys)
        drawn = samples_at_draw(self.run_dir)
        if len(self.dataset) > before and drawn is not None:
            joined = len(self.dataset) - drawn
            logger.warning("the audit was drawn from %d samples: it says nothing of the %d that have joined the pool since", drawn, joined)

    def set_aside(self, known: Collection[int] = (), audit: np.ndarray = NOBODY) -> np.ndarray:
        """Before the first query chooses anything: what the model will be measured by leaves the pool; (A,) dataset indices.

        Args:
            known: samples that are labelled or refused already.
            audit: those of a run whose labels are taken over.

        Raises:
            UsageError: too few samples are left.
        """
        size = self._config.active.audit
        queryable = queryable_mask(self.dataset, self.oracle)
        try:
            self.audit = np.sort(audit) if size and len(audit) else draw_audit(queryable, known, size, self._seed)
        except UsageError as error:
            raise UsageError(f"{self._config.source}: {error}") from None
        self.replay()
        return self.audit

    def audit_again(self) -> np.ndarray:
        """After `prepare_query`: (K,) samples of the audit whose answers were taken back, and that no query has asked for since."""
        return np.flatnonzero(self.pool.audited & (self.pool.retracted >= 0) & ~self.pool.pending)

    # ------------------------------------------------------------------------------------------ queries and answers
    def save_query(self, query: Query, meta: Mapping[str, Any]) -> None:
        """Put the picks on disk; `meta`: who made them, in how many seconds, and what was logged. Written before them."""
        if query.cycle == 0 and len(self.audit):
            write_audit(self.run_dir, self.audit, self.dataset.keys)
        self.run_dir.write_json(f"queries/cycle_{query.cycle:03d}.meta.json", dict(meta))
        self.run_dir.save_query(query)

    def query_meta(self, cycle: int) -> dict[str, Any]:
        """Who made a query, in how many seconds, and what it logged."""
        return read_query_meta(self.run_dir, cycle) or {"acquisition": self.run_dir.query(cycle).acquisition, "seconds": None, "log": {}}

    def collect(self, query: Query, is_known: bool = False) -> None:
        """Ask, and journal what is new.

        Args:
            query: the last one.
            is_known: its labels existed already, and nobody is asked for them.

        Raises:
            WaitingForLabels: people have not answered yet.
            UsageError: everything was skipped, so that there is nothing to train on.
        """
        self.replay()
        query = self._put(query)
        pending = 0 if is_known and not len(self.audit) else self._collect(query)
        # A query without any answer yet is waited for in any case: the cycles would run out without a new label.
        partial = self.oracle.accepts_partial() and pending < len(query.idx) and len(self.pool.labeled) > 0
        if pending and not partial:
            self.write_state(query.cycle, "labels", pending)
            raise WaitingForLabels(self.oracle.instructions(query, pending), pending)
        if len(self.pool.labeled) == 0:
            way_out = f"give one a label: usb-active labels {self.run_dir.path} --set KEY=LABEL"
            raise UsageError(f"all samples that were asked for were skipped or taken back, so there is nothing to train on; {way_out}")

    def _collect(self, query: Query) -> int:
        """How many of this query's samples are still without an answer."""
        if query.cycle > 0 or self._unanswered(query):
            self.oracle.ask(query)
            answers = self.oracle.collect(query)
            asked = self._asked(query.cycle)
            check_answers(answers, asked, self.dataset.task, f"oracle '{self.oracle.name}'")
            self._warn_of_emptied(answers, asked)
            # What a computer says it says again when it is asked again; of people's files nobody knows when they were written.
            anew = query.idx[self.pool.retracted[query.idx] >= 0].tolist() if self.oracle.simulated else ()
            self.journal(asked, answers, anew)
            self.replay()
        return self._unanswered(query)

    def _put(self, query: Query) -> Query:
        """What the oracle is asked of a query: beside labels that existed already, the audit alone."""
        if query.cycle > 0 or not self._config.active.initial.brings_labels or not len(self.audit):
            return query
        rows = np.flatnonzero(np.isin(query.idx, self.audit))
        return replace(query, idx=query.idx[rows], keys=tuple(query.keys[row] for row in rows), acquisition=AUDIT)

    def _warn_of_emptied(self, answers: Answers, asked: Mapping[int, tuple[int, str]]) -> None:
        emptied = emptied_answers(self.run_dir.rows(), answers, _cycles(asked))
        if emptied:
            shown = name_some(f"{row.key} ({row.label or row.status})" for row in emptied)
            way_out = f"to take one back: usb-active labels {self.run_dir.path} --retract KEY, or `retract` in its place"
            logger.warning("answers that were given are gone, and their labels stay: %s; %s", shown, way_out)

    def _asked(self, cycle: int) -> dict[int, tuple[int, str]]:
        """Whom the queries up to a cycle ask for: dataset index → (cycle of the last query that does, its acquisition)."""
        queries = [self.run_dir.query(number) for number in range(cycle + 1)]
        asked = {int(index): (query.cycle, query.acquisition) for query in queries for index in query.idx}
        return asked | {index: (asked[index][0], AUDIT) for index in self.audit.tolist() if index in asked}

    def _unanswered(self, query: Query) -> int:
        return int((~self.pool.answered)[query.idx].sum())

    def journal(self, asked: Mapping[int, tuple[int, str]], answers: Answers, anew: Collection[int] = ()) -> None:
        """Append the answers that are news. `asked`: dataset index → (cycle of the query, its acquisition); `anew`: all of them are."""
        now, rows_before, task = utc_now(), self.run_dir.rows(), self.dataset.task
        more = {"emptied": answers.emptied, "retracted": answers.retracted, "asked": _cycles(asked), "anew": anew}
        news = merge_answers(rows_before, answers.labels, answers.skipped, task, **more)
        rows = [LabelRow(asked[i][0], i, self.dataset.keys[i], label or "", status_of(label), asked[i][1], now) for i, label in news]
        if rows:
            self.run_dir.append_rows(rows)

    def charged(self, cycle: int) -> int:
        """How many labels that nobody asked for are charged to the query of a cycle."""
        active = self._config.active
        if cycle == 0 or not active.charge_volunteered:
            return 0
        return charge(volunteered_labels(self.run_dir.rows(), self._asked(cycle - 1)), cycle, active.budget)

    # ------------------------------------------------------------------------------------------ the start of a training
    def start(self, cycle: int) -> dict[str, Any] | None:
        """What the training of a cycle was begun with; None before it has."""
        return read_start(self.run_dir, cycle)

    def begin(self, query: Query, logged: Mapping[str, float]) -> dict[str, Any]:
        """Fix what the training of a cycle begins with: how many rows of the journal, and by what they will be known again."""
        rows = self._rows_until(query.cycle)
        self.replay(rows)
        record = {"cycle": query.cycle, "journal_rows": rows, **journal_sums(self.run_dir.path / "labels.csv", rows)}
        if self.trains_on_all:
            record["all_labels"] = True
        if self.dataset.class_names:
            record["class_names"] = list(self.dataset.class_names)
        record |= {"pending": self._unanswered(query), "samples": len(self.dataset), "log": dict(logged)}
        self._say_audit(query)
        self.run_dir.write_json(f"cycle_{query.cycle:03d}/start.json", record)
        return record

    def _say_audit(self, query: Query) -> None:
        """What of the audit cannot measure anything."""
        skipped = int((self.pool.audited & self.pool.skipped).sum())
        if skipped:
            what = "it says nothing of samples like these"
            logger.warning("%d of the %d samples of the audit were skipped, and have left it: %s", skipped, len(self.audit), what)
        missing = len(self.audit) - skipped - self.pool.num_audit_labels
        if missing:
            counts, back = (missing, len(self.audit)), self._taken_back(query)
            logger.warning("%d of the %d samples of the audit are not answered yet%s: it is of the others alone", *counts, back)

    def _taken_back(self, query: Query) -> str:
        """What becomes of those samples of the audit whose answers were taken back and that this query does not ask for."""
        again = np.setdiff1d(np.flatnonzero(self.pool.audited & (self.pool.retracted >= 0)), query.idx)
        if len(again) == 0:
            return ""
        what = "which the next query asks for again" if query.cycle < self._config.active.cycles else "which no query asks for again: --set"
        return f" ({len(again)} of them were taken back, {what})"

    def take_up(self, record: Mapping[str, Any]) -> None:
        """The pool as a training begins it."""
        self._check_all_labels(record)
        self.replay(record["journal_rows"])
        self.write_state(record["cycle"], "training", 0)

    def _check_all_labels(self, record: Mapping[str, Any]) -> None:
        """A training that was begun on other labels, by a version in which this algorithm had only those asked for, cannot be resumed."""
        if self.trains_on_all and "all_labels" not in record:
            what = f"cycle {record['cycle']} was begun on the labels asked for, and {self._config.usb['algorithm']!r} now trains on all"
            raise UsageError(f"{self.run_dir.path}: {what}; use another save_name")

    def _rows_until(self, cycle: int) -> int:
        """How many rows this cycle trains on: all there are, but when it is trained again, none of later queries."""
        rows = self.run_dir.rows()
        return next((number for number, row in enumerate(rows) if row.cycle > cycle), len(rows))

    def say_untrained(self, cycle: int) -> None:
        """Of a run that ends with the training of `cycle`: whether labels came, went or changed since that began."""
        later = {row.key for row in self.run_dir.rows()[need_start(self.run_dir, cycle)["journal_rows"] :]}
        if later:
            way_out = f"another run can begin with them: usb-active run NEW.yaml --from {self.run_dir.path}"
            count = f"{len(later)} sample{'' if len(later) == 1 else 's'}"
            what = f"said of {count} after the last training began, which this run trains on no more"
            logger.warning("%s: %s; %s", what, name_some(sorted(later)), way_out)

    def start_log(self, cycle: int) -> dict[str, float]:
        """What plugins logged when the answers were in, before the training."""
        return need_start(self.run_dir, cycle).get("log", {})

    # ------------------------------------------------------------------------------------------ what is trained on
    def training_pool(self) -> Pool:
        """The labels that are trained on: those of the pool, or all that the data set knows where the algorithm wants them."""
        return with_known_labels(self.pool, self.dataset) if self.trains_on_all else self.pool

    @property
    def is_stratified(self) -> bool:
        """Whether validation is divided among the classes: not in runs that began otherwise."""
        return run_format(self.run_dir) > FIRST

    def held_out(self) -> np.ndarray:
        """(V,) dataset indices of the labels that `validation` holds out."""
        share = self._config.active.validation
        return hold_out(self.training_pool(), share, self._seed, self.is_stratified, self.dataset.task.strata)

    def split(self, cycle: int, pseudo: Mapping[str, np.ndarray] | None) -> Split:
        """The samples that train with a label, that train without one, and that are held out; a warning names classes held out whole."""
        share, include, pool = self._config.active.validation, self._config.usb["include_lb_to_ulb"], self.training_pool()
        split = make_split(pool, share, include, self._seed, pseudo, self.is_stratified, self.dataset.task.strata)
        names = self.dataset.class_names
        lost = [names[label] for label in classes_without_training(pool, split)] if names else []
        if lost:
            way_out = f"give more labels, or a smaller `validation` than {share:g}"
            logger.warning("cycle %d: no label left to train on, all held out, of the classes %s; %s", cycle, name_some(lost, 20), way_out)
        return split

    # ------------------------------------------------------------------------------------------ what is done
    def is_done(self, cycle: int) -> bool:
        """Whether the training of a cycle has come to its end."""
        return read_done(self.run_dir, cycle) is not None

    def done(self, cycle: int) -> dict[str, Any]:
        """What a finished training has left. UsageError when it is gone."""
        return need_done(self.run_dir, cycle)

    def finish(self, cycle: int, record: Mapping[str, Any]) -> None:
        """The training of a cycle is done; nothing before this call says so.

        Raises:
            UsageError: something that the task measures is no finite number; nothing was written.
        """
        task, line = self.dataset.task, record["metrics"]
        where = f"{self.run_dir.path / 'metrics.jsonl'}: the line of cycle {cycle} is not written"
        check_values(where, line, task.metrics, f"that is what the metrics of the task '{task.name}' came to")
        self.run_dir.write_json(f"cycle_{cycle:03d}/done.json", dict(record))

    def write_state(self, cycle: int, stage: str, pending: int, why: Sequence[str] = ()) -> None:
        """How far the run is, for people and tools that look at it from outside; `why`: the rules that have ended it."""
        labels = len(self.pool.labeled) + self.pool.num_audit_labels
        counts = {"labels": labels, "skipped": int(self.pool.skipped.sum()), "pending": pending}
        self.run_dir.write_state({"cycle": cycle, "stage": stage, **counts, **({"why": list(why)} if why else {})})


def _cycles(asked: Mapping[int, tuple[int, str]]) -> dict[int, int]:
    """Dataset index → the cycle of the last query that asks for it."""
    return {index: cycle for index, (cycle, _) in asked.items()}
