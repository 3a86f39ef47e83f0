"""How the analyses are shown: tables in Markdown, and pictures like Figs. 3b and 4 of the paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from usb_active.plugins.assl.analysis_functional import Bins, bin_width, binned, rank_correlation, top_share
from usb_active.plugins.assl.observations import Cycle

from usb_active.report.drawing import COLORS, add_frame, add_legend, add_title, line_style, new_figure, place_ticks, save_figure
from usb_active.report.tables import table

PERCENTS = (1, 5, 10)
# Of the bars, and of their scale's numbers, which must be darker to be read.
_BARS = (COLORS[2], "#00694d")
INFERENCE, VISITS = "temporal instability", "temporal instability from visits"


def page(cycles: Sequence[Cycle], out: Path, config: Any) -> str:
    """The section on a run's cycles; its figures are written into `out`."""
    observed = [cycle for cycle in cycles if len(cycle.steps) > 1 and len(cycle.instability)]
    parts = [_introduction(cycles, observed, config)]
    if not observed:
        return "\n\n".join(parts)
    parts += [_summary(observed), *_correlations(observed, out), *_by_instability(observed, out)]
    if config.watch != "nothing":
        parts += [*_by_visits(observed, out), *_shares(observed, config)]
    return "\n\n".join(parts)


def _introduction(cycles: Sequence[Cycle], observed: Sequence[Cycle], config: Any) -> str:
    text = (
        f"Every {config.interval} steps, the EMA model's predictions on the plain views of all unlabelled samples. Uncertainty u is the "
        "pseudo-EL2N, ‖p − onehot(argmax p)‖₂. Temporal instability (TI) counts how often a sample's predicted label differs from the one "
        "at the observation before."
    )
    seen = {cycle.number for cycle in observed}
    short = [str(cycle.number) for cycle in cycles if cycle.number not in seen]
    reason = "Cycles with fewer than two observations or no unlabelled sample, of which nothing can be said"
    return text + (f" {reason}: {', '.join(short)}." if short else "")


def _summary(cycles: Sequence[Cycle]) -> str:
    of_u = ["mean correlation of u and u before", "of the last u and the first", "of u and TI"]
    header = ["cycle", "samples", "observations", "mean TI", "never changed (%)", *of_u]
    rows = [
        [
            cycle.number, len(cycle.instability), len(cycle.steps), f"{_mean(cycle.instability):.3f}",
            f"{100 * _mean(cycle.instability == 0):.1f}", _number(_mean_defined(cycle.correlations)), _number(cycle.overall),
            _number(rank_correlation(cycle.instability, cycle.uncertainty)),
        ]
        for cycle in cycles
    ]  # fmt: skip
    return table(header, rows)


# ------------------------------------------------------------------------------------------ Fig. 3b
def _correlations(cycles: Sequence[Cycle], out: Path) -> list[str]:
    path = draw_correlations(cycles, out / "rank_correlation.png")
    steps = sorted({step for cycle in cycles for step in cycle.steps[1:]})
    found = [dict(zip(cycle.steps[1:], cycle.correlations, strict=True)) for cycle in cycles]
    rows = [[step, *(_number(of_cycle.get(step)) for of_cycle in found)] for step in steps]
    header = ["step", *(f"cycle {cycle.number}" for cycle in cycles)]
    note = "Spearman's rank correlation of u with the observation before; – where it is not defined (all samples equally uncertain)."
    return ["### Rank correlation of consecutive observations (Fig. 3b)", _picture(path), note, table(header, rows)]


def draw_correlations(cycles: Sequence[Cycle], path: Path) -> Path:
    """A line for each cycle: Spearman's correlation with the observation before, over the steps."""
    figure = new_figure()
    axes = figure.add_subplot()
    for place, cycle in enumerate(cycles):
        values = [np.nan if value is None else value for value in cycle.correlations]
        edge = {"markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.6}
        axes.plot(cycle.steps[1:], values, label=f"cycle {cycle.number}", linewidth=1.8, **edge, **line_style(place))
    add_title(axes, "Rank correlation of uncertainty with the observation before")
    axes.set_xlabel("training step of the cycle")
    axes.set_ylabel("Spearman's rank correlation")
    place_ticks(axes, sorted({step for cycle in cycles for step in cycle.steps[1:]}))
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.02)
    add_frame(axes)
    add_legend(axes, beside=len(cycles) > 6)
    return save_figure(figure, path)


# ------------------------------------------------------------------------------------------ Fig. 4
def _by_instability(cycles: Sequence[Cycle], out: Path) -> list[str]:
    keys = [cycle.instability for cycle in cycles]
    shown = _binned_section(cycles, keys, [cycle.uncertainty for cycle in cycles], INFERENCE, out / "instability.png")
    return ["### Uncertainty by temporal instability (Fig. 4)", *shown]


def _by_visits(cycles: Sequence[Cycle], out: Path) -> list[str]:
    seen = [cycle.watched["visits"] > 0 for cycle in cycles]
    keys = [cycle.watched["changes"][at].astype(np.int64) for cycle, at in zip(cycles, seen, strict=True)]
    values = [cycle.uncertainty[at] for cycle, at in zip(cycles, seen, strict=True)]
    note = (
        "Not the paper's TI: changes of the class that the training model itself predicted, from one visit of the sample in a batch to the "
        "next, on weakly augmented views. Samples are visited at different times and not equally often; those never visited are left out."
    )
    shown = _binned_section(cycles, keys, values, VISITS, out / "instability_from_visits.png")
    visits = [[cycle.number, f"{_mean(cycle.watched['visits']):.1f}", int((~at).sum())] for cycle, at in zip(cycles, seen, strict=True)]
    return ["### Uncertainty by temporal instability from visits", note, *shown, table(["cycle", "mean visits", "never visited"], visits)]


