"""How an autoencoder's cycles are shown: a table, and pictures; the last cycle's at full size, those of earlier ones folded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from usb_active.plugins.assal.analysis_functional import Shown, labeled_probability

from usb_active.report.drawing import COLORS, add_frame, add_legend, add_title, new_figure, save_figure
from usb_active.report.tables import table

# A dimension of the code is in use where the variance of μ is above this (Burda et al. 2016).
_IN_USE = 0.01
_COLUMNS = 10


def page(cycles: Sequence[Shown], out: Path) -> str:
    """The section on a run's cycles, at least one; its figures are written into `out`."""
    *earlier, last = cycles
    parts = [_introduction(last), _summary(cycles), f"### Cycle {last.cycle}, {last.labels} labels"]
    parts += [f"**{title}.** {note}\n\n{_picture(draw(last, out), title)}" for title, note, draw in _sections(last)]
    for shown in reversed(earlier):
        pictures = [_picture(draw(shown, out), f"{title}, cycle {shown.cycle}") for title, _, draw in _sections(shown)]
        folded = "\n\n".join(pictures)
        parts.append(f"<details>\n<summary>Cycle {shown.cycle}, {shown.labels} labels</summary>\n\n{folded}\n\n</details>")
    return "\n\n".join(parts)


def _introduction(last: Shown) -> str:
    text = (
        "Each cycle's weights after its last step, those that are trained and not their average. Images are as the network sees them, "
        "brought back to pixels by the data set's mean and standard deviation and clipped to black and white."
    )
    if last.has_scores:
        text += (
            " Balanced accuracy is the sampler's on all samples of both pools, those that it has learned from: 50 % is chance. That of "
            "metrics.jsonl is over the steps of the last epoch, each before the sampler learned from it."
        )
    else:
        text += " The algorithm has registered no sampler, so there are no scores."
    return text


def _summary(cycles: Sequence[Shown]) -> str:
    header = ["cycle", "labels", "dimensions of the code", "in use", "widest (variance of μ)"]
    scores = ["mean P(labelled) of labelled", "of unlabelled", "balanced accuracy (%)"]
    scored = any(shown.has_scores for shown in cycles)
    return table([*header, *(scores if scored else ())], [_row(shown, scored) for shown in cycles])


def _row(shown: Shown, scored: bool) -> list[Any]:
    widest = ", ".join(f"{number} ({shown.variance[number]:.2f})" for number in shown.directions.tolist())
    row = [shown.cycle, shown.labels, len(shown.variance), int((shown.variance > _IN_USE).sum()), widest]
    return row + ([_mean(shown.labeled_logits), _mean(shown.unlabeled_logits), _percent(shown.balanced_accuracy)] if scored else [])


def _mean(logits: NDArray) -> str:
    return f"{labeled_probability(logits).mean():.3f}" if len(logits) else "–"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _picture(path: Path, title: str) -> str:
    return f"![{title}]({path.parent.name}/{path.name})"


def _sections(shown: Shown) -> list[tuple[str, str, Callable[[Shown, Path], Path]]]:
    """Title, note and painter of each of a cycle's pictures."""
    found: list[tuple[str, str, Callable[[Shown, Path], Path]]] = [
        ("Reconstructions", "The same images in every cycle, as long as they stay in their pool; decoded from μ.", draw_reconstructions),
        ("Samples", "Decoded from codes drawn from the unit Gaussian.", draw_samples),
        ("Traversals", _of_traversals(shown), draw_traversals),
    ]
    if shown.has_scores:
        found.append(("The sampler's scores", "D = P(labelled) of all samples; the lowest are asked for next.", draw_scores))
    return found


def _of_traversals(shown: Shown) -> str:
    which = "The two dimensions in which μ varies most over the pool" if len(shown.directions) > 1 else "The code's only dimension"
    return f"{which}, from two standard deviations below its mean to two above; the rest of the code is that of the image at the left."


# ------------------------------------------------------------------------------------------ pictures
def draw_reconstructions(shown: Shown, out: Path) -> Path:
    """Of each pool, rows of images with their reconstructions below them."""
    pools = [
        (f"{name}: image above, reconstruction below", _interleaved(images, reconstructions))
        for name, images, reconstructions in (
            ("labelled", shown.labeled_images, shown.labeled_reconstructions),
            ("unlabelled", shown.unlabeled_images, shown.unlabeled_reconstructions),
        )
        if len(images)
    ]
    return _draw_mosaics(pools, out / f"cycle_{shown.cycle:03d}_reconstructions.png")


def draw_samples(shown: Shown, out: Path) -> Path:
    """A grid of what the decoder makes of the prior."""
    grid = _rows_of(shown.samples, _COLUMNS)
    return _draw_mosaics([("decoded from the unit Gaussian", grid)], out / f"cycle_{shown.cycle:03d}_samples.png")


