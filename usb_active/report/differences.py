"""Methods in pairs: how far apart they are, and whether that is more than chance, corrected for testing many pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from usb_active.numerics.statistics import MeanInterval, holm, mean_interval, paired_t_test, sign_test, signed_rank_test
from usb_active.records import Metric
from usb_active.report.compared import Compared
from usb_active.report.tables import Markdown, escape, table

# With fewer seeds in common nothing is claimed.
LEAST_COMMON = 3
CLAIMED_BELOW = 0.05


@dataclass(frozen=True)
class Difference:
    """Two methods, by their places, on what both were tried on.

    Attributes:
        one: the place of a method.
        other: that of another.
        gaps: (S,) score of the one minus score of the other, of each seed in each setting.
        seeds: how many distinct ones.
        adjusted: Holm's p of the paired t-test, NaN where there are too few seeds for a claim.
    """

    one: int
    other: int
    gaps: tuple[float, ...]
    seeds: int
    adjusted: float = float("nan")

    @property
    def is_tested(self) -> bool:
        """Whether there are seeds enough to claim anything."""
        return self.seeds >= LEAST_COMMON

    @property
    def interval(self) -> MeanInterval:
        """The mean difference."""
        return mean_interval(self.gaps)


def find_differences(compared: Compared) -> list[Difference]:
    """Every two methods with a seed in common in any setting; scores are the mean heights of the learning curves."""
    areas = [{place: setting.areas(place) for place in setting.groups} for setting in compared.found]
    found = []
    for one, other in combinations(range(len(compared.methods)), 2):
        gaps, seeds = [], set()
        for of in areas:
            common = sorted(of.get(one, {}).keys() & of.get(other, {}).keys(), key=str)
            gaps += [of[one][seed] - of[other][seed] for seed in common]
            seeds |= set(common)
        if gaps:
            found.append(Difference(one, other, tuple(gaps), len(seeds)))
    adjusted = holm([paired_t_test(each.gaps) if each.is_tested else np.nan for each in found])
    return [Difference(each.one, each.other, each.gaps, each.seeds, float(p)) for each, p in zip(found, adjusted, strict=True)]


def differences_section(compared: Compared, found: Sequence[Difference], measure: Metric) -> list[str]:
    """The matrix, what its numbers mean, and a row for each pair with other tests beside."""
    if not found:
        return []
    tested = [each for each in found if each.is_tested]
    parts = ["### Differences between methods", difference_matrix(compared.methods, found, measure), _caption(found, tested, measure)]
    return [*parts, tests_table(compared.methods, tested, measure)] if tested else parts


def difference_matrix(methods: Sequence[str], found: Sequence[Difference], measure: Metric) -> str:
    """Row minus column: the mean difference, and Holm's p in brackets where there are seeds enough."""
    cells = {(each.one, each.other): _cell(each, 1, measure) for each in found}
    cells |= {(each.other, each.one): _cell(each, -1, measure) for each in found}
    places = range(len(methods))
    return table(["row minus column", *methods], [[methods[row], *(cells.get((row, column), "–") for column in places)] for row in places])


def _cell(each: Difference, sign: int, measure: Metric) -> str:
    text = signed(sign * each.interval.mean, measure)
    if not each.is_tested:
        return text
    p = f"({p_text(each.adjusted)})"
    return Markdown(f"**{text}** {escape(p)}") if each.adjusted < CLAIMED_BELOW else f"{text} {p}"


def _caption(found: Sequence[Difference], tested: Sequence[Difference], measure: Metric) -> str:
    counts = sorted({len(each.gaps) for each in found})
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    pairs = f"{number} pair{'s' * (counts != [1])}"
    better = "" if measure.higher_is_better else " Lower is better: a negative difference is in the row's favour."
    means = (
        f"Mean difference of the areas over pairs of runs with the same seed in the same setting ({pairs} for two methods)."
        f"{better} "
    )
    few = f"Two methods with fewer than {LEAST_COMMON} seeds in common have no p: nothing is claimed of them."
    if not tested:
        return means + few
    return (
        f"{means}In brackets p of a paired two-sided t-test, adjusted by Holm's method for {len(tested)} "
        f"test{'s' * (len(tested) > 1)}; bold below {CLAIMED_BELOW:g}. {few} The tests speak of the settings in this report, not of others."
    )


def tests_table(methods: Sequence[str], tested: Sequence[Difference], measure: Metric) -> str:
    """A row for each pair: the difference with its interval, and the p of tests that assume less."""
    rows = [
        [
            f"{methods[each.one]} – {methods[each.other]}",
            len(each.gaps),
            f"{signed(each.interval.mean, measure)} ± {measure.factor * each.interval.half:.{measure.digits}f}",
            p_text(paired_t_test(each.gaps)),
            p_text(each.adjusted),
            p_text(signed_rank_test(each.gaps)),
            f"{sum(gap > 0 for gap in each.gaps)} : {sum(gap < 0 for gap in each.gaps)}",
            p_text(sign_test(each.gaps)),
        ]
        for each in tested
    ]
    header = ["difference", "pairs", "mean ± 95 % interval", "p (t)", "p (t, Holm)", "p (signed ranks)", "above : below", "p (signs)"]
    return table(header, rows)


def signed(value: float, measure: Metric) -> str:
    """A difference as a table shows it: `+1.25`, `0.00`."""
    text = f"{measure.factor * value:+.{measure.digits}f}"
    return text if float(text) else text[1:]


def p_text(p: float) -> str:
    """`0.034`, `<0.001`."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"
