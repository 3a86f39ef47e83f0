"""What a run's prior did: the pseudo-labels that it changed, and how good its tables were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usb_active.loop.guidance import read_prior_log
from usb_active.report.drawing import add_frame, add_legend, add_title, line_style, new_figure, save_figure
from usb_active.report.runs import RunRecord
from usb_active.report.tables import table

# A number logged as `updated_x` continues the line of `x`: metrics.jsonl keeps a name's last value only.
UPDATED = "updated_"


@dataclass(frozen=True)
class PriorCycle:
    """A training's records; `offset`: the steps of the trainings before it."""

    cycle: int
    offset: int
    intervals: list[dict]
    tables: list[dict]


def prior_section(run: RunRecord, out: Path) -> tuple[str, list[Path]]:
    """The Markdown section and the picture that it shows, written into `out`; nothing where no record of a prior is there."""
    cycles = _cycles(run)
    if not cycles:
        return "", []
    picture = _draw(cycles, out / "prior.png")
    rows = [_row(cycle) for cycle in cycles]
    header = ["cycle", "pseudo-labels with a prior", "changed by it (%)", "tables"]
    note = "Changed: the class with the prior is not the one that the model alone gives. Below: what the prior logged of its tables."
    return "\n\n".join(["## Prior", f"![Prior]({picture.name})", note, table(header, rows)]), [picture]


def _cycles(run: RunRecord) -> list[PriorCycle]:
    found, offset = [], 0
    steps = int(run.config.get("num_train_iter") or 0)
    for line in run.metrics:
        records = read_prior_log(run.directory.cycle_path(line["cycle"]))
        intervals = [record for record in records if "rows" in record]
        tables = [record for record in records if "log" in record]
        if records:
            found.append(PriorCycle(line["cycle"], offset, intervals, tables))
        offset += max([steps, *(record["iteration"] for record in records)])
    return found


def _row(cycle: PriorCycle) -> list[Any]:
    rows = sum(record["rows"] for record in cycle.intervals)
    changed = sum(record["changed"] for record in cycle.intervals)
    return [cycle.cycle, rows, f"{100 * changed / rows:.2f}" if rows else "–", len(cycle.tables)]


def _draw(cycles: Sequence[PriorCycle], path: Path) -> Path:
    lines = _logged_lines(cycles)
    figure = new_figure(height=6.4 if lines else 3.6)
    panels = figure.subplots(2 if lines else 1, 1, sharex=True, squeeze=False)[:, 0]
    _draw_changed(panels[0], cycles)
    if lines:
        _draw_logged(panels[1], lines)
    for axes in panels:
        for cycle in cycles[1:]:
            axes.axvline(cycle.offset, color="0.6", linewidth=0.8, linestyle=":")
        axes.set_ylim(-2, 102)
        axes.yaxis.set_major_formatter("{x:g}%")
        add_frame(axes)
    panels[-1].set_xlabel("training step, the cycles one after another" if len(cycles) > 1 else "training step")
    return save_figure(figure, path)


def _draw_changed(axes: Any, cycles: Sequence[PriorCycle]) -> None:
    add_title(axes, "Pseudo-labels that the prior changed")
    for cycle in cycles:
        x = [cycle.offset + record["iteration"] for record in cycle.intervals]
        y = [100 * record["changed"] / record["rows"] for record in cycle.intervals]
        axes.plot(x, y, linewidth=1.5, markersize=3 if len(x) <= 60 else 0, **line_style(0))


def _logged_lines(cycles: Sequence[PriorCycle]) -> dict[str, list[list[tuple[int, float]]]]:
    """Of each number that is a share throughout: a line of (step, value) for every cycle."""
    lines: dict[str, list[list[tuple[int, float]]]] = {}
    for place, cycle in enumerate(cycles):
        for record in cycle.tables:
            for name, value in record["log"].items():
                of_cycles = lines.setdefault(name.removeprefix(UPDATED), [[] for _ in cycles])
                of_cycles[place].append((cycle.offset + record["iteration"], value))
    return {name: of for name, of in lines.items() if all(0 <= value <= 1 for line in of for _, value in line)}


def _draw_logged(axes: Any, lines: dict[str, list[list[tuple[int, float]]]]) -> None:
    add_title(axes, "Logged by the prior at each table")
    for place, (name, of_cycles) in enumerate(lines.items()):
        label = name.removeprefix("prior_").replace("_", " ")
        for line in filter(None, of_cycles):
            x, y = zip(*line, strict=True)
            axes.plot(x, [100 * value for value in y], label=label, linewidth=1.5, markersize=5, **line_style(place))
            label = None
    add_legend(axes, beside=True)
