"""An experiment: cycles of query, answers and training, each step on disk before the next begins."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from usb_active.config.upper_bound import wants_all_labels, with_known_labels
from usb_active.contracts.acquisition import check_picks, check_pseudo_labels, label_arrays
from usb_active.contracts.analysis import analysis_folder, is_analysis
from usb_active.contracts.initial_labels import InitialLabels, check_initial_labels
from usb_active.contracts.plugin import overrides
from usb_active.contracts.prior import When
from usb_active.errors import UsageError, WaitingForLabels, name_some
from usb_active.loop.initial_weights import InitialWeights
from usb_active.loop.metrics import training_record
from usb_active.loop.plugin_states import PluginStates
from usb_active.loop.previous_features import PreviousFeatures
from usb_active.loop.prior_log import PriorLog
from usb_active.loop.prior_schedule import PriorSchedule
from usb_active.loop.setup import Components, components_from_args, pin, queryable_mask
from usb_active.pool.answers import check_answers, emptied_answers, merge_answers
from usb_active.pool.pool import Pool
from usb_active.pool.split import NOBODY, Split, classes_without_training, held_out, make_split, provisional_split
from usb_active.pool.view import PoolView, Registered, ViewSource
from usb_active.randomness import seeded_globals
from usb_active.records import CLASS_METRICS, LABELED, SKIPPED, Answers, LabelRow, Metric, Query
from usb_active.storage.artifacts import check_array, load_artifact, save_artifact
from usb_active.storage.checkpoint import Owner
from usb_active.storage.journal_checks import check_labels_but_sums, journal_sums, read_starts
from usb_active.storage.run_dir import utc_now
from usb_active.storage.run_format import FIRST, run_format
from usb_active.storage.schemas import need_done, need_start, read_done, read_query_meta, read_start

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("usb_active")


class Trainer(Protocol):
    """What the experiment asks of the thing that trains; `usb/algorithm.py` is one."""

    base_name: str
    device: torch.device
    model: torch.nn.Module
    ema_model: torch.nn.Module
    it: int
    num_train_iter: int
    evaluation: dict[str, float]
    best_test_score: float | None
    elapsed: float

    def prepare(self, cycle: int, split: Split) -> None: ...
    def load_model(self, load_path: str) -> Any: ...
    def fit(self) -> None: ...
    def score(self, model: torch.nn.Module, split: str) -> dict[str, float]: ...
    def registered(self) -> Mapping[str, Mapping[str, Registered]]: ...
    def log_record(self, record: Mapping[str, Any]) -> None: ...


class Session:
    """One run, from its directory: what is labelled, who is asked, and how far it has come.

    Built with everything checked; `run` does the rest, and can be called again by another process after any crash.
    """

    def __init__(self, parts: Components, trainer: Trainer):
        self.config, self.run_dir, self.dataset = parts.config, parts.run_dir, parts.dataset
        self.plugins, self.oracle, self._features = parts.plugins, parts.oracle, parts.features
        self.initial_labels = parts.initial_labels
        self.trainer = trainer
        self.seed: int = parts.config.usb["seed"]
        self._all_labels = wants_all_labels(parts.config.usb["algorithm"])
        self.pool = Pool(queryable_mask(self.dataset, self.oracle))
        self.cycle = 0
        self.logged: dict[str, float] = {}
        path = self.run_dir.path
        for role, plugin in self.plugins.items():
            if is_analysis(role):
                plugin.folder = analysis_folder(path, role, plugin.name)
        self.states = PluginStates(self.plugins, path / "queries", lambda: self.run_dir.run_id)
        self.prior = PriorSchedule(self.plugins.get("prior"), self.config.active.prior, path / "artifacts")
        self.prior_log = PriorLog()
        self.previous = PreviousFeatures(self.plugins.values(), path / "artifacts")
        self.weights = InitialWeights(parts.network, parts.pretrainer, self.dataset, self.config.usb, path / "pretrain")
        # The cycle whose training this process has in memory, finished or under way.
        self._in_memory: int | None = None
        self._has_model = False
        self._carries_weights = False
        self._starts: list[int] = []

    @classmethod
    def from_args(cls, args: Any, trainer: Trainer) -> Session:
        """From the arguments that USB gives its algorithms."""
        return cls(components_from_args(args), trainer)

    def close(self, refused: bool = False) -> None:
        """Give the run directory back; `refused`: as it was before this start, if nothing has come of it."""
        if refused:
            self.run_dir.withdraw()
        self.run_dir.close()

    # ------------------------------------------------------------------------------------------ the picture
    def run(self) -> dict[str, float]:
        """Query, answers, training: `cycles` acquisitions and one training more. The last scores, by USB's names."""
        try:
            self._open_pool()
            self.weights.pretrain(self.trainer.device, self.run_dir.run_id)
            record: dict[str, Any] = {}
            for cycle in range(self.config.active.cycles + 1):
                self.cycle = cycle
                if not self._is_done(cycle):
                    query = self._query(cycle)
                    self._answers(query)
                    self._training(cycle)
                record = self._commit(cycle)
                logger.info(progress_line(record, self.dataset.task.metric))
            return {f"test/{name}": value for name, value in record.items() if isinstance(value, float)}
        except UsageError:
            self.close(refused=True)
            raise
        finally:
            self.close()

    # ------------------------------------------------------------------------------------------ pool and pretraining
    def _open_pool(self) -> None:
        # What `accept_partial` says today may not have been so when version 0.1.0 began a cycle.
        complete = not self.oracle.accepts_partial() and not hasattr(self.oracle.config, "accept_partial")
        check_labels_but_sums(self.run_dir, read_starts(self.run_dir), complete)
        pin(self.run_dir, self.dataset)
        self.dataset.align(self.run_dir.keys() or self.dataset.keys, grow=False)
        self.run_dir.write_keys(self.dataset.keys)
        self._verify()
        self.oracle.setup(self.dataset, self.run_dir.path)
        self._replay()

    def _verify(self) -> None:
        self.dataset.verify(self.run_dir.path / "verified.json")

    def _replay(self, num_rows: int | None = None) -> None:
        """The pool as the first `num_rows` rows of the journal make it; all of them by default."""
        rows = self.run_dir.rows()[:num_rows]
        queryable = queryable_mask(self.dataset, self.oracle)
        self.pool = Pool.from_rows(rows, queryable, self.dataset.task, self._rows_at_starts())

    def _rows_at_starts(self) -> list[int]:
        """How many rows of the journal the cycles that have begun, one after the other, began with."""
        while (record := read_start(self.run_dir, len(self._starts))) is not None:
            self._starts.append(record["journal_rows"])
        return sorted(self._starts)

    def _grow(self, cycle: int) -> None:
        """Between cycles, samples that were added to the data join the pool at its end; those that were replaced are named."""
        before = len(self.dataset)
        self.dataset.align(self.dataset.keys, grow=True)
        if len(self.dataset) > before:
            logger.info("new samples in the pool: %d", len(self.dataset) - before)
        # The start itself has looked at them before the first query.
        if len(self.dataset) > before or cycle > 0:
            self._verify()
        if len(self.dataset) > before:
            self.run_dir.write_keys(self.dataset.keys)

    # ------------------------------------------------------------------------------------------ views
    def view_source(self) -> ViewSource:
        """What views are made from at this moment."""
        usb = self.config.usb
        return ViewSource(
            dataset=self.dataset, pool=self.pool, run_path=self.run_dir.path, seed=self.seed, device=self.trainer.device,
            model=lambda: self.trainer.ema_model if self._has_model else None, batch_size=usb["eval_batch_size"],
            num_workers=usb["num_workers"], simulated=self.oracle.simulated, pretrained_features=self._pretrained_features,
            metrics=self.logged, pretrained_modules=self.weights.modules,
            held_out=self.held_out(), live_model=lambda: self.trainer.model if self._has_model else None,
            registered=self.trainer.registered, previous_features=lambda cycle: self.previous.before(cycle, len(self.dataset)),
        )  # fmt: skip

    def held_out(self) -> np.ndarray:
        """(V,) dataset indices of the labels that `validation` holds out."""
        return held_out(self.training_pool(), self.config.active.validation, self.seed, self.is_stratified, self.dataset.task.strata)

    @property
    def is_stratified(self) -> bool:
        """Whether validation is divided among the classes: not in runs that began otherwise."""
        return run_format(self.run_dir) > FIRST

    def _pretrained_features(self) -> np.ndarray | None:
        return self.weights.features(self.view_source())

    def view(self, role: str, cycle: int, stage: str = "", **given: Any) -> PoolView:
        """The pool for the plugin of a role; `stage` sets apart the randomness of several calls in one cycle.

        given: what of the source is not as usual. Held-out labels are not shown, but to those who choose whom to ask.
        """
        source = replace(self.view_source(), **given)
        return PoolView(source, cycle, f"{role}{stage}", self.plugins[role].needs, self._features[role])

    def interval_view(self, role: str) -> PoolView:
        """For `on_interval`: the pool and the EMA model in the middle of a training."""
        return self.view(role, self.cycle, f"@{self.trainer.it + 1}")

    def algorithm_view(self, needs: frozenset[str] = frozenset()) -> PoolView:
        """For algorithms that look at the pool themselves, at any stage of a training."""
        return PoolView(self.view_source(), self.cycle, f"algorithm@{self.trainer.it}", needs, self._features["algorithm"])

    # ------------------------------------------------------------------------------------------ query
    def _role(self, cycle: int) -> str:
        return "initial" if cycle == 0 else "acquisition"

    def _query(self, cycle: int) -> Query:
        """The picks of a cycle: from disk, or made now and put there before anyone is asked."""
        query = self.run_dir.query(cycle)
        if query is not None:
            self._load_states_before_training(cycle)
            return query
        if cycle > 0:
            self._restore(cycle - 1)
        self._grow(cycle)
        self._replay()
        for earlier in range(cycle):
            self.pool.set_pending(self.run_dir.query(earlier).idx)
        self.logged.clear()
        started = time.perf_counter()
        query = self._select(cycle)
        meta = {"acquisition": query.acquisition, "seconds": time.perf_counter() - started, "log": dict(self.logged)}
        self.run_dir.write_json(self._meta_name(cycle), meta)
        self.states.save(cycle, "query")
        self.run_dir.save_query(query)
        return query

    def _meta_name(self, cycle: int) -> str:
        return f"queries/cycle_{cycle:03d}.meta.json"

    def query_meta(self, cycle: int) -> dict[str, Any]:
        """Who made a query, in how many seconds, and what it logged."""
        return read_query_meta(self.run_dir, cycle) or {"acquisition": self.run_dir.query(cycle).acquisition, "seconds": None, "log": {}}

    def _select(self, cycle: int) -> Query:
        if cycle == 0 and self.initial_labels is not None:
            return self._take_known(self.initial_labels)
        plugin = self.plugins[self._role(cycle)]
        with seeded_globals(self.seed, cycle, self._role(cycle)):
            view = self.view(self._role(cycle), cycle, held_out=NOBODY)
            wanted = self.config.active.initial.size if cycle == 0 else self.config.active.budget
            budget = min(wanted, len(view.candidates))
            if budget < wanted:
                logger.warning("cycle %d: %d labels wanted, but only %d samples are left to ask", cycle, wanted, budget)
            if budget == 0:
                return self._make_query(cycle, plugin, np.empty(0, dtype=np.int64))
            view.prepare()
            picks = check_picks(plugin.select(view, budget), view.candidates, budget, f"{self._role(cycle)} '{plugin.name}'")
            return self._make_query(cycle, plugin, picks, view.probs[picks] if "probs" in plugin.needs else None)

    def _take_known(self, plugin: InitialLabels) -> Query:
        """Journal labels that exist already, before the query that stands for them."""
        known = self.known_labels(plugin)
        idx, labels = known["idx"].tolist(), known["labels"].tolist()
        self._journal({i: (0, plugin.name) for i in idx}, dict(zip(idx, labels, strict=True)), ())
        return self._make_query(0, plugin, known["idx"])

    def known_labels(self, plugin: InitialLabels) -> dict[str, np.ndarray]:
        """`idx` (P,) and `labels` (P,), checked, that a plugin brings before the first training."""
        source = replace(self.view_source(), held_out=NOBODY)
        with seeded_globals(self.seed, 0, "initial"):
            returned = plugin.known_labels(PoolView(source, 0, "initial", plugin.needs, self._features["initial"]))
        return check_initial_labels(returned, len(self.dataset), self.dataset.task.num_labels, f"initial '{plugin.name}': known_labels")

    def _make_query(self, cycle: int, plugin: Any, idx: np.ndarray, probs: np.ndarray | None = None) -> Query:
        keys = tuple(self.dataset.keys[int(i)] for i in idx)
        names = tuple(self.dataset.class_names)
        return Query(cycle, idx, keys, plugin.name, names, probs, expects="" if names else self.dataset.task.expects)

    # ------------------------------------------------------------------------------------------ answers
    def _answers(self, query: Query) -> None:
        """Ask, take what is answered, and fix the labels that this cycle trains on.

        Raises:
            WaitingForLabels: people have not answered yet.
        """
        record = read_start(self.run_dir, query.cycle)
        if record is None:
            pending = self._collect(query)
            # A question that nobody has looked at yet is waited for in any case: the cycles would run out without a new label.
            partial = self.oracle.accepts_partial() and pending < len(query.idx) and len(self.pool.labeled) > 0
            if pending and not partial:
                self._write_state(query.cycle, "labels", pending)
                raise WaitingForLabels(self.oracle.instructions(query, pending), pending)
            if len(self.pool.labeled) == 0:
                way_out = f"give one a label: usb-active labels {self.run_dir.path} --set KEY=CLASS"
                raise UsageError(f"all samples of the first query were skipped, so there is nothing to train on; {way_out}")
            self.logged.clear()
            self._save_pseudo_labels(query.cycle)
            self.states.save(query.cycle, "answers")
            record = self._start_record(query)
            self.run_dir.write_json(self._start_name(query.cycle), record)
        self._check_all_labels(record)
        self._replay(record["journal_rows"])
        self._write_state(query.cycle, "training", 0)

    def _start_record(self, query: Query) -> dict[str, Any]:
        """What the training of a cycle begins with: how many rows of the journal, and by what they will be known again."""
        rows = self._rows_until(query.cycle)
        self._replay(rows)
        record = {"cycle": query.cycle, "journal_rows": rows, **journal_sums(self.run_dir.path / "labels.csv", rows)}
        if self._all_labels:
            record["all_labels"] = True
        return {**record, "pending": self._unanswered(query), "samples": len(self.dataset), "log": dict(self.logged)}

    def _check_all_labels(self, record: Mapping[str, Any]) -> None:
        """A training that was begun on other labels, by a version in which this algorithm had only those asked for, cannot go on."""
        if self._all_labels and "all_labels" not in record:
            what = f"cycle {record['cycle']} was begun on the labels asked for, and {self.config.usb['algorithm']!r} now trains on all"
            raise UsageError(f"{self.run_dir.path}: {what}; use another save_name")

    def _rows_until(self, cycle: int) -> int:
        """How many rows this cycle trains on: all there are, but when it is trained anew, none of later queries."""
        rows = self.run_dir.rows()
        return next((number for number, row in enumerate(rows) if row.cycle > cycle), len(rows))

    def _start_name(self, cycle: int) -> str:
        return f"cycle_{cycle:03d}/start.json"

    def start_log(self, cycle: int) -> dict[str, float]:
        """What plugins logged when the answers were in, before the training."""
        return need_start(self.run_dir, cycle).get("log", {})

    def _collect(self, query: Query) -> int:
        """Ask, and journal what is new. Returns how many of this query's samples are still without an answer."""
        self._replay()
        # Labels that existed already were nobody's question.
        if query.cycle > 0 or self._unanswered(query):
            self.oracle.ask(query)
            answers = self.oracle.collect(query)
            asked = self._asked(query.cycle)
            check_answers(answers, asked, self.dataset.task, f"oracle '{self.oracle.name}'")
            self._warn_of_emptied(answers)
            self._journal(asked, answers.labels, answers.skipped)
            self._replay()
        return self._unanswered(query)

    def _warn_of_emptied(self, answers: Answers) -> None:
        emptied = emptied_answers(self.run_dir.rows(), answers)
        if emptied:
            shown = name_some(f"{row.key} ({row.label or row.status})" for row in emptied)
            way_out = f"to take one back: usb-active labels {self.run_dir.path} --skip KEY, or `skip` in its place"
            logger.warning("answers that were given are gone, and their labels stay: %s; %s", shown, way_out)

    def _asked(self, cycle: int) -> dict[int, tuple[int, str]]:
        """Whom the queries up to a cycle ask for: dataset index → (cycle of the query, its acquisition)."""
        queries = [self.run_dir.query(number) for number in range(cycle + 1)]
        return {int(index): (query.cycle, query.acquisition) for query in queries for index in query.idx}

    def _unanswered(self, query: Query) -> int:
        return int(((self.pool.labels < 0) & ~self.pool.skipped)[query.idx].sum())

    def _journal(self, asked: Mapping[int, tuple[int, str]], labels: Mapping[int, int], skipped: Collection[int]) -> None:
        """Append the answers that are news. `asked`: dataset index → (cycle of the query, its acquisition)."""
        now = utc_now()
        rows = [
            LabelRow(asked[i][0], i, self.dataset.keys[i], label, LABELED if label else SKIPPED, asked[i][1], now)
            for i, label in merge_answers(self.run_dir.rows(), labels, skipped, self.dataset.task)
        ]
        if rows:
            self.run_dir.append_rows(rows)

    def _save_pseudo_labels(self, cycle: int) -> None:
        role = self._role(cycle)
        plugin = self.plugins.get(role)
        if not overrides(plugin, "pseudo_labels"):
            return
        if cycle > 0:
            self._restore(cycle - 1)
            self.logged.clear()
        with seeded_globals(self.seed, cycle, role, "pseudo_labels"):
            given = plugin.pseudo_labels(self.view(role, cycle, "/pseudo_labels"))
        who = f"{role} '{plugin.name}': pseudo_labels"
        checked = check_pseudo_labels(*label_arrays(given, who), len(self.dataset), self.dataset.task.num_labels, who)
        save_artifact(self._pseudo_path(cycle), checked)

    def _load_pseudo_labels(self, cycle: int) -> dict[str, np.ndarray] | None:
        path = self._pseudo_path(cycle)
        found = load_artifact(path)
        if found is None:
            return None
        path, remedy = path.with_name(f"{path.name}.npz"), "restore it from a copy, or move the cycle's folder away to make it again"
        if not isinstance(found, dict) or set(found) != {"idx", "labels"}:
            raise UsageError(f"{path} is damaged (not the arrays idx and labels); {remedy}")
        idx = check_array(path, found["idx"], "iu", (None,), remedy)
        labels = check_array(path, found["labels"], "iu", (len(idx),), remedy)
        there = (idx >= 0) & (idx < len(self.dataset)) & (labels >= 0) & (labels < self.dataset.task.num_labels)
        if not there.all():
            raise UsageError(f"{path} is damaged (samples or classes that do not exist); {remedy}")
        return found

    def _pseudo_path(self, cycle: int) -> Path:
        return self.run_dir.path / "artifacts" / f"pseudo_labels_{cycle:03d}"

    # ------------------------------------------------------------------------------------------ training
    def training_pool(self) -> Pool:
        """The labels that are trained on: those of the pool, or all that the data set knows where the algorithm wants them."""
        return with_known_labels(self.pool, self.dataset) if self._all_labels else self.pool

    @property
    def cycle_path(self) -> Path:
        """Where this cycle's checkpoints are."""
        return self.run_dir.cycle_path(self.cycle)

    def continues_weights(self) -> bool:
        """Whether the training that is being prepared goes on from the weights in memory."""
        return self._carries_weights

    def owner(self, cycle: int) -> Owner:
        """Whose the checkpoints of a cycle are."""
        return Owner(self.run_dir.run_id, cycle, self.trainer.base_name)

    def provisional_split(self) -> Split:
        """For USB's constructors, before anything is labelled."""
        return provisional_split(len(self.dataset))

    def progress_title(self, cycle: int) -> str:
        """What the progress bar says."""
        return f"cycle {cycle}/{self.config.active.cycles}"

    def _done_name(self, cycle: int) -> str:
        return f"cycle_{cycle:03d}/done.json"

    def _is_done(self, cycle: int) -> bool:
        return read_done(self.run_dir, cycle) is not None

    def _training(self, cycle: int) -> None:
        """Train a cycle to its end; done.json says that it is."""
        if self._all_labels:
            counts = len(self.training_pool().labeled), len(self.pool.labeled)
            logger.info("%s trains on all %d known labels; asked for were %d", self.config.usb["algorithm"], *counts)
        self._train(cycle)
        in_training = self.prior.file
        self._fit_prior("end", cycle, self.trainer.num_train_iter)
        self.save_prior_log()
        self.states.save(cycle, "training")
        record = training_record(self, cycle)
        self.run_dir.write_json(self._done_name(cycle), {"metrics": record, "prior": self.prior.file, "prior_in_training": in_training})
        self.trainer.log_record(record)
        self._write_state(cycle, "done", 0)

    def _commit(self, cycle: int) -> dict[str, Any]:
        """What follows from done.json, by whichever process wrote it; again is harmless. The cycle's metrics."""
        done = need_done(self.run_dir, cycle)
        self.run_dir.append_metrics(done["metrics"])
        self._forget(cycle, self._tables_of(cycle))
        return done["metrics"]

    def _tables_of(self, cycle: int) -> set[str]:
        """Prior tables that a finished cycle needs should it be trained again: what it began with, was guided by, and left."""
        done = need_done(self.run_dir, cycle)
        return {done["prior"], done["prior_in_training"], self._prior_before(cycle)}

    def _prior_before(self, cycle: int) -> str:
        return "" if cycle == 0 else need_done(self.run_dir, cycle - 1)["prior"]

    def _train(self, cycle: int) -> None:
        """USB's training of a cycle on `self.pool`, from its latest checkpoint if there is one."""
        checkpoint = self.run_dir.cycle_path(cycle) / "latest_model.pth"
        resumed = checkpoint.exists()
        if self.previous.is_missing(cycle):
            self._restore(cycle - 1)
            self._keep_features(cycle - 1)
        if self.config.active.warm_start and cycle > 0 and not resumed:
            self._restore(cycle - 1)
        self._carries_weights = self.config.active.warm_start and cycle > 0 and not resumed
        self._has_model = False
        self.logged.clear()
        self.prior_log.replace([])
        active, pseudo = self.config.active, self._load_pseudo_labels(cycle)
        include, pool = self.config.usb["include_lb_to_ulb"], self.training_pool()
        split = make_split(pool, active.validation, include, self.seed, pseudo, self.is_stratified, self.dataset.task.strata)
        names = self.dataset.class_names
        lost = [names[label] for label in classes_without_training(pool, split)] if names else []
        if lost:
            way_out = f"give more labels, or a smaller `validation` than {active.validation:g}"
            logger.warning("cycle %d: no label left to train on, all held out, of the classes %s; %s", cycle, name_some(lost, 20), way_out)
        self.trainer.prepare(cycle, split)
        if resumed:
            self.trainer.load_model(str(checkpoint))
        else:
            self.load_prior(self._prior_before(cycle))
            self._fit_prior("start", cycle)
        self._in_memory, self._has_model = cycle, True
        self.trainer.fit()

    def _keep_features(self, cycle: int) -> None:
        """Put the features of a finished training's model, which is in memory, on disk: of the pool as it was in that cycle."""
        view = PoolView(self.view_source(), cycle, "previous_features", frozenset(), None)
        samples = need_start(self.run_dir, cycle).get("samples")
        self.previous.keep(cycle, view.model_pass(["features"], first=samples)["features"])

    def _restore(self, cycle: int) -> None:
        """Have the finished training of a cycle in memory, as it was when it ended: from its checkpoint, or trained again."""
        if self._in_memory == cycle:
            return
        rows = need_start(self.run_dir, cycle)["journal_rows"]
        if not (self.run_dir.cycle_path(cycle) / "latest_model.pth").exists():
            logger.warning("cycle %d: its checkpoint is gone, and the next step needs that model: it is trained again", cycle)
            self._load_states_before_training(cycle)
        here, pool = self.cycle, self.pool
        self._replay(rows)
        self.cycle = cycle
        self._train(cycle)
        self.states.load(cycle, "training")
        self.load_prior(need_done(self.run_dir, cycle)["prior"])
        self.cycle, self.pool = here, pool
        self._load_states_before_training(here)

    def _forget(self, cycle: int, tables: set[str]) -> None:
        """`keep: last`: when a cycle is committed, what only earlier ones needed goes: checkpoints, scratch, prior tables."""
        if self.config.active.keep == "all":
            return
        before = range(max(0, cycle - 1), cycle)
        old = [path for earlier in before for path in self.run_dir.cycle_path(earlier).glob("*.pth")]
        for path in [*sorted(old), *self.prior.outdated(range(cycle + 1), tables)]:
            path.unlink()
            logger.debug("removed %s (keep: last)", path)
        self.previous.forget(cycle)
        shutil.rmtree(self.run_dir.path / "scratch" / f"cycle_{cycle:03d}", ignore_errors=True)

    def _write_state(self, cycle: int, stage: str, pending: int) -> None:
        counts = {"labels": len(self.pool.labeled), "skipped": int(self.pool.skipped.sum()), "pending": pending}
        self.run_dir.write_state({"cycle": cycle, "stage": stage, **counts})

    def _load_states_before_training(self, cycle: int) -> None:
        """The plugins as they were when the last step before the cycle's training was committed, if any was."""
        if read_start(self.run_dir, cycle) is not None:
            self.states.load(cycle, "answers")
        elif self.run_dir.query(cycle) is not None:
            self.states.load(cycle, "query")

    # ------------------------------------------------------------------------------------------ prior
    def update_prior(self, iteration: int) -> None:
        """Between two steps: a new table, if one is due."""
        if self.prior.is_due(iteration, self.trainer.num_train_iter):
            self._fit_prior("step", self.cycle, iteration)

    def _fit_prior(self, when: When, cycle: int, iteration: int = 0) -> None:
        if not self.prior.exists:
            return
        logged: dict[str, float] = {}
        # The position of what is drawn, and a part of the table's name.
        position = 0 if when == "end" else iteration
        if self.prior.fit(self.view("prior", cycle, f"/{when}@{position}", metrics=logged), when, self.seed, position):
            self.prior_log.add_table(iteration, when, logged)
        self.logged.update(logged)

    def save_prior_log(self) -> None:
        """Put what the prior did so far beside the checkpoint; a finished training that is made again leaves its file alone."""
        if not self._is_done(self.cycle):
            self.prior_log.save(self.cycle_path)

    def forget_tables(self) -> None:
        """`keep: last`: when a checkpoint is written, the tables of this training that neither it nor a finished cycle needs go."""
        if self.config.active.keep == "last":
            needed = self._tables_of(self.cycle) if self._is_done(self.cycle) else set()
            for path in self.prior.outdated(range(self.cycle, self.cycle + 1), {self.prior.file, *needed}):
                path.unlink()

    def load_prior(self, name: str) -> None:
        """Take the prior table of this name, "" for none."""
        self.prior.load(name, len(self.dataset), len(self.dataset.class_names))


def progress_line(record: dict[str, Any], metric: Metric = CLASS_METRICS[0]) -> str:
    """One line a cycle: labels and the headline metric."""
    value = record[metric.key]
    shown = "no held-out labels to evaluate on" if value is None else f"{metric.show(value)} ({record['evaluated_on']})"
    asked = f" ({record['num_asked']} asked for)" if "num_asked" in record else ""
    return f"cycle {record['cycle']}: {record['num_labels']} labels{asked}, {shown}, trained {record['train_seconds']:.0f} s"
