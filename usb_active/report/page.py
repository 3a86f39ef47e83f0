"""The text of report.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from usb_active.errors import name_some
from usb_active.report.groups import Group, common_title
from usb_active.report.runs import repeated_seeds
from usb_active.report.tables import (
    accuracy_table,
    cycle_table,
    escape,
    final_table,
    logged_table,
    runs_table,
    settings_table,
)

_FINAL_NOTE = (
    "At the largest number of labels that the most runs of a method reached; seconds are summed up to there. "
    "The best over all evaluations was chosen on the samples it is measured on: it is optimistic."
)


def markdown(
    groups: Sequence[Group], notes: Sequence[str], curves: Sequence[Path], sections: Sequence[str], galleries: Sequence[Path]
) -> str:
    """The report on some groups, with a list of notes, further sections, and links to the pictures, which lie beside it."""
    parts = [f"# {escape(common_title('Report', groups))}"]
    parts += [f"![Learning curves]({path.name})" for path in curves]
    parts += ["\n".join(f"- {escape(note)}" for note in notes)] if notes else []
    if any(group.curve for group in groups):
        parts += _evaluated(groups)
    else:
        # What there is in place of it comes first.
        parts, sections = [*parts, *sections], []
    if len(groups) > 1:
        parts += ["## Settings that differ", settings_table(groups)]
    parts += ["## Runs", runs_table(groups)]
    runs = [run for group in groups for run in group.runs]
    if len(runs) == 1:
        parts += ["## Cycles", cycle_table(runs[0]), *logged_table(runs[0])]
    parts += sections
    parts += ["## What was picked"] if galleries else []
    parts += [f"![{path.stem.replace('_', ' ')}]({path.name})" for path in galleries]
    return "\n\n".join(parts) + "\n"


def _evaluated(groups: Sequence[Group]) -> list[str]:
    measure = groups[0].measure
    unit = f" ({measure.unit})" if measure.unit else ""
    direction = "" if measure.higher_is_better else " Lower is better."
    return [
        f"## {measure.name[:1].upper()}{measure.name[1:]}{unit} by number of labels",
        accuracy_table(groups),
        f"Last EMA model; mean ± sample standard deviation (n runs).{direction}",
        "## At the end",
        final_table(groups),
        _FINAL_NOTE,
    ]


def caveats(groups: Sequence[Group]) -> list[str]:
    """What a reader must know before believing the tables."""
    lines = []
    for group in groups:
        twice = repeated_seeds(group.runs)
        if twice:
            lines.append(f"{group.label}: several runs with seed {name_some(twice)}: not a spread over seeds.")
        last = sorted({run.metrics[-1]["num_labels"] for run in group.runs})
        if len(last) > 1:
            lines.append(f"{group.label}: the runs stop at different numbers of labels ({name_some(last)}).")
        if group.evaluated_on == "none":
            audit = " but by the audit" if any(line.get("audit_samples") for run in group.runs for line in run.metrics) else ""
            lines.append(f"{group.label}: not evaluated{audit}: no test samples, and validation holds out no labels.")
    if len({group.evaluated_on for group in groups} - {"none"}) > 1:
        values = "Accuracies" if groups[0].measure.key == "accuracy" else f"Values of {groups[0].measure.name}"
        lines.append(f"{values} on test and on held-out labels are not comparable; here are both.")
    return lines
