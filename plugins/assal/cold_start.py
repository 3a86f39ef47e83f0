"""ASSAL's choice before there is a classifier. What it computes is in `centres`."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field
from usb_active.plugins.assal.centres import nearest_to_centres

from usb_active import Acquisition, PluginConfig, PoolView
from usb_active.errors import errors_named


class AssalKMeans(Acquisition):
    """The samples nearest to the centres of k-means on the code (§1, "strategies for selecting the initial labeled samples").

    As `initial` with `features: pretrain` these are μ of the warmed-up network; any other features will do. The draft names no
    strategy. In a later round (ours) there are as many centres as labels and budget together, and those nearest to a labelled sample are
    left out: see `centres.nearest_to_centres`.
    """

    class Config(PluginConfig):
        iterations: int = Field(25, ge=1)
        starts: int = Field(10, ge=1)

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        with errors_named(f"acquisition '{self.name}'"):
            return nearest_to_centres(
                view.features, budget, labeled=view.labeled, candidates=view.candidates, rng=view.rng, **self.config.model_dump()
            )  # fmt: skip
