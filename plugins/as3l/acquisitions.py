"""AS3L's selection and what it is compared with. What they compute is in `functional`."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field
from usb_active.plugins.as3l import functional
from usb_active.plugins.as3l.shared_features import fine_tuned

from usb_active import Acquisition, PluginConfig, PoolView
from usb_active.errors import errors_named


class _ByClusters(Acquisition):
    """From the largest groups without a label, one sample of each; draws, as k-means does."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def picks(self, view: PoolView, budget: int) -> np.ndarray:
        """(budget,) idx."""
        raise NotImplementedError(f"{type(self).__name__}.picks")

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        with errors_named(f"acquisition '{self.name}'"):
            picks = self.picks(view, budget)
        view.audit(lambda truth: _log_coverage(view, truth[np.concatenate([view.labeled, picks])]))
        return picks


class AS3L(_ByClusters):
    """Medoids of the largest groups of samples that fall together in all of C clusterings of the fine-tuned features (§3.2).

    Single shot, as `initial`, on features that need no labels; in a later round (ours) groups that hold a label come last.
    `fine_tune: false` is "multi-cluster on f_self" (Table 4). K is the budget and the labels there are, in Eq. 1 too (ours). The
    prior `as3l` with the same `clusterings` and `epochs` uses the same layer.
    """

    class Config(PluginConfig):
        clusterings: int = Field(6, ge=1)
        fine_tune: bool = True
        epochs: int = Field(40, ge=1)

    def picks(self, view: PoolView, budget: int) -> np.ndarray:
        config, features = self.config, view.features
        if config.fine_tune:
            features = fine_tuned(view, len(view.labeled) + budget, config.clusterings, config.epochs)
        return functional.select(
            features, budget, clusterings=config.clusterings, labeled=view.labeled, candidates=view.candidates, rng=view.rng
        )  # fmt: skip


class KMedoids(_ByClusters):
    """Medoids of one k-means run on the features as they are (the baseline of Tables 1 and 4), with as many clusters as the budget and
    the labels there are."""

    def picks(self, view: PoolView, budget: int) -> np.ndarray:
        rest = {"labeled": view.labeled, "candidates": view.candidates, "rng": view.rng}
        return functional.select(view.features, budget, clusterings=1, **rest)


class TypiClust(_ByClusters):
    """The most typical samples of the largest clusters without a label (Hacohen et al. 2022)."""

    class Config(PluginConfig):
        max_clusters: int = Field(500, ge=1)
        neighbors: int = Field(20, ge=1)
        min_size: int = Field(6, ge=1)

    def picks(self, view: PoolView, budget: int) -> np.ndarray:
        rest = {"labeled": view.labeled, "candidates": view.candidates, "rng": view.rng}
        return functional.typiclust(view.features, budget, **self.config.model_dump(), **rest)


def _log_coverage(view: PoolView, truth: np.ndarray) -> None:
    view.log("class_coverage", functional.class_coverage(truth[truth >= 0], view.num_classes))
