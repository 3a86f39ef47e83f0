"""The pairwise matrix as a picture and as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from usb_active.report.drawing import add_title, new_figure, save_figure
from usb_active.report.method_names import differing_keys, setting_text
from usb_active.report.pairwise import LEAST_SEEDS, LEVEL, Comparison, Setting, paired
from usb_active.report.tables import code, escape, table

AVERAGE = "average (lower is better)"


def pairwise_section(comparison: Comparison, out: Path) -> tuple[str, list[Path]]:
    """The Markdown section, and the picture that it shows, written into `out`."""
    parts, drawn = ["## Methods against each other"], []
    if comparison.settings:
        drawn = [draw_matrix(comparison, out / "pairwise.png")]
        parts += ["![Pairwise matrix](pairwise.png)", matrix_table(comparison), _explanation(comparison)]
        parts += ["### Settings", compared_settings_table(comparison)]
    else:
        parts.append("No two methods could be compared.")
    if comparison.notes:
        parts += ["### Left out", "\n".join(f"- {escape(note)}" for note in comparison.notes)]
    return "\n\n".join(parts), drawn


def matrix_table(comparison: Comparison) -> str:
    """A row for each method with its wins over each other one, and the average of each column."""
    rows = [[name, *(_cell(comparison, row, column) for column in range(len(comparison.methods)))]
            for row, name in enumerate(comparison.methods)]  # fmt: skip
    averages = [f"{value:.2f}" for value in comparison.averages]
    return table(["beats →", *comparison.methods], [*rows, [AVERAGE, *averages]])


def _cell(comparison: Comparison, row: int, column: int) -> str:
    if row != column and not comparison.compared[row, column]:
        return "–"
    return f"{comparison.wins[row, column]:.2f}"


def _explanation(comparison: Comparison) -> str:
    pairs = comparison.compared[~np.eye(len(comparison.methods), dtype=bool)]
    most = int(pairs.max())
    unequal = " Not every pair met in every setting (see below): columns whose rivals differ cannot be compared."
    return (
        "In how many settings the row's method beats the column's, as in Ash et al. (2020): at every number of labels after the first, a "
        f"paired two-sided t-test over the seeds in common (at least {LEAST_SEEDS}; level {LEVEL:g}, uncorrected for multiple tests); "
        "each significant difference adds 1 / (numbers of labels compared), so a setting adds at most 1 and a cell is at most "
        f"{most}. Differences that are the same at every seed have no variance: they count as significant unless they are zero. "
        f"The average of a column includes the zero on the diagonal.{unequal if pairs.min() < most else ''}"
    )


def compared_settings_table(comparison: Comparison) -> str:
    """A row for each setting: what tells it apart, and what was compared in it."""
    keys = differing_keys([setting.keys for setting in comparison.settings])
    rows = [
        [number, *(setting_text(setting.keys, key) for key in keys), *_used(setting, comparison)]
        for number, setting in enumerate(comparison.settings, 1)
    ]
    return table(["setting", *map(code, keys), "methods", "seeds", "numbers of labels"], rows)


def _used(setting: Setting, comparison: Comparison) -> list[str]:
    methods = [comparison.methods[place] for place in sorted(setting.scores)]
    shown = f"all {len(methods)}" if len(methods) == len(comparison.methods) else ", ".join(methods)
    seeds = {seed for scores in setting.scores.values() for of_count in scores.values() for seed in of_count}
    counts = sorted({count for scores in setting.scores.values() for count in scores if _is_paired(setting, count)})
    return [shown, ", ".join(sorted(map(str, seeds), key=_natural)), ", ".join(map(str, counts))]


def _is_paired(setting: Setting, count: int) -> bool:
    at = [{count: scores[count]} for scores in setting.scores.values() if count in scores]
    return any(any(paired(one, other)) for place, one in enumerate(at) for other in at[place + 1 :])


def _natural(text: str) -> tuple[int, str]:
    return len(text), text


def draw_matrix(comparison: Comparison, path: Path) -> Path:
    """The matrix as a heat map with its numbers, and the averages of the columns below it."""
    from matplotlib import colormaps

    size = len(comparison.methods)
    figure = new_figure(2.6 + 0.85 * size, 1.9 + 0.62 * size)
    axes = figure.add_subplot()
    shown = np.ma.masked_array(comparison.wins, mask=(comparison.compared == 0) & ~np.eye(size, dtype=bool))
    values = np.ma.vstack([shown, comparison.averages[None]])
    most = int(comparison.compared.max())
    axes.imshow(values, cmap=colormaps["Blues"].with_extremes(bad="0.9"), vmin=0, vmax=most, aspect="auto")
    _write_numbers(axes, values, most)
    # Apart from the matrix itself.
    axes.axhline(size - 0.5, color="white", linewidth=5)
    axes.set_xticks(range(size), comparison.methods, rotation=30, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(size + 1), [*comparison.methods, "average"], parse_math=False)
    axes.set_xlabel("loses")
    axes.set_ylabel("wins")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    add_title(axes, f"Significant wins over {len(comparison.settings)} setting{'s' * (len(comparison.settings) > 1)}")
    return save_figure(figure, path)


def _write_numbers(axes: Any, values: np.ma.MaskedArray, most: int) -> None:
    for (row, column), value in np.ndenumerate(values.filled(np.nan)):
        text = "–" if np.isnan(value) else f"{value:.2f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if value > 0.6 * most else "0.15")
