"""Methods in pairs: how far apart they are, and whether that is more than chance, corrected for testing many pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from usb_active.numerics.statistics import (
    MeanInterval,
    holm,
    mean_interval,
    paired_differences,
    paired_t_test,
    sign_test,
    signed_rank_test,
)
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
        gaps: (S,) score of the one minus score of the other, of each seed on each data: the mean over the settings of these data.
        seeds: how many distinct ones.
        pairs: of runs, behind the gaps.
        adjusted: Holm's p of the paired t-test, NaN where there are too few seeds for a claim.
    """

    one: int
    other: int
    gaps: tuple[float, ...]
    seeds: int
    pairs: int
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
    """Every two methods with a seed in common in any setting; scores are the mean heights of the learning curves.

    Settings of the same data share their samples, and a seed its split and its first labels there: its differences in them are no sample
    of several, and are averaged.
    """
    areas = [(setting.data, {place: setting.areas(place) for place in setting.groups}) for setting in compared.found]
    found = []
    for one, other in combinations(range(len(compared.methods)), 2):
        pairs: dict[tuple[str, Any], list[tuple[float, float]]] = {}
        for data, of in areas:
            mine, theirs = of.get(one, {}), of.get(other, {})
            for seed in sorted(mine.keys() & theirs.keys(), key=str):
                pairs.setdefault((data, seed), []).append((mine[seed], theirs[seed]))
        if pairs:
            # Averaged before they are subtracted: differences that cancel out would leave rounding.
            means = np.array([np.mean(of, axis=0) for of in pairs.values()])
            gaps = paired_differences(means[:, 0], means[:, 1]).tolist()
            found.append(Difference(one, other, tuple(gaps), len({seed for _, seed in pairs}), sum(map(len, pairs.values()))))
    adjusted = holm([paired_t_test(each.gaps) if each.is_tested else np.nan for each in found])
    return [replace(each, adjusted=float(p)) for each, p in zip(found, adjusted, strict=True)]


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
    counts, runs = sorted({len(each.gaps) for each in found}), sorted({each.pairs for each in found})
    averaged = f"; those of a seed in several settings of the same data are averaged first, {_from_to(runs)} pairs of runs in all"
    better = "" if measure.higher_is_better else " Lower is better: a negative difference is in the row's favour."
    means = (
        "Mean difference of the areas between runs of the same seed in the same setting"
        f" ({_from_to(counts)} pair{'s' * (counts != [1])} for two methods{averaged if runs != counts else ''}).{better} "
    )
    few = f"Two methods with fewer than {LEAST_COMMON} seeds in common have no p: nothing is claimed of them."
    if not tested:
        return means + few
    return (
        f"{means}In brackets p of a paired two-sided t-test, adjusted by Holm's method for {len(tested)} "
        f"test{'s' * (len(tested) > 1)}; bold below {CLAIMED_BELOW:g}. {few} Below, p of signed ranks and of signs is of the one test, "
        "not adjusted for their number. The tests speak of the settings in this report, not of others."
    )


def _from_to(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


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
