"""Guidance: all of a run's prior. Which table guides which step, when a new one is due, and what it did in a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.contracts.prior import Prior, PriorTable, When
from usb_active.errors import UsageError
from usb_active.randomness import seeded_globals
from usb_active.storage.artifacts import check_array, load_artifact, save_artifact
from usb_active.storage.durable import atomic_write, dump_json, make_folder, parse_json, read_bytes
from usb_active.storage.schemas import PriorChanges, PriorMade, check_record

if TYPE_CHECKING:
    from usb_active.config.settings import PriorSettings
    from usb_active.pool.view import PoolView

LOG_FILE = "prior.jsonl"
_LOG_REMEDY = "remove it: nothing but what was logged of the prior is lost"
_TABLE_REMEDY = "restore it from a copy, or remove the checkpoint that needs it to repeat this cycle's training"


class Guidance:
    """A run's prior, with one state that checkpoints hold.

    The table in force is a file in `folder`, by whose name it is known. The log is of one training, in order of `iteration`, which
    counts the steps done; RUN/cycle_NNN/prior.jsonl holds it:

    - {"iteration", "changed", "rows"}: of `rows` pseudo-labels with a prior since the last such record, `changed` have another
      class than the model alone would have given them (a sample counts as often as it was drawn);
    - {"iteration", "when", "log"}: a new table, and what the prior logged of it.

    Attributes:
        file: name of the table's file without its suffix, "" for none.
        table: the table, None for none.
        records: the log of the training in memory.
    """

    def __init__(self, prior: Prior | None, settings: PriorSettings | None, folder: Path):
        self._prior, self._settings, self._folder = prior, settings, folder
        self.file = ""
        self.table: PriorTable | None = None
        self.records: list[dict[str, Any]] = []
        # Pseudo-labels with a prior since the last record, and those of them that it changed. The latter is on a GPU a tensor after
        # the first step, so that no step waits.
        self._rows = 0
        self._changed: Any = 0

    @property
    def exists(self) -> bool:
        """Whether the run has a prior at all."""
        return self._prior is not None

    # ------------------------------------------------------------------------------------------ one state
    def state_dict(self) -> dict[str, Any]:
        """The table's name, the log, and what was counted since its last record. Waits for the device."""
        return {"prior": self.file, "prior_log": {"records": list(self.records), "counts": [int(self._changed), self._rows]}}

    def load_state_dict(self, state: Mapping[str, Any], num_samples: int, num_classes: int | None = None) -> None:
        """The inverse. Checkpoints that were written before there was such a log begin an empty one. Errors as in `load`."""
        self.load(state["prior"], num_samples, num_classes)
        log = state.get("prior_log", {"records": [], "counts": [0, 0]})
        self.records = [dict(record) for record in log["records"]]
        self._changed, self._rows = log["counts"]

    def begin_training(self) -> None:
        """An empty log."""
        self.records, self._changed, self._rows = [], 0, 0

    def at(self, iteration: int) -> PriorTable | None:
        """The table that guides this step of a cycle, if any does."""
        settings = self._settings
        if settings is None or (settings.until_iter is not None and iteration >= settings.until_iter and settings.then == "remove"):
            return None
        return self.table

    def is_due(self, iteration: int, num_train_iter: int) -> bool:
        """Whether, under `then: update`, a new table is to be made before this step."""
        settings = self._settings
        if settings is None or settings.then != "update" or settings.until_iter is None:
            return False
        since = iteration - settings.until_iter
        return 0 <= since and since % settings.update_every == 0 and iteration < num_train_iter

    def fit(self, view: PoolView, when: When, seed: int, iteration: int = 0) -> bool:
        """Have the prior make a table; whether it did: None keeps the one there is.

        Raises:
            UsageError: the table is not (N, C).
        """
        with seeded_globals(seed, view.cycle, "prior", when, iteration):
            table = self._prior.fit(view, when)
        if table is None:
            return False
        expected = (len(view), view.num_classes)
        if table.probs.shape != expected:
            raise UsageError(f"prior '{self._prior.name}': expected a table of {expected}, got {table.probs.shape}")
        self.file, self.table = f"prior_{view.cycle:03d}_{when}_{iteration:08d}", table
        save_artifact(self._folder / self.file, table.probs)
        return True

    def load(self, name: str, num_samples: int, num_classes: int | None = None) -> None:
        """Take the table of this name, "" for none. Samples that joined the pool since it was made have no prior.

        Raises:
            UsageError: the file is gone or damaged; names it.
        """
        self.file = name
        probs: Any = load_artifact(self._folder / name) if name else None
        if name and probs is None:
            raise UsageError(f"{self._folder / name}.npy is gone; the checkpoint needs this prior")
        self.table = None if probs is None else self._read(self._folder / f"{name}.npy", probs, num_samples, num_classes)

    def _read(self, path: Path, probs: Any, num_samples: int, num_classes: int | None) -> PriorTable:
        check_array(path, probs, "f", (None, num_classes), _TABLE_REMEDY)
        if len(probs) > num_samples:
            raise UsageError(f"{path} is damaged ({len(probs)} rows for {num_samples} samples); {_TABLE_REMEDY}")
        if len(probs) < num_samples:
            probs = np.pad(probs, ((0, num_samples - len(probs)), (0, 0)))
        try:
            return PriorTable(probs)
        except UsageError as error:
            raise UsageError(f"{path} is damaged ({error}); {_TABLE_REMEDY}") from error

    def outdated(self, cycles: range, tables: set[str]) -> list[Path]:
        """Files of the tables made in these cycles, but for those named."""
        made = [path for cycle in cycles for path in self._folder.glob(f"prior_{cycle:03d}_*.npy")]
        return sorted(path for path in made if path.stem not in tables)

    # ------------------------------------------------------------------------------------------ what it did
    def count(self, changed: Any, rows: int) -> None:
        """Of `rows` more pseudo-labels with a prior, it changed this many (a number, or a tensor that may still be computed)."""
        self._changed = self._changed + changed
        self._rows += rows

    def log_interval(self, iteration: int) -> float | None:
        """Record what was counted and count from zero; the share that changed, None where no pseudo-label had a prior."""
        changed, rows = int(self._changed), self._rows
        self._changed, self._rows = 0, 0
        if rows == 0:
            return None
        self.records.append({"iteration": iteration, "changed": changed, "rows": rows})
        return changed / rows

    def log_table(self, iteration: int, when: str, logged: Mapping[str, float]) -> None:
        """Record that another table is in force from here on."""
        self.records.append({"iteration": iteration, "when": when, "log": dict(logged)})

    def save_log(self, folder: Path) -> None:
        """Write the log into a cycle's folder, whole; nothing where there is nothing."""
        if self.records:
            make_folder(folder)
            atomic_write(folder / LOG_FILE, lambda stream: stream.write(b"".join(map(dump_json, self.records))))


def read_prior_log(folder: Path) -> list[dict[str, Any]]:
    """The records in a cycle's folder, none where it has no file. UsageError names a damaged line."""
    path = folder / LOG_FILE
    lines = (read_bytes(path) or b"").splitlines()
    return [_checked(f"{path}:{number}", line) for number, line in enumerate(lines, start=1)]


def _checked(where: str, line: bytes) -> dict[str, Any]:
    record = parse_json(where, line, _LOG_REMEDY)
    return check_record(PriorMade if isinstance(record, dict) and "when" in record else PriorChanges, where, record, _LOG_REMEDY)
