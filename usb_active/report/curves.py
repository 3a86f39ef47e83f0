"""Learning curves: accuracy by number of labels, a line for each group."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from usb_active.durable import atomic_write
from usb_active.report.groups import Group, common_title, measured

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
LINES = ("-", "--", "-.", ":")


def learning_curve(groups: Sequence[Group], path: Path) -> Path:
    """Draw accuracy by number of labels, mean ± standard deviation over the runs of each group, as a PNG.

    The mean is drawn at the numbers of labels that all runs of a group reached; where these differ, the runs
    are drawn one by one as well, faintly.
    """
    from matplotlib.figure import Figure

    drawn = [group for group in groups if group.values("accuracy")]
    figure = Figure(figsize=(8, 4.8), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    for place, group in enumerate(drawn):
        _draw_group(axes, group, _style(place))
    _dress(axes, drawn)
    atomic_write(path, partial(figure.savefig, format="png"))
    return path


def _style(place: int) -> dict[str, str]:
    return {
        "color": COLORS[place % len(COLORS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": LINES[place // len(COLORS) % len(LINES)],
    }


def _draw_group(axes: Any, group: Group, style: dict) -> None:
    values = group.values("accuracy")
    common = [count for count, of_runs in values.items() if len(of_runs) == len(group.runs)]
    means = np.array([100 * mean(values[count]) for count in common])
    label = f"{group.label} ({len(group.runs)} run{'s' * (len(group.runs) > 1)})"
    edge = {"markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.6}
    axes.plot(common, means, label=label, linewidth=1.8, **edge, **style)
    if len(group.runs) > 1 and common:
        spread = np.array([100 * stdev(values[count]) for count in common])
        color = style["color"]
        if len(common) == 1:
            axes.errorbar(common, means, spread, color=color, linestyle="none", capsize=4)
        axes.fill_between(common, means - spread, means + spread, color=color, alpha=0.15, linewidth=0)
    if len(common) < len(values):
        for run in group.runs:
            counts, accuracies = zip(*sorted(run.by_labels("accuracy").items()), strict=True)
            percent = [100 * value for value in accuracies]
            axes.plot(counts, percent, alpha=0.4, linewidth=0.9, markersize=2.5, **style)


def _dress(axes: Any, groups: Sequence[Group]) -> None:
    """Title, axes, grid and legend."""
    from matplotlib.ticker import StrMethodFormatter

    # Names are anyone's: a `$` in them begins no formula.
    axes.set_title(common_title("Learning curves", groups), loc="left", fontsize=11, parse_math=False)
    axes.set_xlabel("number of labels")
    axes.set_ylabel(f"{measured(groups)}, last EMA model")
    _place_ticks(axes, sorted({count for group in groups for count in group.values("accuracy")}))
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, -1), min(top, 101))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}%"))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _add_legend(axes, beside=len(groups) > 6)


def _place_ticks(axes: Any, counts: list[int]) -> None:
    """A tick at each number of labels, where they are few and far enough apart."""
    from matplotlib.ticker import MaxNLocator

    gaps = np.diff(counts)
    if len(counts) <= 12 and (len(gaps) == 0 or gaps.min() >= (counts[-1] - counts[0]) / 16):
        axes.set_xticks(counts)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _add_legend(axes: Any, beside: bool) -> None:
    if beside:
        legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9, frameon=False)
    else:
        legend = axes.legend(loc="best", fontsize=9, framealpha=0.9, edgecolor="0.85")
    for text in legend.get_texts():
        text.set_parse_math(False)
