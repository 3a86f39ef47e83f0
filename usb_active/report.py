"""What finished trainings say: learning curves, Markdown tables, and pictures of what was picked.

Runs whose configurations differ only in the seed and in keys without effect on results are one *group*: a
method over seeds. The number reported first is always the last EMA model's; the best over a training's
evaluations was chosen on the samples it is measured on, so it is listed as optimistic, and never drawn.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.durable import atomic_write, make_folder
from usb_active.errors import UsageError, name_some
from usb_active.run_dir import RunDir

if TYPE_CHECKING:
    from usb_active.datasets import Dataset

# Keys that tell runs of one method apart; the configuration's own free keys come on top.
RUN_KEYS = ("seed", "save_name", "save_dir")
# Keys that name a group whenever they differ, in the label's order; others only where these do not suffice.
NAMING = {
    "algorithm": "{}",
    "active.acquisition.name": "{}",
    "active.prior.name": "prior {}",
    "active.pretrain.name": "pretrain {}",
    "active.initial.name": "initial {}",
    "active.initial.size": "initial size {}",
    "active.budget": "budget {}",
}
CHOICES = ("initial", "acquisition", "oracle", "pretrain", "features", "prior")
MEASURED = {"test": "accuracy on test", "validation": "accuracy on held-out labels", "none": "not evaluated"}
SECONDS = {"acquisition_seconds": "acquisition s", "train_seconds": "train s"}
GALLERY_SIZE, GALLERY_COLUMNS = 50, 10
# Okabe and Ito's palette, told apart by colour-blind readers too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
LINES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Run:
    """One run directory as it was read: its path as given, its configuration, and its metrics by cycle."""

    path: Path
    directory: RunDir
    config: dict
    metrics: list[dict]

    @property
    def evaluated_on(self) -> str:
        """What its accuracies are measured on: "test", "validation", or "none"."""
        kinds = [line["evaluated_on"] for line in self.metrics if line["evaluated_on"] != "none"]
        return kinds[-1] if kinds else "none"

    @property
    def label_counts(self) -> set[int]:
        """The numbers of labels that it was trained with."""
        return {line["num_labels"] for line in self.metrics}

    def by_labels(self, name: str) -> dict[int, float]:
        """Number of labels → a metric. Where a cycle brought no label, the later training counts."""
        lines = [line for line in self.metrics if line["evaluated_on"] == self.evaluated_on]
        values = {line["num_labels"]: metric(line, name) for line in lines}
        return {count: value for count, value in values.items() if value is not None}

    def total(self, name: str, num_labels: int) -> float | None:
        """The sum of a metric over the trainings with at most `num_labels` labels."""
        values = [line.get(name) for line in self.metrics if line["num_labels"] <= num_labels]
        values = [value for value in values if value is not None]
        return sum(values) if values else None


@dataclass(frozen=True)
class Group:
    """The runs of one method, over seeds. `settings`: its configuration, flat, without seed and free keys."""

    label: str
    runs: tuple[Run, ...]
    settings: dict[str, Any]

    @property
    def evaluated_on(self) -> str:
        return self.runs[0].evaluated_on

    def values(self, name: str) -> dict[int, list[float]]:
        """Number of labels → the metric of every run that was there, ordered by the number of labels."""
        gathered: dict[int, list[float]] = {}
        for run in self.runs:
            for count, value in run.by_labels(name).items():
                gathered.setdefault(count, []).append(value)
        return dict(sorted(gathered.items()))

    @property
    def final(self) -> int:
        """The largest number of labels among those that the most runs reached."""
        reached = Counter(count for run in self.runs for count in run.label_counts)
        return max(reached, key=lambda count: (reached[count], count))

    def totals(self, name: str) -> list[float]:
        """Sums of a metric up to the final number of labels, of the runs that were there."""
        sums = [run.total(name, self.final) for run in self.runs if self.final in run.label_counts]
        return [value for value in sums if value is not None]


def metric(line: dict, name: str) -> float | None:
    """A value of a line of metrics.jsonl; an accuracy is the one on `evaluated_on`."""
    if name == "accuracy" and line["evaluated_on"] == "validation" and line.get(name) is None:
        return line.get("validation_accuracy")
    return line.get(name)


# Grouping --------------------------------------------------------------------------------------------


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Runs that differ in nothing that matters, together, labelled by what tells the groups apart."""
    gathered: dict[str, tuple[dict, list[Run]]] = {}
    for run in runs:
        settings = method_settings(run.config)
        key = json.dumps([settings, run.evaluated_on], sort_keys=True, default=str)
        gathered.setdefault(key, (settings, []))[1].append(run)
    members = list(gathered.values())
    kinds = [of_group[0].evaluated_on for _, of_group in members]
    labels = group_labels([settings for settings, _ in members])
    if len(set(kinds)) > 1:
        measured = [MEASURED[kind].removeprefix("accuracy ") for kind in kinds]
        labels = [f"{label} · {text}" for label, text in zip(labels, measured, strict=True)]
    groups = [
        Group(label, tuple(of), settings) for label, (settings, of) in zip(labels, members, strict=True)
    ]
    return sorted(groups, key=lambda group: _natural(group.label))


