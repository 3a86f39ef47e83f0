"""Modules under the names that they had in version 0.1.0, for plugins in files that were written against it.

A run that names such a file resumes; a warning says where the module is now.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# What CONTRIBUTING of that version had a plugin import. (`pool` and `config` are rooms now, and were nothing for plugins.)
MOVED = {
    "acquisition": "contracts.acquisition",
    "analysis": "contracts.analysis",
    "arrays": "numerics.arrays",
    "artifacts": "storage.artifacts",
    "checkpoint": "storage.checkpoint",
    "datasets": "contracts.dataset",
    "distances": "numerics.greedy",
    "features": "contracts.features",
    "heads": "pool.heads",
    "inference": "pool.inference",
    "kmeans": "numerics.kmeans",
    "neighbors": "numerics.neighbors",
    "network": "contracts.network",
    "observer": "contracts.observer",
    "oracle": "contracts.oracle",
    "own_algorithm": "contracts.algorithm",
    "plugin": "contracts.plugin",
    "pretraining": "contracts.pretrainer",
    "pretraining_loop": "pool.epoch_training",
    "prior": "contracts.prior",
    "propagation": "numerics.propagation",
    "ranking": "numerics.ranking",
    "registry": "contracts.registry",
    "sampling": "pool.sampling",
    "view": "pool.view",
}
_PACKAGE = "usb_active."


def install_old_names() -> None:
    """Find the old names from now on; again is harmless."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        # Last: what is really there comes first.
        sys.meta_path.append(_Finder())


class _Finder:
    """Takes an old name for the module that has another one now: the same object, so that classes are the same too."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        now = MOVED.get(fullname.removeprefix(_PACKAGE)) if fullname.startswith(_PACKAGE) else None
        return None if now is None else ModuleSpec(fullname, _Loader(_PACKAGE + now))


class _Loader:
    def __init__(self, now: str) -> None:
        self._now = now

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        # Python leaves its own import machinery out of the count, so this is where the import is written.
        warnings.warn(f"{spec.name} is {self._now} now", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(self._now)
        # The machinery writes the spec of the old name into it.
        self._own = module.__spec__, module.__loader__, module.__package__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__, module.__loader__, module.__package__ = self._own