def draw_traversals(shown: Shown, out: Path) -> Path:
    """Of each direction, a row for each image, which stands at the left with its reconstruction."""
    path = out / f"cycle_{shown.cycle:03d}_traversals.png"
    grids, labels = [], []
    for direction, values, images in zip(shown.directions.tolist(), shown.values, shown.traversals, strict=True):
        title = f"dimension {direction} (variance {shown.variance[direction]:.2f})"
        grids.append((title, np.concatenate([shown.starts, images], axis=1)))
        # Without a zero's sign.
        labels.append(["image", "decoded", *(f"{round(value, 1) + 0.0:.1f}".replace("-", "−") for value in values.tolist())])
    return _draw_mosaics(grids, path, labels, apart=2)


def draw_scores(shown: Shown, out: Path) -> Path:
    """The sampler's D over each pool, as shares of the pool."""
    figure = new_figure(8, 3.6)
    axes = figure.add_subplot()
    pools = (("labelled", shown.labeled_counts), ("unlabelled", shown.unlabeled_counts))
    for (name, counts), color in zip(pools, COLORS, strict=False):
        if counts.sum():
            share = 100 * counts / counts.sum()
            axes.stairs(share, shown.edges, fill=True, color=color, alpha=0.35)
            axes.stairs(share, shown.edges, color=color, linewidth=1.5, label=f"{name} ({counts.sum()})")
    axes.axvline(0.5, color="0.4", linewidth=1, linestyle=":")
    accuracy = shown.balanced_accuracy
    told = "" if accuracy is None else f", balanced accuracy {100 * accuracy:.1f} %"
    add_title(axes, f"Cycle {shown.cycle}{told}")
    axes.set_xlabel("P(labelled), by the sampler")
    axes.set_ylabel("share of the pool (%)")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    add_frame(axes)
    add_legend(axes, beside=False)
    return save_figure(figure, out / f"cycle_{shown.cycle:03d}_scores.png")


def _interleaved(images: NDArray, others: NDArray) -> NDArray:
    """(rows, columns, H, W, c): rows of `images`, each with one of `others` below."""
    one, other = _rows_of(images, _COLUMNS), _rows_of(others, _COLUMNS)
    return np.stack([one, other], axis=1).reshape(-1, *one.shape[1:])


def _rows_of(images: NDArray, columns: int) -> NDArray:
    """(rows, columns, H, W, c) of (R, H, W, c); what is missing in the last row is white."""
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    blank = np.full((rows * columns - len(images), *images.shape[1:]), 255, dtype=np.uint8)
    return np.concatenate([images, blank]).reshape(rows, columns, *images.shape[1:])


def mosaic(grid: NDArray, gap: int) -> NDArray[np.uint8]:
    """One image (rows · (H + gap) − gap, columns · (W + gap) − gap, 3) of (rows, columns, H, W, c), with white between.

    Of three channels the colours are shown, of any other number the first channel in grey.
    """
    colors = grid if grid.shape[-1] == 3 else np.repeat(grid[..., :1], 3, axis=-1)
    padded = np.pad(colors, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    rows, columns, height, width, channels = padded.shape
    whole = padded.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    return whole[: rows * height - gap, : columns * width - gap]


def _draw_mosaics(grids: Sequence[tuple[str, NDArray]], path: Path, labels: Sequence[Sequence[str]] = (), apart: int = 0) -> Path:
    """Each grid under its title, one below the other, cells of one size.

    Args:
        grids: titles, and (rows, columns, H, W, c).
        path: of the PNG.
        labels: of the columns of each.
        apart: how many columns at the left stand apart from the others.
    """
    across = max(grid.shape[1] for _, grid in grids)
    grids = [(title, np.pad(grid, ((0, 0), (0, across - grid.shape[1]), *[(0, 0)] * 3), constant_values=255)) for title, grid in grids]
    side = min(0.75, 8 / across)
    heights = [side * grid.shape[0] * grid.shape[2] / grid.shape[3] for _, grid in grids]
    extra = 0.5 if labels else 0.35
    figure = new_figure(side * across + 0.3, sum(heights) + extra * len(grids))
    panels = figure.subplots(len(grids), 1, squeeze=False, gridspec_kw={"height_ratios": [height + extra for height in heights]})
    for number, (title, grid) in enumerate(grids):
        axes = panels[number, 0]
        _draw_mosaic(axes, title, grid, labels[number] if labels else (), apart)
    return save_figure(figure, path)


def _draw_mosaic(axes: Any, title: str, grid: NDArray, labels: Sequence[str], apart: int) -> None:
    width = grid.shape[3]
    gap = max(1, width // 12)
    axes.imshow(mosaic(grid, gap), interpolation="nearest" if width < 100 else "antialiased")
    add_title(axes, title)
    axes.set_yticks([])
    places = [number * (width + gap) + width / 2 - 0.5 for number in range(len(labels))]
    axes.set_xticks(places, labels, fontsize=8)
    axes.tick_params(length=0)
    if apart:
        axes.axvline(apart * (width + gap) - gap / 2 - 0.5, color=COLORS[1], linewidth=1.5)
    axes.spines[:].set_visible(False)
