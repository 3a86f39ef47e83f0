"""How the pictures of a report look: one palette, one frame, one way to the disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from usb_active.storage.durable import atomic_write

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
LINES = ("-", "--", "-.", ":")


def new_figure(width: float = 8, height: float = 4.8) -> Any:
    """An empty figure of this size in inches, without a window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=160, layout="constrained")


def save_figure(figure: Any, path: Path) -> Path:
    """Write a PNG, whole or not at all."""
    atomic_write(path, partial(figure.savefig, format="png"))
    return path


def line_style(place: int) -> dict[str, str]:
    """Colour, marker and line of the `place`-th line, told apart by more than colour."""
    return {
        "color": COLORS[place % len(COLORS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": LINES[place // len(COLORS) % len(LINES)],
    }


def add_frame(axes: Any) -> None:
    """A light grid behind, and no box around."""
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def place_ticks(axes: Any, values: Sequence[int]) -> None:
    """A tick at each of these places along x, in order, where they are few and far enough apart."""
    from matplotlib.ticker import MaxNLocator

    gaps = np.diff(values)
    if len(values) <= 12 and (len(gaps) == 0 or gaps.min() >= (values[-1] - values[0]) / 16):
        axes.set_xticks(values)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def add_title(axes: Any, text: str) -> None:
    """A title with names of any origin: a `$` in them begins no formula."""
    axes.set_title(text, loc="left", fontsize=11, parse_math=False)


def add_legend(axes: Any, beside: bool) -> None:
    """A legend within the axes, or beside them where there are many lines."""
    if beside:
        legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9, frameon=False)
    else:
        legend = axes.legend(loc="best", fontsize=9, framealpha=0.9, edgecolor="0.85")
    for text in legend.get_texts():
        text.set_parse_math(False)
