"""Learning curves: the headline metric by number of labels, a line for each group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from usb_active.numerics.baselines import TITLES
from usb_active.report.baselines import GroupBaselines
from usb_active.report.drawing import COLORS, add_frame, add_legend, add_title, line_style, new_figure, place_ticks, save_figure
from usb_active.report.groups import Group, common_title, measured

# Of thin lines, told apart by more than colour.
BASELINE_LINES = ((0, (5, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (2, 1)))


def learning_curve(groups: Sequence[Group], path: Path, baselines: GroupBaselines | None = None) -> Path:
    """Draw the headline metric (accuracy) by number of labels, mean ± standard deviation over the runs of each group, as a PNG.

    The mean is drawn at the numbers of labels that all runs of a group reached; where these differ, the runs
    are drawn one by one as well, faintly. `baselines` are thin lines without markers: of one group in colours of their own, of several
    in the group's colour.
    """
    drawn = [group for group in groups if group.curve]
    figure = new_figure()
    axes = figure.add_subplot()
    for place, group in enumerate(drawn):
        _draw_group(axes, group, line_style(place))
    _draw_baselines(axes, drawn, baselines or {})
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


def _draw_baselines(axes: Any, groups: Sequence[Group], baselines: GroupBaselines) -> None:
    lines = [(place, name, values) for place, group in enumerate(groups) for name, values in baselines.get(group.label, {}).items()]
    names = list(dict.fromkeys(name for _, name, _ in lines))
    for place, name, values in lines:
        number, is_alone = names.index(name), len(groups) == 1
        means = [100 * mean(of_runs) for of_runs in values.values()]
        # The first group has the first colour.
        color = COLORS[1 + number] if is_alone else line_style(place)["color"]
        # A single number of labels makes no line.
        marker = "_" if len(means) == 1 else ""
        style = {"linewidth": 1, "linestyle": BASELINE_LINES[number], "marker": marker, "markersize": 12, "zorder": 1.5}
        axes.plot(list(values), means, color=color, label=TITLES[name] if is_alone else None, **style)
    if len(groups) > 1:
        for number, name in enumerate(names):
            axes.plot([], [], color="0.35", linewidth=1, linestyle=BASELINE_LINES[number], label=f"{TITLES[name]} (same labels)")


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
