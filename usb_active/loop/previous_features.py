"""Features of the last cycle's model, kept for the plugins that compare or begin with them when the model is another already."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from usb_active.errors import UsageError
from usb_active.storage.artifacts import check_array, load_artifact, save_artifact

NEED = "previous_features"
_REMEDY = "remove it to make it again"


class PreviousFeatures:
    """Files `features_after_NNN.npy` in `folder`: (N, D) of the EMA model that cycle NNN ended with, on the pool of that cycle.

    Made before the next training begins, and only where a plugin needs them.
    """

    def __init__(self, plugins: Iterable[Any], folder: Path):
        self._wanted = any(NEED in plugin.needs for plugin in plugins)
        self._folder = folder

    def _path(self, cycle: int) -> Path:
        return self._folder / f"features_after_{cycle:03d}"

    def is_missing(self, cycle: int) -> bool:
        """Whether the training of `cycle` needs those of the cycle before, and they are not there."""
        return self._wanted and cycle > 0 and not self._path(cycle - 1).with_suffix(".npy").is_file()

    def keep(self, cycle: int, features: np.ndarray) -> None:
        """Those of the model that `cycle` ended with."""
        save_artifact(self._path(cycle), features)

    def before(self, cycle: int, num_samples: int) -> np.ndarray | None:
        """(M, D) of the model that the cycle before ended with, mapped, M ≤ N: the pool may have grown. None in cycle 0.

        Raises:
            UsageError: the file is damaged, or not there.
        """
        if cycle == 0:
            return None
        path = self._path(cycle - 1).with_suffix(".npy")
        found = check_array(path, load_artifact(self._path(cycle - 1)), "f", (None, None), _REMEDY)
        if len(found) > num_samples:
            raise UsageError(f"{path} is damaged ({len(found)} rows for {num_samples} samples); {_REMEDY}")
        return found

    def forget(self, cycle: int) -> None:
        """Remove what no training after those of `cycle` begins with, but that of `cycle` itself."""
        for earlier in range(cycle - 1):
            self._path(earlier).with_suffix(".npy").unlink(missing_ok=True)