def _natural(label: str) -> list:
    """A key that sorts `budget 5` before `budget 10`: text and numbers in turn."""
    parts = re.split(r"(\d+(?:\.\d+)?)", label)
    return [float(part) if place % 2 else part for place, part in enumerate(parts)]


def method_settings(config: dict) -> dict[str, Any]:
    """The configuration, flat (`active.acquisition.name`), without the seed and what changes no results."""
    from usb_active.config import FREE_KEYS

    active = dict(config.get("active") or {})
    # The short form of a choice, `acquisition: margin`, means the same as `{name: margin}`.
    active |= {key: {"name": active[key]} for key in CHOICES if isinstance(active.get(key), str)}
    free = (*RUN_KEYS, *FREE_KEYS)
    flat = _flatten({**config, "active": active})
    return {key: flat[key] for key in flat if not any(f"{key}.".startswith(f"{other}.") for other in free)}


def _flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differing_keys(settings: Sequence[dict]) -> list[str]:
    """Keys whose values differ, or that only some have: those of NAMING first, the acquisition's next."""
    keys = {key for of_group in settings for key in of_group}
    found = [key for key in keys if len({_text(of_group, key) for of_group in settings}) > 1]
    order = {key: place for place, key in enumerate(NAMING)}
    is_other = {key: not key.startswith("active.acquisition.") for key in found}
    return sorted(found, key=lambda key: (order.get(key, len(order)), is_other[key], key))


def _text(settings: dict, key: str) -> str:
    """A setting as text; "none" for a plugin not chosen (`prior: null`) and for a key that is not there."""
    value = settings.get(key)
    if value is None or isinstance(value, str):
        return value or "none"
    return json.dumps(value, default=str)


def group_labels(settings: Sequence[dict]) -> list[str]:
    """Short labels that tell the groups apart: `margin`, or `flexmatch · margin`, or `assl · alpha=0.5`."""
    parts: list[tuple[str, ...]] = [()] * len(settings)
    for key in differing_keys(settings):
        # A plugin's setting says nothing beside another plugin's name: only where groups still look alike.
        alike = [[i for i, other in enumerate(parts) if other == mine] for mine in parts]
        shown = NAMING.get(key, key.rpartition(".")[2] + "={}")
        unresolved = [len({_text(settings[i], key) for i in same}) > 1 for same in alike]
        for i, of_group in enumerate(settings):
            if key in NAMING or unresolved[i]:
                parts[i] = (*parts[i], shown.format(_text(of_group, key)))
    return [" · ".join(part) or _only_name(of_group) for part, of_group in zip(parts, settings, strict=True)]


def _only_name(settings: dict) -> str:
    return settings.get("active.acquisition.name") or settings.get("algorithm") or "run"


