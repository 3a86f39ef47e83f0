"""The tables of report.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from statistics import mean, stdev
from typing import Any

from usb_active.errors import name_some, plain
from usb_active.records import Metric
from usb_active.report.groups import Group, group_runs, measured
from usb_active.report.method_names import differing_keys, setting_text
from usb_active.report.runs import PLACES, RunRecord, metric
from usb_active.storage.classes import with_added

SECONDS = {"acquisition_seconds": "acquisition s", "train_seconds": "train s"}


def accuracy_table(groups: Sequence[Group]) -> str:
    """A row for each group, a column for each number of labels."""
    counts = sorted({count for group in groups for run in group.runs for count in run.label_counts})
    rows = []
    for group in groups:
        values = group.curve
        rows.append([group.label, *(spread(values.get(count, ()), *_scale(group.measure)) for count in counts)])
    return table(["method", *counts], rows)


def final_table(groups: Sequence[Group]) -> str:
    """Where each group ended: its accuracies, and the seconds it took up to there."""
    names = _metrics(groups)
    selected = f"selected_{groups[0].measure.key}"
    if any(group.values(selected) for group in groups):
        names[selected] = ("on test, checkpoint chosen on held-out labels", groups[0].measure)
    rows = [
        [
            group.label,
            group.final,
            *(spread(group.values(name).get(group.final, ()), *_scale(measure)) for name, (_, measure) in names.items()),
            *(spread(group.totals(name), 1, 1) for name in SECONDS),
        ]
        for group in groups
    ]
    return table(["method", "labels", *(called for called, _ in names.values()), *SECONDS.values()], rows)


def _metrics(groups: Sequence[Group]) -> dict[str, tuple[str, Metric]]:
    """The metrics of a line, how a table calls them, and how their values are shown: never the best without saying what it is."""
    headline, *others = groups[0].measures
    place = measured(groups)
    best = "best on test" if place == f"{headline.name} {PLACES['test']}" else "best over evaluations"
    return {
        headline.key: (place, headline),
        f"best_{headline.key}": (f"{best} (optimistic)", headline),
        **{other.key: (other.name, other) for other in others},
    }


def _live(run: RunRecord) -> dict[str, tuple[str, Metric]]:
    """The columns of the live network, as far as any line of the run has them: it is scored where the EMA network is."""
    headline = run.measure
    columns = {
        f"live_{headline.key}": "live network",
        f"labeled_{headline.key}": f"{headline.name} on the labels trained on",
        f"live_labeled_{headline.key}": "live network on them",
    }
    return {name: (called, headline) for name, called in columns.items() if any(line.get(name) is not None for line in run.metrics)}


def _is_known(run: RunRecord, name: str) -> bool:
    return any(metric(line, name, run.measure.key) is not None for line in run.metrics)


def _scale(measure: Metric) -> tuple[float, int]:
    return measure.factor, measure.digits


def settings_table(groups: Sequence[Group]) -> str:
    """A row for each setting in which the groups differ, a column for each group."""
    settings = [group.settings for group in groups]
    keys = differing_keys(settings)
    rows = [[code(key), *(setting_text(of_group, key) for of_group in settings)] for key in keys]
    return table(["setting", *(group.label for group in groups)], rows)


def runs_table(groups: Sequence[Group]) -> str:
    """Which runs stand behind which group."""
    rows = [
        [run.path, group.label, run.config.get("seed", "–"), len(run.metrics), run.metrics[-1]["num_labels"]]
        for group in groups
        for run in group.runs
    ]
    return table(["run", "method", "seed", "trainings", "labels"], rows)


def cycle_table(run: RunRecord) -> str:
    """What happened in each cycle of one run. Of what was never measured there is no column."""
    metrics = {name: shown for name, shown in _metrics(group_runs([run])).items() if _is_known(run, name)}
    names, has_classes = {**metrics, **_live(run)}, run.has_classes
    has_audit = any(line.get("audit_samples") for line in run.metrics)
    rows = [
        [
            line["cycle"],
            line["num_labels"],
            *([line.get("audit_samples", "–")] if has_audit else []),
            line.get("acquisition") or "–",
            *([_class_counts(run, line)] if has_classes else []),
            *(number(metric(line, name, run.measure.key), *_scale(measure)) for name, (_, measure) in names.items()),
            *(number(line.get(name), 1, 1) for name in SECONDS),
        ]
        for line in run.metrics
    ]
    by_class = ["selected, by class"] if has_classes else []
    of_audit = ["of the audit"] if has_audit else []
    header = ["cycle", "labels", *of_audit, "acquisition", *by_class, *(called for called, _ in names.values()), *SECONDS.values()]
    return table(header, rows)


def _class_counts(run: RunRecord, line: dict) -> str:
    """`cat 3, dog 5`; with many classes the most frequent ones, and how many got none."""
    counts = line.get("selected_class_counts") or []
    query = run.directory.query(line["cycle"])
    # One that was added while this query waited is none of those that it names.
    known = with_added(run.directory, query.class_names, line["cycle"]) if query else ()
    names = known if len(known) == len(counts) else range(len(counts))
    pairs = list(zip(names, counts, strict=True))
    if len(pairs) > 10:
        pairs = sorted(pairs, key=lambda pair: -pair[1])
        chosen = [f"{name} {count}" for name, count in pairs if count]
        return f"{name_some(chosen)}; {len(pairs) - len(chosen)} of {len(pairs)} classes none"
    return ", ".join(f"{name} {count}" for name, count in pairs) or "–"


def logged_table(run: RunRecord) -> list[str]:
    """A heading and a table of what plugins logged, if they did."""
    names = list(dict.fromkeys(name for line in run.metrics for name in line.get("log") or {}))
    if not names:
        return []
    rows = []
    for line in run.metrics:
        log = line.get("log") or {}
        rows.append([line["cycle"], *(f"{log[name]:.4g}" if name in log else "–" for name in names)])
    return ["## Logged by the methods", table(["cycle", *names], rows)]


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; the first column is text, the others are aligned right."""
    ruler = list(map(Markdown, [":---"] + ["---:"] * (len(header) - 1)))
    lines = [" | ".join(escape(cell) for cell in row) for row in (header, ruler, *rows)]
    return "\n".join(f"| {line} |" for line in lines)


