"""The contract of a source of features."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from usb_active.plugin import Plugin

if TYPE_CHECKING:
    from usb_active.view import PoolView


class Features(Plugin):
    """Where `view.features` come from."""

    kind: ClassVar[str] = "features"
    # True when the features change with the model, so they are made anew at every query.
    follows_model: bool = False
    # True when they come from the run's pretrainer.
    from_pretraining: bool = False

    def get(self, view: PoolView) -> np.ndarray:
        """(N, D) float32, one row a sample of the pool in dataset order."""
        raise NotImplementedError(f"{type(self).__name__}.get")