# Learning curve --------------------------------------------------------------------------------------


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
        style = {
            "color": COLORS[place % len(COLORS)],
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": LINES[place // len(COLORS) % len(LINES)],
        }
        _draw_group(axes, group, style)
    _dress(axes, drawn)
    atomic_write(path, partial(figure.savefig, format="png"))
    return path


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
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    kinds = {group.evaluated_on for group in groups}
    axes.set_title(_title("Learning curves", groups), loc="left", fontsize=11, parse_math=False)
    axes.set_xlabel("number of labels")
    axes.set_ylabel(f"{MEASURED[kinds.pop()] if len(kinds) == 1 else 'accuracy'}, last EMA model")
    counts = sorted({count for group in groups for count in group.values("accuracy")})
    gaps = np.diff(counts)
    if len(counts) <= 12 and (len(gaps) == 0 or gaps.min() >= (counts[-1] - counts[0]) / 16):
        axes.set_xticks(counts)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, -1), min(top, 101))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}%"))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(groups) > 6:
        legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9, frameon=False)
    else:
        legend = axes.legend(loc="best", fontsize=9, framealpha=0.9, edgecolor="0.85")
    for text in legend.get_texts():
        text.set_parse_math(False)


def _title(heading: str, groups: Sequence[Group]) -> str:
    """What all groups have in common: data set, algorithm, budget."""
    shown = {"dataset": "{}", "dataset.name": "{}", "algorithm": "{}", "active.budget": "{} labels a round"}
    parts = []
    for key, form in shown.items():
        values = {_text(group.settings, key) for group in groups}
        if len(values) == 1 and not values & {"none", "0"}:
            parts.append(form.format(*values))
    return heading + (f": {', '.join(parts)}" if parts else "")


# Gallery ---------------------------------------------------------------------------------------------


def gallery(run: RunDir, dataset: Dataset, cycle: int, out: Path) -> Path:
    """Draw the first 50 picks of a cycle, best first, with their labels, as `out`/gallery_cycle_NNN.png.

    Raises:
        UsageError: the cycle has no query, or the dataset has lost a sample that was picked.
    """
    from matplotlib.figure import Figure

    query = run.query(cycle)
    if query is None:
        raise UsageError(f"{run.path}: cycle {cycle} has no query")
    keys = query.keys[:GALLERY_SIZE]
    positions = _positions(dataset, keys)
    captions = _captions(run, query.idx[: len(keys)])
    height = max(1, math.ceil(len(keys) / GALLERY_COLUMNS))
    figure = Figure(figsize=(GALLERY_COLUMNS * 1.1, height * 1.35 + 0.5), dpi=120, layout="constrained")
    shown = f", the first {len(keys)}" if len(keys) < len(query.keys) else ""
    title = f"Cycle {cycle}, {query.acquisition}: {len(query.keys)} picked{shown}"
    figure.suptitle(title, fontsize=11, parse_math=False)
    grid = figure.subplots(height, GALLERY_COLUMNS, squeeze=False)
    for place, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if place < len(keys):
            _draw_sample(axes, dataset.load(positions[keys[place]]), captions[place])
    path = out / f"gallery_cycle_{cycle:03d}.png"
    atomic_write(path, partial(figure.savefig, format="png"))
    return path


def _positions(dataset: Dataset, keys: Sequence[str]) -> dict[str, int]:
    """Where the dataset, which may have grown or lost samples since, holds these keys."""
    wanted = set(keys)
    positions = {key: i for i, key in enumerate(dataset.keys) if key in wanted}
    missing = [key for key in keys if key not in positions]
    if missing:
        raise UsageError(f"dataset '{dataset.name}' no longer has the samples {name_some(missing)}")
    return positions


