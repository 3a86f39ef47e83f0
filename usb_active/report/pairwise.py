"""Which method beats which, over several settings: the pairwise matrix of Ash et al. (2020, BADGE), as in Fig. 6 of Lim et al. (ASSL).

A *method* is what stands in `active.acquisition`; a *setting* is all else that differs between runs: data set, network, algorithm,
budget, warm start and so on. K methods, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usb_active.errors import name_some
from usb_active.numerics.statistics import paired_differences, paired_t_test
from usb_active.report.groups import Group, key_text, merged
from usb_active.report.method_names import method_names
from usb_active.report.runs import repeated_seeds

LEVEL = 0.05
LEAST_SEEDS = 2
_METHOD_KEY = "active.acquisition"
# Where a plugin is imported from is neither method nor setting.
_NEITHER = ("plugins",)

# Number of labels → seed → headline metric, higher being better.
Scores = Mapping[int, Mapping[Any, float]]


@dataclass(frozen=True)
class Setting:
    """One setting: its configuration (flat, without the method), and the scores of every method (by place) in it."""

    keys: dict[str, Any]
    scores: dict[int, dict[int, dict[Any, float]]]


@dataclass(frozen=True)
class Comparison:
    """Methods compared in pairs.

    Attributes:
        methods: (K,) labels.
        wins: (K, K), in how many settings row beats column; a setting adds at most 1.
        compared: (K, K), the number of settings in which the two could be compared: the most that `wins` can be.
        settings: those that were used.
        notes: what was left out, and why.
    """

    methods: tuple[str, ...]
    wins: NDArray[np.float64]
    compared: NDArray[np.int64]
    settings: tuple[Setting, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def averages(self) -> NDArray[np.float64]:
        """(K,) the average of each column over the methods it was compared with and the zero on the diagonal; lower is better."""
        return self.wins.sum(axis=0) / ((self.compared > 0).sum(axis=0) + 1)


def winner(one: ArrayLike, other: ArrayLike, level: float = LEVEL) -> int:
    """The sign of mean(one - other) where a paired two-sided t-test calls it significant, else 0.

    Args:
        one: (S,) the scores of S >= 2 seeds.
        other: (S,) the scores of the same seeds.
        level: the difference is significant where p < level.

    Differences that are all the same have no variance, and t is infinite: significant unless they are zero.

    Raises:
        ValueError: shapes that differ, fewer than two seeds, values that are not finite.
    """
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if one.shape != other.shape or one.ndim != 1 or len(one) < LEAST_SEEDS:
        raise ValueError(f"scores: expected two lists of one length, at least {LEAST_SEEDS}, got {one.shape} and {other.shape}")
    if not np.isfinite([one, other]).all():
        raise ValueError("scores: not finite")
    difference = paired_differences(one, other)
    return int(np.sign(difference.mean())) if paired_t_test(difference) < level else 0


def count_wins(settings: Sequence[Mapping[int, Scores]], num_methods: int, level: float = LEVEL) -> tuple[NDArray, NDArray]:
    """Wins (K, K) of row over column, and in how many settings each pair was compared (K, K).

    In a setting, every number of labels that both reached with two seeds in common adds 1 / (their number) where one is significantly
    better.

    Args:
        settings: for each setting, method (0 to K - 1) → number of labels → seed → score, without the labels that no method chose.
        num_methods: K.
        level: a difference is significant where p < level.
    """
    wins, compared = np.zeros((num_methods, num_methods)), np.zeros((num_methods, num_methods), dtype=np.int64)
    for scores in settings:
        for one, other in combinations(sorted(scores), 2):
            pairs = list(paired(scores[one], scores[other]))
            if pairs:
                compared[one, other] += 1
                compared[other, one] += 1
            for first, second in pairs:
                sign = winner(first, second, level)
                if sign:
                    wins[(one, other) if sign > 0 else (other, one)] += 1 / len(pairs)
    return wins, compared


def paired(one: Scores, other: Scores) -> Iterator[tuple[list[float], list[float]]]:
    """For every number of labels that both reached with enough seeds in common: the scores of both, seed by seed."""
    for count in sorted(set(one) & set(other)):
        seeds = sorted(set(one[count]) & set(other[count]), key=str)
        if len(seeds) >= LEAST_SEEDS:
            yield [one[count][seed] for seed in seeds], [other[count][seed] for seed in seeds]


# ------------------------------------------------------------------------------------------ from runs
def compare(groups: Sequence[Group], level: float = LEVEL) -> Comparison | None:
    """The methods of some groups of runs against each other; None where there are fewer than two methods."""
    notes: list[str] = []
    usable = merged([group for group in groups if _is_usable(group, notes)], _split)
    parts = [_split(group) for group in usable]
    methods = _distinct(method for method, _ in parts)
    if len(methods) < 2:
        return None
    settings: dict[str, Setting] = {}
    for group, (method, setting) in zip(usable, parts, strict=True):
        # Accuracies on test and on held-out labels are never compared.
        entry = settings.setdefault(key_text([setting, group.evaluated_on]), Setting(setting, {}))
        entry.scores[list(methods).index(key_text(method))] = _scores(group, notes)
    labels = method_names(list(methods.values()))
    kept = [setting for setting in settings.values() if _has_pairs(setting, labels, notes)]
    wins, compared = count_wins([setting.scores for setting in kept], len(labels), level)
    return Comparison(tuple(labels), wins, compared, tuple(kept), tuple(notes))


def _is_usable(group: Group, notes: list[str]) -> bool:
    if not group.settings.get(f"{_METHOD_KEY}.name"):
        notes.append(f"{group.label}: no acquisition; left out.")
    elif group.evaluated_on == "none":
        notes.append(f"{group.label}: not evaluated; left out.")
    else:
        return True
    return False


def _split(group: Group) -> tuple[dict[str, Any], dict[str, Any]]:
    """A group's configuration, flat: what is the method, and what is the setting."""
    method = {key: value for key, value in group.settings.items() if key.startswith(f"{_METHOD_KEY}.")}
    return method, {key: value for key, value in group.settings.items() if key not in method and key not in _NEITHER}


