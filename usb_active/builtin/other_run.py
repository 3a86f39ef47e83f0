"""Labels that another run has: `usb-active run NEW.yaml --from RUN`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from usb_active.contracts.initial_labels import InitialLabels
from usb_active.contracts.plugin import PluginConfig, free_key
from usb_active.contracts.task import Task
from usb_active.errors import UsageError, printable
from usb_active.pool.view import PoolView
from usb_active.storage.labels_in_force import LabelsInForce, labels_in_force
from usb_active.storage.paths import nfc
from usb_active.storage.sample_keys import unique
from usb_active.storage.yaml_input import yaml_on_one_line

if TYPE_CHECKING:
    from usb_active.contracts.dataset import Dataset


class OtherRun(InitialLabels):
    """Starts from the labels that another run has, as they stand there; what was skipped there is not asked for either.

    Its pool must be within this one, and its classes the same. Nothing of it is changed, and it may be under way.
    """

    class Config(PluginConfig):
        # Where it lies may change until its labels are taken; that it is the same one, its number says.
        path: Path = free_key(description="the run directory; read before the first query, and never again")
        run: str = Field("", description="the number by which that run is known again; --from fills it in")

    def known_labels(self, view: PoolView) -> tuple[np.ndarray, np.ndarray]:
        found, task = self._found, view.dataset.task
        self._check_labels(found, view.dataset)
        where = _positions(view.dataset.keys)
        self._check_pool(found, where, view.dataset.name)
        labels = [self._number(key, text, task) for key, text in found.labels.items()]
        return _indices(found.labels, where), np.array(labels, dtype=np.int64)

    def known_skips(self, view: PoolView) -> np.ndarray:
        return _indices(self._found.skipped, _positions(view.dataset.keys))

    def known_audit(self, view: PoolView) -> np.ndarray:
        return _indices(self._found.audit, _positions(view.dataset.keys))

    @cached_property
    def _found(self) -> LabelsInForce:
        # Read once, so that labels and skips are of one moment of a run under way.
        found = labels_in_force(self.config.path)
        if self.config.run not in ("", found.number):
            raise UsageError(f"{self.config.path} is another run than the one that was to be taken over; give its own directory")
        return found

    def _check_labels(self, found: LabelsInForce, dataset: Dataset) -> None:
        """UsageError when what may be given differs: of classes, how many, which first, and what would name them."""
        own = "" if dataset.class_names else dataset.task.name
        if found.task != own:
            one, other = (f"of the task '{name}'" if name else "classes" for name in (found.task, own))
            raise UsageError(f"{self.config.path}: its labels are {one}, and those of this pool {other}")
        theirs, ours = dict.fromkeys(map(nfc, found.class_names)), dict.fromkeys(map(nfc, dataset.class_names))
        differing = [*(name for name in theirs if name not in ours), *(name for name in ours if name not in theirs)]
        if differing:
            only = "only there" if differing[0] in theirs else "only here"
            counts = f"{len(theirs)} classes there, {len(ours)} here, {len(differing)} in only one of them"
            said = f"{counts}, first '{printable(differing[0])}' ({only})"
            if ours.keys() <= theirs.keys() and hasattr(dataset.config, "class_names"):
                said += f"; with those there it is dataset.class_names: {printable(yaml_on_one_line(list(found.class_names)))}"
            raise UsageError(f"{self.config.path}: other classes than this pool's: {said}")

    def _check_pool(self, found: LabelsInForce, where: dict[str, int], name: str) -> None:
        lacking = [key for key in found.keys if key not in where and nfc(key) not in where]
        if lacking:
            counts = f"{len(lacking)} of its {len(found.keys)} samples are not in the pool of dataset '{name}'"
            raise UsageError(f"{self.config.path}: {counts}, first '{printable(lacking[0])}'; all of them must be in it")

    def _number(self, key: str, text: str, task: Task) -> int:
        # On another disk the accents of a class's folder may be composed otherwise.
        names = {nfc(name): name for name in task.class_names} if not text.isascii() else {}
        try:
            return task.encode(names.get(nfc(text), text))
        except ValueError:
            raise UsageError(f"{self.config.path}: '{printable(key)}': {task.problem} '{printable(text)}'{task.hint(text)}") from None


def _positions(keys: Sequence[str]) -> dict[str, int]:
    """Key, as it is and with its accents composed, → index; what is composed counts only where no two keys become one."""
    composed = unique((nfc(key), index) for index, key in enumerate(keys))
    return composed | {key: index for index, key in enumerate(keys)}


def _indices(keys: Iterable[str], where: dict[str, int]) -> np.ndarray:
    return np.array([where[key] if key in where else where[nfc(key)] for key in keys], dtype=np.int64)