def _captions(run: RunDir, idx: Iterable[int]) -> list[str]:
    # The last row of an index counts: a later row is a correction.
    answers = {row.index: row.label if row.status == "labeled" else f"({row.status})" for row in run.rows()}
    texts = [answers.get(int(i), "(no answer yet)") for i in idx]
    return [text if len(text) <= 15 else f"{text[:14]}…" for text in texts]


def _draw_sample(axes: Any, sample: Any, caption: str) -> None:
    if hasattr(sample, "convert"):
        sample = sample.convert("L" if sample.mode in ("1", "L") else "RGB")
    pixels = np.asarray(sample)
    colors = {"cmap": "gray", "vmin": 0, "vmax": 255} if pixels.ndim == 2 else {}
    axes.imshow(pixels, interpolation="nearest" if max(pixels.shape[:2]) < 100 else "antialiased", **colors)
    axes.text(
        0.5, -0.05, caption, transform=axes.transAxes, ha="center", va="top", fontsize=8, parse_math=False
    )


def load_dataset(run: RunDir) -> Dataset:
    """The dataset of a run, from its own configuration."""
    from usb_active.config import load_config

    config = load_config(run.path / "config.yaml", [])
    # After the configuration has been checked: this brings torch.
    from usb_active.runner import build_dataset

    return build_dataset(config)


# Report ----------------------------------------------------------------------------------------------


def write_report(
    runs: Sequence[Path], out: Path | None = None, *, dataset_of: Callable[[RunDir], Dataset] = load_dataset
) -> list[Path]:
    """Write learning_curve.png, report.md and, for a single run, gallery_cycle_NNN.png; return their paths.

    Args:
        runs: run directories; those equal apart from their seed are averaged.
        out: where to; by default RUN/report for one run, ./report for several.
        dataset_of: makes the dataset for the gallery.

    Raises:
        UsageError: no run given, no training has finished in any, or `out` cannot be written.
    """
    loaded, notes = _load(runs)
    out = out or (loaded[0].path / "report" if len(loaded) == 1 and not notes else Path("report"))
    make_folder(out)
    groups = group_runs(loaded)
    notes += _caveats(groups)
    files = []
    if any(group.values("accuracy") for group in groups):
        files.append(learning_curve(groups, out / "learning_curve.png"))
    galleries: list[Path] = []
    if len(loaded) == 1:
        galleries, reasons = _galleries(loaded[0], dataset_of, out)
        notes += reasons
    text = _markdown(groups, notes, [*files, *galleries])
    atomic_write(out / "report.md", lambda stream: stream.write(text.encode()))
    return [*files, out / "report.md", *galleries]