def _binned_section(cycles: Sequence[Cycle], keys: list[NDArray], values: list[NDArray], title: str, path: Path) -> list[str]:
    width = bin_width(max(int(of_cycle.max(initial=0)) for of_cycle in keys))
    bins = [binned(*pair, width) for pair in zip(keys, values, strict=True)]
    draw_bins(cycles, bins, title, path)
    note = "Number of samples: mean ± sample standard deviation of u at the last observation of the cycle."
    return [_picture(path), note, _bins_table(cycles, bins, title)]


def _bins_table(cycles: Sequence[Cycle], bins: Sequence[Bins], title: str) -> str:
    cells: dict[tuple[int, int], dict[int, str]] = {}
    for cycle, of_cycle in zip(cycles, bins, strict=True):
        for first, last, count, average, std in zip(*vars(of_cycle).values(), strict=True):
            around = "" if np.isnan(std) else f" ± {std:.3f}"
            cells.setdefault((int(first), int(last)), {})[cycle.number] = f"{count}: {average:.3f}{around}"
    rows = [
        [str(first) if first == last else f"{first}–{last}", *(found.get(cycle.number, "–") for cycle in cycles)]
        for (first, last), found in sorted(cells.items())
    ]
    return table([title, *(f"cycle {cycle.number}" for cycle in cycles)], rows)


def draw_bins(cycles: Sequence[Cycle], bins: Sequence[Bins], title: str, path: Path) -> Path:
    """A panel for each cycle: bars are the number of samples in a bin, the line is their mean uncertainty with its deviation."""
    across = min(3, len(cycles))
    down = math.ceil(len(cycles) / across)
    figure = new_figure(1.2 + 4.2 * across, 0.6 + 3.1 * down)
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    top = 1.3 * max(of_cycle.count.max(initial=1) for of_cycle in bins)
    for place, axes in enumerate(panels.flat):
        if place < len(cycles):
            counts = _draw_panel(axes, bins[place], f"cycle {cycles[place].number}")
            counts.set_ylim(0.8, top)
            counts.set_ylabel("samples" if (place + 1) % across == 0 or place + 1 == len(cycles) else "", color=_BARS[1])
        else:
            axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("uncertainty u")
    figure.supxlabel(title, fontsize=10)
    return save_figure(figure, path)


def _draw_panel(axes: Any, bins: Bins, title: str) -> Any:
    """Draw a cycle into the axes; the axes of its bars."""
    from matplotlib.ticker import MaxNLocator

    center, width = (bins.first + bins.last) / 2, bins.last - bins.first + 1
    # On a scale of its own, logarithmic: most samples never change.
    counts = axes.twinx()
    counts.bar(center, bins.count, 0.8 * width, color=_BARS[0], alpha=0.35, linewidth=0)
    counts.set_yscale("log")
    counts.tick_params(axis="y", labelcolor=_BARS[1])
    counts.spines[["top", "left"]].set_visible(False)
    axes.errorbar(center, bins.mean, bins.std, color=COLORS[0], marker="o", markersize=4, linewidth=1.5, capsize=2.5)
    # The line in front of the bars.
    axes.set_zorder(counts.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.tick_params(labelbottom=True)
    add_title(axes, title)
    add_frame(axes)
    return counts


# ------------------------------------------------------------------------------------------ Table 1
def _shares(cycles: Sequence[Cycle], config: Any) -> list[str]:
    names = [name for name in ("inconsistency", "uncertainty") if name in cycles[0].watched]
    header = ["cycle", "samples", "all", *(f"{name}: top {percent} %" for name in names for percent in PERCENTS)]
    rows = [row for cycle in cycles if (row := _share_row(cycle, names))]
    if len(rows) > 1:
        averages = [f"{mean(float(row[place]) for row in rows):.2f}" for place in range(2, len(header))]
        rows.append(["mean", "", *averages])
    note = (
        f"In how many of the observations (%) max p was above {config.threshold:g}, on average over the samples that rank highest by the "
        f"moving average (weight {config.alpha:g}) of their scores in training. Only samples that were visited."
    )
    return ["### Pseudo-labelled share (Table 1)", note, table(header, rows)]


def _share_row(cycle: Cycle, names: Sequence[str]) -> list[Any]:
    seen = cycle.watched["visits"] > 0
    if not seen.any():
        return []
    shares = [share for name in names for share in top_share(cycle.watched[name][seen], cycle.confident[seen], PERCENTS)]
    return [cycle.number, int(seen.sum()), *(f"{100 * share:.2f}" for share in (_mean(cycle.confident[seen]), *shares))]


# ------------------------------------------------------------------------------------------ texts
def _picture(path: Path) -> str:
    return f"![{path.stem.replace('_', ' ')}]({path.parent.name}/{path.name})"


def _mean(values: NDArray) -> float:
    return float(np.mean(values))


def _mean_defined(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return mean(defined) if defined else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
