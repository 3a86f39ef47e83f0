"""The critical-difference diagram of Demšar (2006): methods by their average rank, those that do not differ joined by a bar."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usb_active.errors import plain
from usb_active.numerics.statistics import average_ranks, close_groups, friedman_test, nemenyi_difference
from usb_active.report.compared import Compared
from usb_active.report.differences import LEAST_COMMON, p_text
from usb_active.report.drawing import COLORS, add_title, new_figure, save_figure
from usb_active.report.tables import escape, table

LEAST_METHODS = 3
LEAST_BLOCKS = 5
_LEVEL = 0.05


@dataclass(frozen=True)
class Ranking:
    """Methods ranked in blocks.

    Attributes:
        methods: (K,) their labels.
        scores: (B, K), higher being better.
        unit: what a block is: "data sets", "seeds", or "seeds on data sets".
    """

    methods: tuple[str, ...]
    scores: NDArray[np.float64]
    unit: str

    @property
    def ranks(self) -> NDArray[np.float64]:
        """(K,) the average rank of each; 1 is the best."""
        return average_ranks(self.scores)

    @property
    def difference(self) -> float:
        """Nemenyi's critical difference."""
        return nemenyi_difference(len(self.methods), len(self.scores), _LEVEL)


def find_ranking(compared: Compared, higher_is_better: bool) -> Ranking | str | None:
    """The methods ranked by area in every block that has all of them; a sentence where there are too few blocks, None for two methods.

    A block is a data set where there are enough of them, else a seed on a data set. Settings of the same data are one block: they share
    their samples, and the areas in them are averaged.
    """
    places = range(len(compared.methods))
    if len(places) < LEAST_METHODS:
        return None
    areas = _areas_by_data(compared)
    blocks = [np.mean(rows, axis=0) for of_data in areas.values() for rows in of_data.values()]
    seeds = {seed for of_data in areas.values() for seed in of_data}
    is_by_data = len(areas) >= LEAST_BLOCKS
    if len(seeds) < LEAST_COMMON and not is_by_data or len(blocks) < LEAST_BLOCKS:
        met, seen = (f"{len(of)} {what}{'s' * (len(of) != 1)}" for of, what in ((blocks, "block"), (seeds, "seed")))
        return (
            f"No critical-difference diagram: all {len(places)} methods met in {met} (a seed on a data set, {seen}); it needs "
            f"{LEAST_BLOCKS}, of at least {LEAST_COMMON} seeds or on {LEAST_BLOCKS} data sets. Settings of the same data are one block."
        )
    if is_by_data:
        blocks = [np.mean([np.mean(rows, axis=0) for rows in of_data.values()], axis=0) for of_data in areas.values()]
    unit = "data sets" if is_by_data else "seeds" if len(areas) == 1 else "seeds on data sets"
    return Ranking(compared.methods, np.asarray(blocks, np.float64) * (1 if higher_is_better else -1), unit)


def _areas_by_data(compared: Compared) -> dict[str, dict[Any, list[list[float]]]]:
    """Data → seed → the areas of all methods (K), for each setting in which all have that seed."""
    found: dict[str, dict[Any, list[list[float]]]] = {}
    for setting in compared.found:
        areas = [setting.areas(place) if place in setting.groups else {} for place in range(len(compared.methods))]
        for seed in sorted(set.intersection(*(set(of) for of in areas)), key=str):
            found.setdefault(setting.data, {}).setdefault(seed, []).append([of[seed] for of in areas])
    return found


def ranking_section(found: Ranking | str | None, out: Path) -> tuple[list[str], list[Path]]:
    """The parts of the page, and the picture that they show, written into `out`."""
    if found is None or isinstance(found, str):
        return ([escape(found)] if found else []), []
    drawn = draw_ranking(found, out / "critical_difference.png")
    order = np.argsort(found.ranks, kind="stable")
    ranks = table(["method", "average rank"], [[found.methods[place], f"{found.ranks[place]:.2f}"] for place in order])
    statistic, p = friedman_test(found.scores)
    verdict = "" if p < _LEVEL else " As that is not significant, the bars claim nothing."
    caption = (
        f"Average ranks by area over {len(found.scores)} {found.unit} (1 is the best). Friedman's test that all {len(found.methods)} "
        f"methods are alike: {statistic:.2f}, p {p_text(p)}.{verdict} Methods under one bar are closer than Nemenyi's critical difference "
        f"{found.difference:.2f} (level {_LEVEL:g}): no difference between them is shown."
    )
    if found.unit != "data sets":
        caption += " Seeds on one data set are counted as blocks here: the ranks speak of these data, not of others."
    return ["### Ranks", f"![Critical difference]({drawn.name})", ranks, caption], [drawn]


def draw_ranking(found: Ranking, path: Path) -> Path:
    """An axis of ranks, a line to each method's name, and a bar under each group of methods that do not differ."""
    order = np.argsort(found.ranks, kind="stable")
    ranks, names = found.ranks[order], [plain(found.methods[place]) for place in order]
    bars = close_groups(ranks, found.difference)
    size = len(names)
    rows, span = (size + 1) // 2, size - 1
    lowest = -0.6 - 0.4 * len(bars) - 0.8 * (rows - 1)
    figure = new_figure(8, 0.5 + 0.36 * (2.6 - lowest))
    axes = figure.add_subplot()
    _draw_axis(axes, size)
    for number, (first, last) in enumerate(bars):
        ends = [ranks[first] - 0.012 * span, ranks[last] + 0.012 * span]
        axes.plot(ends, [-0.5 - 0.4 * number] * 2, color=COLORS[0], linewidth=4, solid_capstyle="butt")
    for place, (rank, name) in enumerate(zip(ranks, names, strict=True)):
        is_left = place < rows
        # The outermost names nearest to the axis, so that no two lines cross.
        height = lowest + 0.8 * (rows - 1 - (place if is_left else size - 1 - place))
        edge = 1 - 0.06 * span if is_left else size + 0.06 * span
        axes.plot([rank, rank, edge], [0, height, height], color="0.35", linewidth=0.9)
        side = "right" if is_left else "left"
        axes.text(edge, height, f" {name} ({rank:.2f}) ", ha=side, va="center", fontsize=9, parse_math=False)
    _draw_difference(axes, found.difference, span)
    axes.set_xlim(1 - 0.55 * span, size + 0.55 * span)
    axes.set_ylim(lowest - 0.5, 2.2)
    axes.set_axis_off()
    add_title(axes, f"Average ranks over {len(found.scores)} {found.unit} (1 is the best)")
    return save_figure(figure, path)


def _draw_axis(axes: Any, size: int) -> None:
    axes.plot([1, size], [0, 0], color="0.2", linewidth=1.2)
    for rank in range(1, size + 1):
        axes.plot([rank, rank], [0, 0.2], color="0.2", linewidth=1.2)
        axes.text(rank, 0.3, str(rank), ha="center", va="bottom", fontsize=9)


def _draw_difference(axes: Any, difference: float, span: int) -> None:
    """How long the critical difference is, above the axis; cut at its end."""
    is_longer = difference > span
    axes.plot([1, 1 + min(difference, span)], [1.3, 1.3], color="0.2", linewidth=2)
    longer = " (longer than the axis)" if is_longer else ""
    axes.text(1, 1.45, f"critical difference {difference:.2f}{longer}", ha="left", va="bottom", fontsize=9)
