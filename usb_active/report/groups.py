"""Runs that differ in nothing that matters, as one method over its seeds."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from usb_active.contracts.task import Classification
from usb_active.records import Metric
from usb_active.report.method_names import method_names, method_settings, setting_text
from usb_active.report.runs import PLACES, RunRecord
from usb_active.storage.study_list import varied_keys


@dataclass(frozen=True)
class Group:
    """The runs of one method, over seeds. `settings`: its configuration, flat, without seed and free keys that no study varies."""

    label: str
    runs: tuple[RunRecord, ...]
    settings: dict[str, Any]

    @property
    def evaluated_on(self) -> str:
        return self.runs[0].evaluated_on

    @property
    def measures(self) -> tuple[Metric, ...]:
        """The metrics of the runs' task, the headline first."""
        return self.runs[0].measures

    @property
    def measure(self) -> Metric:
        """The headline."""
        return self.measures[0]

    @property
    def curve(self) -> dict[int, list[float]]:
        """`values` of the headline."""
        return self.values(self.measure.key)

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


def group_runs(runs: Sequence[RunRecord]) -> list[Group]:
    """Runs that differ in nothing that matters, together, labelled by what tells the groups apart.

    What a study varies matters, even a key that changes no results of itself, as the place of the data.

    Raises:
        UsageError: the list of a study's cells is damaged.
    """
    gathered: dict[str, tuple[dict, list[RunRecord]]] = {}
    varied = varied_keys(run.path for run in runs) if len(runs) > 1 else ()
    for run in runs:
        settings = method_settings(run.config, varied)
        key = key_text([settings, run.evaluated_on])
        gathered.setdefault(key, (settings, []))[1].append(run)
    members = list(gathered.values())
    kinds = [of_group[0].evaluated_on for _, of_group in members]
    labels = method_names([settings for settings, _ in members])
    if len(set(kinds)) > 1:
        places = [PLACES[kind] for kind in kinds]
        labels = [f"{label} · {place}" for label, place in zip(labels, places, strict=True)]
    groups = [Group(label, tuple(of), settings) for label, (settings, of) in zip(labels, members, strict=True)]
    return sorted(groups, key=lambda group: _natural(group.label))


def merged(groups: Sequence[Group], split: Callable[[Group], tuple[Any, Any]]) -> list[Group]:
    """Groups that differ in neither method nor setting, as one; `split` gives both of a group."""
    found: dict[str, Group] = {}
    for group in groups:
        key = key_text([*split(group), group.evaluated_on])
        found[key] = replace(found[key], runs=found[key].runs + group.runs) if key in found else group
    return list(found.values())


def key_text(value: Any) -> str:
    """A text that is the same for the same configuration, whatever the order of its keys."""
    return json.dumps(value, sort_keys=True, default=str)


def _natural(label: str) -> list:
    """A key that sorts `budget 5` before `budget 10`: text and numbers in turn."""
    parts = re.split(r"(\d+(?:\.\d+)?)", label)
    return [float(part) if place % 2 else part for place, part in enumerate(parts)]


def measured(groups: Sequence[Group]) -> str:
    """The headline metric and what it is measured on ("accuracy on test"); just its name where that differs."""
    kinds = {group.evaluated_on for group in groups} - {"none"}
    name = groups[0].measure.name if groups else Classification.metrics[0].name
    return f"{name} {PLACES[kinds.pop()]}" if len(kinds) == 1 else name


def common_title(heading: str, groups: Sequence[Group]) -> str:
    """A heading with what all groups have in common: data set, algorithm, budget."""
    shown = {"dataset": "{}", "dataset.name": "{}", "algorithm": "{}", "active.budget": "{} labels per round"}
    parts = []
    for key, form in shown.items():
        values = {setting_text(group.settings, key) for group in groups}
        if len(values) == 1 and not values & {"none", "0"}:
            parts.append(form.format(*values))
    return heading + (f": {', '.join(parts)}" if parts else "")
