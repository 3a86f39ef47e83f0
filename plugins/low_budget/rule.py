"""What the acquisitions of this plugin have in common."""

from __future__ import annotations

import numpy as np

from usb_active import Acquisition, PoolView
from usb_active.errors import errors_named


class Rule(Acquisition):
    """A function of arrays, and its keys."""

    def picks(self, view: PoolView, budget: int) -> np.ndarray:
        """(budget,) idx."""
        raise NotImplementedError(f"{type(self).__name__}.picks")

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        with errors_named(f"acquisition '{self.name}'"):
            return self.picks(view, budget)
