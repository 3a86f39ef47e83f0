"""The baselines as plugins. What they compute is in `functional`."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from usb_active.plugins.baselines import functional

from usb_active import Acquisition, PoolView, UsageError
from usb_active.errors import name_some


class Random(Acquisition):
    """Uniformly at random from the candidates."""

    by_chance = True

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        return view.rng.choice(view.candidates, size=budget, replace=False)


class _ByClass(Acquisition):
    """Draws a given number from every class, which only a simulation can do."""

    needs = frozenset({"truth"})

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        truth = view.truth[view.candidates]
        counts = np.bincount(truth, minlength=view.num_classes)
        wanted = self.quotas(counts, budget, view.rng)
        short = [f"class {c} has {counts[c]}, {wanted[c]} wanted" for c in np.flatnonzero(wanted > counts)]
        if short:
            raise UsageError(f"acquisition '{self.name}': too few candidates: {name_some(short)}")
        picks = [view.rng.choice(view.candidates[truth == c], size=n, replace=False) for c, n in enumerate(wanted)]
        return view.rng.permutation(np.concatenate(picks))

    def quotas(self, counts: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
        """(C,) how many of each class, summing to `budget`; `counts` (C,) are the candidates."""
        raise NotImplementedError(f"{type(self).__name__}.quotas")


class Balanced(_ByClass):
    """Equally many of every class. A budget that the classes do not divide: the classes that get one more are drawn."""

    # As an initial set its size must be a multiple of the number of classes; the core checks.
    per_class: ClassVar[bool] = True

    def quotas(self, counts: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
        each, rest = divmod(budget, len(counts))
        wanted = np.full(len(counts), each)
        order = rng.permutation(len(counts))
        # Those that have one more to give come first.
        wanted[order[np.argsort(counts[order] <= each, kind="stable")][:rest]] += 1
        return wanted


class Stratified(_ByClass):
    """Every class by its share of the candidates, rounded by largest remainder; equal remainders are drawn."""

    def quotas(self, counts: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
        # In integers, so that equal remainders are equal.
        wanted, remainders = np.divmod(counts * budget, counts.sum())
        order = rng.permutation(len(counts))
        by_remainder = order[np.argsort(-remainders[order], kind="stable")]
        wanted[by_remainder[: budget - wanted.sum()]] += 1
        return wanted


class _ByScore(Acquisition):
    """The candidates with the highest score of their predicted probabilities; ties are drawn."""

    needs = frozenset({"probs"})

    def scores(self, probs: np.ndarray) -> np.ndarray:
        """(M,) of (M, C): higher is picked earlier."""
        raise NotImplementedError(f"{type(self).__name__}.scores")

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        scores = self.scores(view.probs[view.candidates])
        return functional.top_k(scores, view.candidates, budget, view.rng)


class Entropy(_ByScore):
    """Largest predictive entropy (Settles 2009, §3.1)."""

    def scores(self, probs: np.ndarray) -> np.ndarray:
        return functional.entropy(probs)


class Margin(_ByScore):
    """Smallest gap between the two likeliest classes (Scheffer et al. 2001)."""

    def scores(self, probs: np.ndarray) -> np.ndarray:
        return -functional.margin(probs)


class LeastConfidence(_ByScore):
    """Smallest top probability (Lewis & Gale 1994)."""

    def scores(self, probs: np.ndarray) -> np.ndarray:
        return functional.least_confidence(probs)


class Coreset(Acquisition):
    """Greedy k-center on the features, from what is labelled (Sener & Savarese 2018)."""

    needs = frozenset({"features"})

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        return functional.k_center_greedy(view.features, view.labeled, budget, candidates=view.candidates, rng=view.rng)


class KMeansPlusPlus(Acquisition):
    """k-means++ seeding on the features, with the labelled samples as centres already chosen (Arthur & Vassilvitskii 2007)."""

    needs = frozenset({"features"})

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        return functional.kmeans_plus_plus(view.features, budget, view.rng, candidates=view.candidates, labeled=view.labeled)