class Markdown(str):
    """Text that is Markdown already: a table takes it as it is."""


# What begins or ends something wherever it stands.
_SIGNS = re.compile(r"[\\`*\[\]~|]")
# Underscores within a word are none of it.
_UNDERSCORES = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_ENTITY = re.compile(r"&(?=#?\w+;)")
# Addresses that are made links unasked.
_ADDRESS = re.compile(r"://|(?<=\bwww)\.", re.IGNORECASE)
# At the beginning of a line: headings, lists, quotations, rulers.
_LINE_START = re.compile(r"^(?:(\d+)([.)])(?=\s|$)|(#{1,6}(?=\s|$)|>|[+-](?=\s|$)|-{2,}|=+(?=\s|$)))")


def escape(cell: Any) -> str:
    """Text on one line that Markdown shows as it is, in a table and outside."""
    if isinstance(cell, Markdown):
        return cell
    text = plain(" ".join(str(cell).split()))
    text = _UNDERSCORES.sub(r"\\_", _SIGNS.sub(r"\\\g<0>", text))
    text = _ADDRESS.sub(lambda found: "\\" + found[0], _ENTITY.sub("&amp;", text)).replace("<", "&lt;")
    return _LINE_START.sub(lambda found: f"{found[1]}\\{found[2]}" if found[1] else f"\\{found[3]}", text)


def code(text: str) -> Markdown:
    """A text as code, whatever backticks it holds itself."""
    text = plain(" ".join(text.split())).replace("|", r"\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return Markdown(f"{fence}{space}{text}{space}{fence}")


def spread(values: Sequence[float], scale: float = 100, digits: int = 2) -> str:
    """`81.25 ± 0.50 (3)`; `–` without values."""
    if not values:
        return "–"
    around = f" ± {scale * stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * mean(values):.{digits}f}{around} ({len(values)})"


def number(value: float | None, scale: float = 100, digits: int = 2) -> str:
    """`81.25`; `–` for None."""
    return "–" if value is None else f"{scale * value:.{digits}f}"
