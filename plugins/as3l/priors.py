"""Priors from few labels and the structure of the features: clusterings, and a neighbour graph; and one that knows the truth, for
studies. The arithmetic is elsewhere."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from usb_active.plugins.as3l import functional
from usb_active.plugins.as3l.shared_features import fine_tuned

from usb_active import PluginConfig, PoolView, Prior, PriorTable, UsageError, When
from usb_active.errors import errors_named, name_some
from usb_active.numerics.neighbors import affinity
from usb_active.numerics.propagation import propagate


class _Spread(Prior):
    """Labels spread over features: those of `features:` at a training's start, and under `then: update` those of the model in
    training. After a training the table stays, since the next one begins with labels of its own."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    features_at_start: ClassVar[bool] = True

    def at_start(self, view: PoolView) -> np.ndarray:
        """(N, D) the features of a training's start."""
        return view.features

    def spread(self, view: PoolView, features: np.ndarray) -> np.ndarray:
        """(N, C) from the view's labels and these features (N, D)."""
        raise NotImplementedError(f"{type(self).__name__}.spread")

    def fit(self, view: PoolView, when: When) -> PriorTable | None:
        if when == "end":
            return None
        with errors_named(f"prior '{self.name}'"):
            features = self.at_start(view) if when == "start" else view.model_pass(["features"])["features"]
            table = PriorTable(self.spread(view, features))
        _log(view, table.probs, "" if when == "start" else "updated_")
        return table


class AS3LPrior(_Spread):
    """Label histograms of constrained clusterings of several sizes, on the fine-tuned features (§3.2.1, §3.3).

    The layer is the one that this cycle's `as3l` selection made, if there was one with the same `clusterings` and `epochs`;
    otherwise it is made here, with as many clusters as there are labels. An update (§3.4) clusters the model's features as
    they are (ours: those need no layer to have clusters). `ks` are the sizes, by default 1 … 6 times the number of classes. Each
    clustering in which a label arrived counts alike, with the share of each class in a cluster rather than with the number of its
    labels (ours, see `prior`).
    """

    class Config(PluginConfig):
        ks: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None = None
        fine_tune: bool = True
        clusterings: int = Field(6, ge=1)
        epochs: int = Field(40, ge=1)

    def check(self, num_samples: int, num_classes: int) -> None:
        for clusters in self.config.ks or ():
            if clusters > num_samples:
                raise UsageError(f"ks: {clusters} clusters, but the pool has {num_samples} samples")

    def at_start(self, view: PoolView) -> np.ndarray:
        if not self.config.fine_tune or not len(view.labeled):
            return view.features
        return fine_tuned(view, len(view.labeled), self.config.clusterings, self.config.epochs)

    def spread(self, view: PoolView, features: np.ndarray) -> np.ndarray:
        return functional.prior(features, view.labeled, view.labels, view.num_classes, ks=self.config.ks, rng=view.rng)


class LLGCPrior(_Spread):
    """Label spreading on the graph of nearest neighbours, on the features as they are (Zhou et al. 2003; the baseline of Table 5).

    Affinity cos^γ to the k nearest, with k, γ and α of Iscen et al. 2019, which the paper follows; `graph: sum` is the A + Aᵀ of
    their code. With fewer than k + 1 samples the graph is complete.
    """

    class Config(PluginConfig):
        k: int = Field(50, ge=1)
        gamma: float = Field(3.0, gt=0, allow_inf_nan=False)
        graph: Literal["mutual", "union", "sum"] = "sum"
        alpha: float = Field(0.99, ge=0, lt=1)
        tol: float = Field(1e-6, gt=0, lt=1)

    def spread(self, view: PoolView, features: np.ndarray) -> np.ndarray:
        if not len(view.labeled):
            return np.zeros((len(view), view.num_classes), dtype=np.float32)
        config = self.config
        graph = affinity(features, min(config.k, len(view) - 1), config.gamma, config.graph)
        probs = propagate(graph, view.labeled, view.labels, view.num_classes, config.alpha, config.tol)
        return probs.astype(np.float32)


class OraclePrior(Prior):
    """The true classes, but for a given share of wrong ones: to find out how good a prior must be to help. For studies alone.

    One-hot rows. Of the samples without a label a share `correct`, to the nearest whole sample, has its true class; the others,
    drawn by the run's seed anew in each cycle, have one of the other classes, each as likely. Labelled samples have their label.
    During and after a training the table stays, with `then: update` too. Ours: errors of a real prior are neither independent nor
    spread evenly, and its rows are seldom one-hot, so at the same accuracy it may help less, or more. All true
    classes must be known, and the oracle simulated.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    class Config(PluginConfig):
        correct: float = Field(0.9, ge=0, le=1)

    def fit(self, view: PoolView, when: When) -> PriorTable | None:
        if when != "start":
            return None
        unlabeled = view.unlabeled
        unknown = unlabeled[view.truth[unlabeled] < 0]
        if len(unknown):
            raise UsageError(f"prior '{self.name}': needs the true class of every sample; unknown for samples {name_some(unknown)}")
        probs = np.zeros((len(view), view.num_classes), dtype=np.float32)
        with errors_named(f"prior '{self.name}'"):
            probs[unlabeled] = functional.partly_true(view.truth[unlabeled], view.num_classes, self.config.correct, view.rng)
        probs[view.labeled, view.labels] = 1
        _log(view, probs, "")
        return PriorTable(probs)


def _log(view: PoolView, probs: np.ndarray, prefix: str) -> None:
    """The share of samples with a prior; where the truth is known, accuracy and calibration on samples without a label."""
    view.log(f"{prefix}prior_coverage", np.count_nonzero(probs.any(axis=1)) / len(probs))

    def judge(truth: np.ndarray) -> None:
        known = view.unlabeled[truth[view.unlabeled] >= 0]
        if len(known):
            rows, classes = probs[known], truth[known]
            view.log(f"{prefix}prior_accuracy", functional.is_correct(rows, classes).mean())
            view.log(f"{prefix}prior_ece", functional.expected_calibration_error(rows, classes))

    view.audit(judge)
