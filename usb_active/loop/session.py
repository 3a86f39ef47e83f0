"""A session: cycles of query, answers and training, each step on disk before the next begins."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from usb_active.config.averaging import ema_remark, plans_steps
from usb_active.contracts.analysis import analysis_folder, is_analysis
from usb_active.contracts.prior import When
from usb_active.environment.cpu_clock import cpu_seconds
from usb_active.errors import UsageError
from usb_active.loop.guidance import Guidance
from usb_active.loop.initial_weights import InitialWeights
from usb_active.loop.ledger import Ledger
from usb_active.loop.live_scores import gap_remark
from usb_active.loop.metrics import training_record
from usb_active.loop.plugin_states import PluginStates
from usb_active.loop.previous_features import PreviousFeatures
from usb_active.loop.selection import Selection
from usb_active.loop.setup import Components, components_from_args
from usb_active.loop.stopping import all_reached
from usb_active.loop.trainer import Trainer
from usb_active.loop.views import PoolViews
from usb_active.pool.batch_norm import tracking_layers
from usb_active.pool.feature_inputs import FeatureInputs
from usb_active.pool.image_cache import ImageCache
from usb_active.pool.pool import Pool
from usb_active.pool.split import Split, provisional_split
from usb_active.pool.view import PoolView
from usb_active.records import CLASS_METRICS, Metric, Query
from usb_active.storage.checkpoint import Owner
from usb_active.storage.classes import check_width
from usb_active.storage.schemas import need_start

logger = logging.getLogger("usb_active")


class Session:
    """One run, from its directory: the order of its steps. What each step knows is in the parts:

    - `ledger`: which samples have a label, which are queried, what is done;
    - `views`: what plugins look at the pool through, and what they logged;
    - `selection`: what to query next;
    - `guidance`: the prior;
    - `images`: decoded images, where they are kept;
    - `weights`, `previous`, `states`: initial weights, features of the cycle before, states of plugins.

    Built with everything checked; `run` does the rest, and can be called again by another process after any crash.
    """

    def __init__(self, parts: Components, trainer: Trainer):
        self.config, self.run_dir, self.dataset, self.inputs = parts.config, parts.run_dir, parts.dataset, parts.inputs
        self.plugins, self.oracle, self.initial_labels = parts.plugins, parts.oracle, parts.initial_labels
        self.trainer = trainer
        self.seed: int = parts.config.usb["seed"]
        self.cycle = 0
        path = self.run_dir.path
        for role, plugin in self.plugins.items():
            if is_analysis(role):
                plugin.folder = analysis_folder(path, role, plugin.name)
        self.ledger = Ledger(self.config, self.run_dir, self.dataset, self.oracle)
        self.states = PluginStates(self.plugins, path / "queries", lambda: self.run_dir.run_id)
        self.guidance = Guidance(self.plugins.get("prior"), self.config.active.prior, path / "artifacts")
        self.previous = PreviousFeatures(self.plugins.values(), path / "artifacts")
        self.weights = InitialWeights(parts.network, parts.pretrainer, self.inputs, self.config.usb, path / "pretrain")
        usb = self.config.usb
        self.images = ImageCache(self.dataset, path / "scratch", self.config.active.cache_images, usb["num_workers"])
        self.views = PoolViews(parts, self.ledger, trainer, self.weights, self.previous)
        self.selection = Selection(parts, self.ledger, self.views)
        if isinstance(self.inputs, FeatureInputs):
            self.inputs.make = self.views.of_inputs
        # The cycle whose training this process has in memory, finished or under way.
        self._in_memory: int | None = None
        self._carries_weights = False

    @classmethod
    def from_args(cls, args: Any, trainer: Trainer) -> Session:
        """From the arguments that USB gives its algorithms."""
        return cls(components_from_args(args), trainer)

    def close(self, refused: bool = False) -> None:
        """Give the run directory back; `refused`: as it was before this start, if nothing has come of it."""
        self.images.close()
        if refused:
            self.run_dir.withdraw()
        self.run_dir.close()

    @property
    def pool(self) -> Pool:
        """Which samples have a label at this moment."""
        return self.ledger.pool

    @property
    def logged(self) -> dict[str, float]:
        """What plugins logged since the step began."""
        return self.views.logged

    # ------------------------------------------------------------------------------------------ the picture
    def run(self) -> dict[str, float]:
        """Query, answers, training: `cycles` acquisitions and one training more. The last scores, by USB's names."""
        try:
            self.ledger.open()
            if self.weights.is_to_be_pretrained:
                self.images.fill()
            self.weights.pretrain(self.trainer.device, self.run_dir.run_id)
            record: dict[str, Any] = {}
            for cycle in range(self.config.active.cycles + 1):
                self.cycle = cycle
                if not self.ledger.is_done(cycle):
                    query = self._query(cycle)
                    self._answers(query)
                    self._training(cycle)
                record = self._commit(cycle)
                logger.info(progress_line(record, self.dataset.task.metric))
                if self._stops(cycle):
                    break
            self.ledger.say_untrained(self.cycle)
            return {f"test/{name}": value for name, value in record.items() if isinstance(value, float)}
        except UsageError:
            self.close(refused=True)
            raise
        finally:
            self.close()

    def _query(self, cycle: int) -> Query:
        """The picks of a cycle: from disk, or made now and put there before the oracle is asked."""
        query = self.run_dir.query(cycle)
        if query is not None:
            self._load_states_before_training(cycle)
            return query
        if cycle > 0:
            self._restore(cycle - 1)
        self.ledger.prepare_query(cycle)
        self.images.refresh()
        self.logged.clear()
        started, cpu_started = time.perf_counter(), cpu_seconds()
        query = self.selection.choose(cycle)
        took = {"seconds": time.perf_counter() - started, "cpu_seconds": cpu_seconds() - cpu_started}
        meta = {"acquisition": query.acquisition, **took, "log": dict(self.logged)}
        self.states.save(cycle, "query")
        self.ledger.save_query(query, meta)
        return query

    def _answers(self, query: Query) -> None:
        """Ask, take what is answered, and fix the labels that this cycle trains on.

        Raises:
            WaitingForLabels: people have not answered yet.
        """
        record = self.ledger.start(query.cycle)
        if record is None:
            self.ledger.collect(query, is_known=query.cycle == 0 and self.initial_labels is not None)
            self.logged.clear()
            if self.selection.has_pseudo_labels(query.cycle):
                if query.cycle > 0:
                    self._restore(query.cycle - 1)
                    self.logged.clear()
                self.selection.save_pseudo_labels(query.cycle)
            self.states.save(query.cycle, "answers")
            record = self.ledger.begin(query, self.logged)
        self.ledger.take_up(record)

    def _training(self, cycle: int) -> None:
        """Train a cycle to its end; done.json says that it is."""
        if self.ledger.trains_on_all:
            counts = len(self.ledger.training_pool().labeled), len(self.pool.labeled)
            logger.info("%s trains on all %d known labels, not only on the %d in labels.csv", self.config.usb["algorithm"], *counts)
        self._train(cycle)
        in_training = self.guidance.file
        self._fit_prior("end", cycle, self.trainer.num_train_iter)
        self.save_prior_log()
        self.states.save(cycle, "training")
        record = training_record(self, cycle)
        self._say_gap(cycle)
        self.ledger.finish(cycle, {"metrics": record, "prior": self.guidance.file, "prior_in_training": in_training})
        self.trainer.log_record(record)
        self.ledger.write_state(cycle, "done", 0)

    def _commit(self, cycle: int) -> dict[str, Any]:
        """What follows from done.json, by whichever process wrote it; again is harmless. The cycle's metrics."""
        done = self.ledger.done(cycle)
        self.run_dir.append_metrics(done["metrics"])
        self._forget(cycle, self._tables_of(cycle))
        return done["metrics"]

    def _stops(self, cycle: int) -> bool:
        """Say which stop rules are reached, as the configuration has them now; whether one of them ends the run.

        It ends where nothing has been asked since: a run that was continued under other rules goes on from where it is.
        """
        rules = self.config.active.stop
        if not rules:
            return False
        found = all_reached(rules, [line for line in self.run_dir.metrics() if line["cycle"] <= cycle])
        is_last = cycle == self.config.active.cycles or self.run_dir.query(cycle + 1, probs=False) is not None
        ends = [why for rule, why in found if rule.then == "end" and not is_last]
        for rule, why in found:
            logger.info("cycle %d: stop rule %s%s", cycle, why, "" if rule.then == "say" or is_last else "; the run ends here")
        if ends:
            self.ledger.write_state(cycle, "stopped", 0, ends)
            logger.info("to go on, change active.stop or leave it out, and run the same command again")
        return bool(ends)

    # ------------------------------------------------------------------------------------------ a training in memory
    def _train(self, cycle: int) -> None:
        """USB's training of a cycle on the pool, from its latest checkpoint if there is one."""
        checkpoint = self.run_dir.cycle_path(cycle) / "latest_model.pth"
        resumed = checkpoint.exists()
        if self.previous.is_missing(cycle):
            self._restore(cycle - 1)
            samples = need_start(self.run_dir, cycle - 1).get("samples")
            self.previous.keep(cycle - 1, self.views.model_features(cycle - 1, samples))
        carries = self.config.active.warm_start and cycle > 0 and not resumed
        if carries:
            self._restore(cycle - 1)
        self._carries_weights = carries
        self.views.has_model = False
        self.logged.clear()
        self.guidance.begin_training()
        if isinstance(self.inputs, FeatureInputs):
            self.inputs.refresh()
        self.images.fill()
        self.trainer.prepare(cycle, self.ledger.split(cycle, self.selection.load_pseudo_labels(cycle)))
        self._say_planned(cycle)
        if resumed:
            self.trainer.load_model(str(checkpoint))
        else:
            self.load_prior(self._prior_before(cycle))
            self._fit_prior("start", cycle)
        self._in_memory, self.views.has_model = cycle, True
        self.trainer.fit()

    def _say_planned(self, cycle: int) -> None:
        """What `check` could not say of the EMA, because the algorithm plans its steps only now."""
        if not plans_steps(self.config) or self.ledger.is_done(cycle):
            return
        line = ema_remark(self.config.usb["ema_m"], self.trainer.num_train_iter, self.config.active.batch_norm)
        if line is not None:
            logger.warning("cycle %d: %s", cycle, line)

    def _say_gap(self, cycle: int) -> None:
        """Whether the live network is better than the one that is used from here on."""
        trainer = self.trainer
        can_recompute = self.config.active.batch_norm == "usb" and bool(tracking_layers(trainer.model))
        line = gap_remark(trainer.live_scores, self.dataset.task, self.config.usb, trainer.num_train_iter, can_recompute)
        if line is not None:
            logger.warning("cycle %d: %s", cycle, line)

    def _restore(self, cycle: int) -> None:
        """Have the finished training of a cycle in memory, as it was when it ended: from its checkpoint, or trained again."""
        if self._in_memory == cycle:
            return
        check_width(self.run_dir, cycle, self.dataset.class_names)
        rows = need_start(self.run_dir, cycle)["journal_rows"]
        if not (self.run_dir.cycle_path(cycle) / "latest_model.pth").exists():
            logger.warning("cycle %d: its checkpoint is gone, and the next step needs that model: it is trained again", cycle)
            self._load_states_before_training(cycle)
        with self._as_in(cycle, rows):
            self._train(cycle)
            self.states.load(cycle, "training")
            self.load_prior(self.ledger.done(cycle)["prior"])
        self._load_states_before_training(self.cycle)

    @contextmanager
    def _as_in(self, cycle: int, rows: int) -> Iterator[None]:
        """The session as it was in an earlier cycle, with the first rows of the journal; afterwards as it is now."""
        here, pool = self.cycle, self.ledger.pool
        try:
            self.ledger.replay(rows)
            self.cycle = cycle
            yield
        finally:
            self.cycle, self.ledger.pool = here, pool

    def _load_states_before_training(self, cycle: int) -> None:
        """The plugins as they were when the last step before the cycle's training was committed, if any was."""
        if self.ledger.start(cycle) is not None:
            self.states.load(cycle, "answers")
        elif self.run_dir.query(cycle) is not None:
            self.states.load(cycle, "query")

    def _forget(self, cycle: int, tables: set[str]) -> None:
        """`keep: last`: when a cycle is committed, what only earlier ones needed goes: checkpoints, scratch, prior tables."""
        if self.config.active.keep == "all":
            return
        before = range(max(0, cycle - 1), cycle)
        old = [path for earlier in before for path in self.run_dir.cycle_path(earlier).glob("*.pth")]
        for path in [*sorted(old), *self.guidance.outdated(range(cycle + 1), tables)]:
            path.unlink()
            logger.debug("removed %s (keep: last)", path)
        self.previous.forget(cycle)
        shutil.rmtree(self.run_dir.path / "scratch" / f"cycle_{cycle:03d}", ignore_errors=True)

    # ------------------------------------------------------------------------------------------ the prior in a training
    def update_prior(self, iteration: int) -> None:
        """Between two steps: a new table, if one is due."""
        if self.guidance.is_due(iteration, self.trainer.num_train_iter):
            self._fit_prior("step", self.cycle, iteration)

    def _fit_prior(self, when: When, cycle: int, iteration: int = 0) -> None:
        if not self.guidance.exists:
            return
        logged: dict[str, float] = {}
        # The position of what is drawn, and a part of the table's name.
        position = 0 if when == "end" else iteration
        if self.guidance.fit(self.views.of("prior", cycle, f"/{when}@{position}", metrics=logged), when, self.seed, position):
            self.guidance.log_table(iteration, when, logged)
        self.logged.update(logged)

    def save_prior_log(self) -> None:
        """Put what the prior did so far beside the checkpoint; a finished training that is made again leaves its file alone."""
        if not self.ledger.is_done(self.cycle):
            self.guidance.save_log(self.cycle_path)

    def load_prior(self, name: str) -> None:
        """Take the prior table of this name, "" for none."""
        self.guidance.load(name, len(self.dataset), len(self.dataset.class_names))

    def load_guidance(self, state: dict[str, Any]) -> None:
        """Take up the prior as a checkpoint of this cycle has it."""
        self.guidance.load_state_dict(state, len(self.dataset), len(self.dataset.class_names))

    def forget_tables(self) -> None:
        """`keep: last`: when a checkpoint is written, the tables of this training that neither it nor a finished cycle needs go."""
        if self.config.active.keep == "last":
            needed = self._tables_of(self.cycle) if self.ledger.is_done(self.cycle) else set()
            for path in self.guidance.outdated(range(self.cycle, self.cycle + 1), {self.guidance.file, *needed}):
                path.unlink()

    def _tables_of(self, cycle: int) -> set[str]:
        """Prior tables that a finished cycle needs should it be trained again: what it began with, was guided by, and left."""
        done = self.ledger.done(cycle)
        return {done["prior"], done["prior_in_training"], self._prior_before(cycle)}

    def _prior_before(self, cycle: int) -> str:
        return "" if cycle == 0 else self.ledger.done(cycle - 1)["prior"]

    # ------------------------------------------------------------------------------------------ what the trainer asks
    @property
    def cycle_path(self) -> Path:
        """Where this cycle's checkpoints are."""
        return self.run_dir.cycle_path(self.cycle)

    def continues_weights(self) -> bool:
        """Whether the training that is being prepared continues from the weights in memory."""
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

    def interval_view(self, role: str) -> PoolView:
        """For `on_interval`: the pool and the EMA model in the middle of a training."""
        return self.views.of(role, self.cycle, f"@{self.trainer.it + 1}")

    def algorithm_view(self, needs: frozenset[str] = frozenset()) -> PoolView:
        """For algorithms that look at the pool themselves, at any stage of a training."""
        return self.views.of_algorithm(self.cycle, needs)


def progress_line(record: dict[str, Any], metric: Metric = CLASS_METRICS[0]) -> str:
    """One line per cycle: labels and the headline metric."""
    value = record[metric.key]
    shown = "no held-out labels to evaluate on" if value is None else f"{metric.show(value)} ({record['evaluated_on']})"
    asked = f" ({record['num_asked']} asked for)" if "num_asked" in record else ""
    shown += _audit_text(record)
    return f"cycle {record['cycle']}: {record['num_labels']} labels{asked}, {shown}, trained {record['train_seconds']:.0f} s"


def _audit_text(record: dict[str, Any]) -> str:
    if record.get("audit_accuracy") is None:
        return ""
    accuracy, low, high = (100 * record[name] for name in ("audit_accuracy", "audit_low", "audit_high"))
    joined = record.get("audit_joined")
    since = f", none of the {joined} that joined the pool later" if joined else ""
    return f", audit {accuracy:.2f} % ({low:.1f} to {high:.1f} %, {record['audit_samples']} samples{since})"
