"""Which prior table guides which step, and when a new one is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.contracts.prior import Prior, PriorTable, When
from usb_active.errors import UsageError
from usb_active.randomness import seeded_globals
from usb_active.storage.artifacts import check_array, load_artifact, save_artifact

if TYPE_CHECKING:
    from usb_active.config.settings import PriorSettings
    from usb_active.pool.view import PoolView

_REMEDY = "restore it from a copy, or remove the checkpoint that needs it to repeat this cycle's training"


class PriorSchedule:
    """A run's prior: the table in force, kept as a file in `folder` whose name checkpoints hold.

    Attributes:
        file: name of the table's file without its suffix, "" for none.
        table: the table, None for none.
    """

    def __init__(self, prior: Prior | None, settings: PriorSettings | None, folder: Path):
        self._prior, self._settings, self._folder = prior, settings, folder
        self.file = ""
        self.table: PriorTable | None = None

    @property
    def exists(self) -> bool:
        """Whether the run has a prior at all."""
        return self._prior is not None

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
        check_array(path, probs, "f", (None, num_classes), _REMEDY)
        if len(probs) > num_samples:
            raise UsageError(f"{path} is damaged ({len(probs)} rows for {num_samples} samples); {_REMEDY}")
        if len(probs) < num_samples:
            probs = np.pad(probs, ((0, num_samples - len(probs)), (0, 0)))
        try:
            return PriorTable(probs)
        except UsageError as error:
            raise UsageError(f"{path} is damaged ({error}); {_REMEDY}") from error

    def outdated(self, cycles: range, tables: set[str]) -> list[Path]:
        """Files of the tables made in these cycles, but for those named."""
        made = [path for cycle in cycles for path in self._folder.glob(f"prior_{cycle:03d}_*.npy")]
        return sorted(path for path in made if path.stem not in tables)