def _distinct(items: Iterator[dict]) -> dict[str, dict]:
    return dict(sorted((key_text(item), item) for item in items))


def _scores(group: Group, notes: list[str]) -> dict[int, dict[Any, float]]:
    """Number of labels → seed → headline metric, negated where lower is better.

    Without the first training: no rule had a part in its labels.
    """
    twice = repeated_seeds(group.runs)
    if twice:
        notes.append(f"{group.label}: several runs with seed {name_some(twice)}: which one to pair is open; left out.")
    scores: dict[int, dict[Any, float]] = {}
    for run in group.runs:
        seed = run.config.get("seed")
        for count, score in run.by_labels(run.measure.key).items() if seed not in twice else ():
            if count != run.metrics[0]["num_labels"]:
                scores.setdefault(count, {})[seed] = score if run.measure.higher_is_better else -score
    return scores


def _has_pairs(setting: Setting, labels: Sequence[str], notes: list[str]) -> bool:
    """Whether any two methods can be compared in it; those that cannot are noted."""
    if len(setting.scores) == 1:
        notes.append(f"{labels[next(iter(setting.scores))]}: alone in its setting; left out there.")
        return False
    poor = [pair for pair in combinations(sorted(setting.scores), 2) if not any(paired(*(setting.scores[place] for place in pair)))]
    for one, other in poor:
        reason = f"no number of labels, after the first, with at least {LEAST_SEEDS} seeds in common"
        notes.append(f"{labels[one]} and {labels[other]}: {reason}; not compared in one setting.")
    return len(poor) < math.comb(len(setting.scores), 2)