def _load(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs with metrics, each directory once, and a line for every one without."""
    unique = {Path(path).resolve(): Path(path) for path in paths}
    directories = {path: RunDir.read(path) for path in unique.values()}
    runs = [Run(path, found, found.config, found.metrics()) for path, found in directories.items()]
    empty = [run.path for run in runs if not run.metrics]
    if len(empty) == len(runs):
        where = name_some(empty) if empty else "no run given"
        raise UsageError(f"nothing to report: {where}{': no training has finished yet' if empty else ''}")
    notes = [f"{path}: no training has finished yet; left out." for path in empty]
    return [run for run in runs if run.metrics], notes


def _caveats(groups: Sequence[Group]) -> list[str]:
    """What a reader must know before believing the tables."""
    lines = []
    for group in groups:
        seeds = Counter(str(run.config.get("seed")) for run in group.runs)
        twice = [seed for seed, count in seeds.items() if count > 1]
        if twice:
            lines.append(
                f"{group.label}: several runs with seed {name_some(twice)}: not a spread over seeds."
            )
        last = sorted({run.metrics[-1]["num_labels"] for run in group.runs})
        if len(last) > 1:
            lines.append(f"{group.label}: the runs stop at different numbers of labels ({name_some(last)}).")
        if group.evaluated_on == "none":
            lines.append(
                f"{group.label}: not evaluated: no test samples, and `validation` holds out no labels."
            )
    if len({group.evaluated_on for group in groups} - {"none"}) > 1:
        lines.append("Accuracies on test and on held-out labels are not comparable; here are both.")
    return lines


def _galleries(run: Run, dataset_of: Callable[[RunDir], Dataset], out: Path) -> tuple[list[Path], list[str]]:
    """The galleries that could be drawn, and a line with the reason for those that could not."""
    try:
        dataset = dataset_of(run.directory)
    except Exception as error:  # a dataset may be anyone's code; the report says why its pictures are missing
        return [], [f"The gallery is left out: the dataset is not available: {_reason(error)}"]
    drawn, lines = [], []
    # The query after the last training may be waiting for its answers.
    for cycle in range(run.metrics[-1]["cycle"] + 2):
        if run.directory.query(cycle) is None:
            continue
        try:
            drawn.append(gallery(run.directory, dataset, cycle, out))
        except Exception as error:  # as above
            lines.append(f"The gallery of cycle {cycle} is left out: {_reason(error)}")
    return drawn, lines


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UsageError) else f"{type(error).__name__}: {text}"


def _markdown(groups: Sequence[Group], notes: Sequence[str], pictures: Sequence[Path]) -> str:
    parts = [f"# {_escape(_title('Report', groups))}"]
    curves = [path for path in pictures if path.name.startswith("learning")]
    parts += [f"![Learning curves]({path.name})" for path in curves]
    parts += ["\n".join(f"- {_escape(note)}" for note in notes)] if notes else []
    parts += ["## Accuracy (%) by number of labels", _accuracy_table(groups)]
    parts += ["Last EMA model; mean ± sample standard deviation (n runs)."]
    parts += ["## At the end", _final_table(groups), _FINAL_NOTE]
    if len(groups) > 1:
        parts += ["## Settings that differ", _settings_table(groups)]
    parts += ["## Runs", _runs_table(groups)]
    runs = [run for group in groups for run in group.runs]
    if len(runs) == 1:
        parts += ["## Cycles", _cycle_table(runs[0]), *_logged(runs[0])]
    shown = [path for path in pictures if path not in curves]
    parts += ["## What was picked"] if shown else []
    parts += [f"![{path.stem.replace('_', ' ')}]({path.name})" for path in shown]
    return "\n\n".join(parts) + "\n"


_FINAL_NOTE = (
    "At the largest number of labels that the most runs of a method reached; seconds are summed up to there. "
    "The best over all evaluations was chosen on the samples it is measured on: it is optimistic."
)


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; the first column is text, the others are aligned right."""
    ruler = [":---"] + ["---:"] * (len(header) - 1)
    lines = [" | ".join(_escape(cell) for cell in row) for row in (header, ruler, *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _escape(cell: Any) -> str:
    return " ".join(str(cell).split()).replace("|", r"\|").replace("<", "&lt;")


def _spread(values: Sequence[float], scale: float = 100, digits: int = 2) -> str:
    """`81.25 ± 0.50 (3)`; `–` without values."""
    if not values:
        return "–"
    around = f" ± {scale * stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * mean(values):.{digits}f}{around} ({len(values)})"


def _number(value: float | None, scale: float = 100, digits: int = 2) -> str:
    return "–" if value is None else f"{scale * value:.{digits}f}"


def _accuracy_table(groups: Sequence[Group]) -> str:
    counts = sorted({count for group in groups for run in group.runs for count in run.label_counts})
    rows = []
    for group in groups:
        values = group.values("accuracy")
        rows.append([group.label, *(_spread(values.get(count, ())) for count in counts)])
    return table(["method", *counts], rows)


def _final_table(groups: Sequence[Group]) -> str:
    names = _accuracies(groups)
    if any(group.values("selected_accuracy") for group in groups):
        names["selected_accuracy"] = "on test, checkpoint chosen on held-out labels"
    rows = [
        [
            group.label,
            group.final,
            *(_spread(group.values(name).get(group.final, ())) for name in names),
            *(_spread(group.totals(name), 1, 1) for name in SECONDS),
        ]
        for group in groups
    ]
    return table(["method", "labels", *names.values(), *SECONDS.values()], rows)


def _measured(groups: Sequence[Group]) -> str:
    kinds = {group.evaluated_on for group in groups} - {"none"}
    return MEASURED[kinds.pop()] if len(kinds) == 1 else "accuracy"


def _accuracies(groups: Sequence[Group]) -> dict[str, str]:
    """Metrics that are accuracies, and how a table calls them: never the best without saying what it is."""
    measured = _measured(groups)
    best = "best on test" if measured == MEASURED["test"] else "best over evaluations"
    return {
        "accuracy": measured,
        "best_accuracy": f"{best} (optimistic)",
        "balanced_accuracy": "balanced accuracy",
    }


def _settings_table(groups: Sequence[Group]) -> str:
    settings = [group.settings for group in groups]
    keys = differing_keys(settings)
    rows = [[f"`{key}`", *(_text(of_group, key) for of_group in settings)] for key in keys]
    return table(["setting", *(group.label for group in groups)], rows)


def _runs_table(groups: Sequence[Group]) -> str:
    rows = [
        [run.path, group.label, run.config.get("seed", "–"), len(run.metrics), run.metrics[-1]["num_labels"]]
        for group in groups
        for run in group.runs
    ]
    return table(["run", "method", "seed", "trainings", "labels"], rows)


def _cycle_table(run: Run) -> str:
    """What happened in each cycle of one run."""
    names = _accuracies(group_runs([run]))
    rows = [
        [
            line["cycle"],
            line["num_labels"],
            line.get("acquisition") or "–",
            _class_counts(run, line),
            *(_number(metric(line, name)) for name in names),
            *(_number(line.get(name), 1, 1) for name in SECONDS),
        ]
        for line in run.metrics
    ]
    header = ["cycle", "labels", "acquisition", "selected, by class", *names.values(), *SECONDS.values()]
    return table(header, rows)


def _class_counts(run: Run, line: dict) -> str:
    """`cat 3, dog 5`; with many classes the most frequent ones, and how many got none."""
    counts = line.get("selected_class_counts") or []
    query = run.directory.query(line["cycle"])
    names = query.class_names if query and len(query.class_names) == len(counts) else range(len(counts))
    pairs = list(zip(names, counts, strict=True))
    if len(pairs) > 10:
        pairs = sorted(pairs, key=lambda pair: -pair[1])
        chosen = [f"{name} {count}" for name, count in pairs if count]
        return f"{name_some(chosen)}; {len(pairs) - len(chosen)} of {len(pairs)} classes none"
    return ", ".join(f"{name} {count}" for name, count in pairs) or "–"


def _logged(run: Run) -> list[str]:
    """A table of what plugins logged, if they did."""
    names = list(dict.fromkeys(name for line in run.metrics for name in line.get("log") or {}))
    if not names:
        return []
    rows = []
    for line in run.metrics:
        log = line.get("log") or {}
        rows.append([line["cycle"], *(log.get(name, "–") for name in names)])
    return ["## Logged by the methods", table(["cycle", *names], rows)]


def summary_table(metrics: list[dict]) -> str:
    """A plain-text table of a run's cycles, for the terminal. Accuracies in percent."""
    kinds = {line["evaluated_on"] for line in metrics} - {"none"}
    suffix = " (held-out labels)" if kinds == {"validation"} else ""
    header = ["cycle", "labels", f"last %{suffix}", "best % (optimistic)", "balanced %", *SECONDS.values()]
    rows = [
        [
            str(line["cycle"]),
            str(line["num_labels"]),
            *(_number(metric(line, name)) for name in ("accuracy", "best_accuracy", "balanced_accuracy")),
            *(_number(line.get(name), 1, 1) for name in SECONDS),
        ]
        for line in metrics
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [map(str.rjust, row, widths) for row in (header, *rows)]
    return "\n".join("  ".join(line) for line in lines)
