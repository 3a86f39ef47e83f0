"""Learning curves: the headline metric by number of labels, a line for each group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from usb_active.report.drawing import add_frame, add_legend, add_title, line_style, new_figure, place_ticks, save_figure
from usb_active.report.groups import Group, common_title, measured


def learning_curve(groups: Sequence[Group], path: Path) -> Path:
    """Draw the headline metric (accuracy) by number of labels, mean ± standard deviation over the runs of each group, as a PNG.

    The mean is drawn at the numbers of labels that all runs of a group reached; where these differ, the runs
    are drawn one by one as well, faintly.
    """
    drawn = [group for group in groups if group.curve]
    figure = new_figure()
    axes = figure.add_subplot()
    for place, group in enumerate(drawn):
        _draw_group(axes, group, line_style(place))
    _dress(axes, drawn)
    return save_figure(figure, path)


def _draw_group(axes: Any, group: Group, style: dict) -> None:
    values, factor = group.curve, group.measure.factor
    common = [count for count, of_runs in values.items() if len(of_runs) == len(group.runs)]
    means = np.array([factor * mean(values[count]) for count in common])
    label = f"{group.label} ({len(group.runs)} run{'s' * (len(group.runs) > 1)})"
    edge = {"markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.6}
    axes.plot(common, means, label=label, linewidth=1.8, **edge, **style)
    if len(group.runs) > 1 and common:
        spread = np.array([factor * stdev(values[count]) for count in common])
        color = style["color"]
        if len(common) == 1:
            axes.errorbar(common, means, spread, color=color, linestyle="none", capsize=4)
        axes.fill_between(common, means - spread, means + spread, color=color, alpha=0.15, linewidth=0)
    if len(common) < len(values):
        for run in group.runs:
            counts, scores = zip(*sorted(run.by_labels(run.measure.key).items()), strict=True)
            axes.plot(counts, [factor * value for value in scores], alpha=0.4, linewidth=0.9, markersize=2.5, **style)


def _dress(axes: Any, groups: Sequence[Group]) -> None:
    """Title, axes, grid and legend."""
    from matplotlib.ticker import StrMethodFormatter

    add_title(axes, common_title("Learning curves", groups))
    axes.set_xlabel("number of labels")
    direction = "" if groups[0].measure.higher_is_better else " (lower is better)"
    axes.set_ylabel(f"{measured(groups)}, last EMA model{direction}")
    place_ticks(axes, sorted({count for group in groups for count in group.curve}))
    measure = groups[0].measure
    if measure.unit == "%":
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, -1), min(top, 101))
    axes.yaxis.set_major_formatter(StrMethodFormatter(f"{{x:g}}{measure.unit}"))
    add_frame(axes)
    add_legend(axes, beside=len(groups) > 6)
