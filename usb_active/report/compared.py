"""What is compared with what: methods, and the settings in which they met.

A *setting* is the data, and how many labels are asked for at a time; the *method* is all else that differs between runs. (The matrix of
analysis.md divides them as Ash et al. do: there only the acquisition is the method.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from usb_active.contracts.registry import REGISTRY
from usb_active.errors import UsageError, name_some, nearest, printable
from usb_active.numerics.statistics import area_under_curve
from usb_active.report.groups import Group, key_text, merged
from usb_active.report.method_names import differing_keys, method_names, setting_text
from usb_active.report.runs import PLACES, RunRecord

# The data, and how many labels are asked for at a time.
_SETTING_KEYS = ("dataset", "data_dir", "num_labels", "active.initial.size", "active.budget", "active.validation")
# Where a plugin is imported from is neither method nor setting.
_NEITHER = ("plugins",)
_ACQUISITION = "active.acquisition.name"


@dataclass(frozen=True)
class ComparedSetting:
    """The groups of runs that met in one setting.

    Attributes:
        label: what tells it from other settings; "" where it is the only one.
        groups: by place of the method.
        references: place of a method → that of the one it is measured against, where there is one.
        start: the first number of labels of the range on which all are compared.
        stop: the last one; before `start` where there is no such range.
        runs: by place of the method, those that have all of the range.
    """

    label: str
    groups: dict[int, Group]
    references: dict[int, int]
    start: int
    stop: int
    runs: dict[int, tuple[RunRecord, ...]]

    def areas(self, method: int) -> dict[Any, float]:
        """Seed → the mean height of the learning curve over the range; of a seed with several runs, none."""
        runs = self.runs[method]
        seeds = Counter(run.config.get("seed") for run in runs)
        return {run.config.get("seed"): self.area(run) for run in runs if seeds[run.config.get("seed")] == 1}

    def area(self, run: RunRecord) -> float:
        """The mean height of a run's learning curve over the range."""
        return area_under_curve(*learning_points(run), self.start, self.stop)


@dataclass(frozen=True)
class Compared:
    """All settings of a report.

    Attributes:
        methods: (K,) their labels.
        found: the settings, each with some of the methods.
        notes: what was left out, and why.
    """

    methods: tuple[str, ...]
    found: tuple[ComparedSetting, ...]
    notes: tuple[str, ...] = ()


def learning_points(run: RunRecord) -> tuple[list[int], list[float]]:
    """Numbers of labels, increasing, and the headline metric there."""
    points = sorted(run.by_labels(run.measure.key).items())
    return [count for count, _ in points], [value for _, value in points]


def find_compared(groups: Sequence[Group], reference: str | None = None) -> Compared:
    """The settings of some groups of runs, and the methods that met there.

    Args:
        groups: of runs; those that were not evaluated are left out.
        reference: an acquisition or a method's label that others are measured against; by default the one that picks by chance.

    Raises:
        UsageError: no method is the reference that was asked for.
    """
    groups = merged([group for group in groups if group.curve], _split)
    parts = [_split(group) for group in groups]
    methods = list({key_text(method): method for method, _ in parts}.values())
    labels = method_names(methods)
    order = sorted(range(len(methods)), key=lambda place: (labels[place], place))
    methods, labels = [methods[place] for place in order], [labels[place] for place in order]
    if reference is not None:
        _check_reference(reference, methods, labels)
    members = _by_setting(groups, methods)
    notes: list[str] = []
    found = []
    for name, (_, there) in zip(_setting_labels(members), members, strict=True):
        start, stop = _common_range(there)
        runs = _complete_runs(there, start, stop)
        _note_left_out(f"{name}: " if name else "", there, runs, (start, stop), labels, notes)
        found.append(ComparedSetting(name, there, _references(list(there), methods, labels, reference), start, stop, runs))
    return Compared(tuple(labels), tuple(found), tuple(notes))


def _check_reference(reference: str, methods: Sequence[dict], labels: Sequence[str]) -> None:
    known = {name for method, label in zip(methods, labels, strict=True) for name in (method.get(_ACQUISITION), label) if name}
    if reference not in known:
        raise UsageError(f"--reference: no method '{printable(reference)}' among the runs{nearest(reference, known)}")


def _by_setting(groups: Sequence[Group], methods: Sequence[dict]) -> list[tuple[dict, dict[int, Group]]]:
    """For each setting its keys, and its groups by place of the method, in order."""
    places = {key_text(method): place for place, method in enumerate(methods)}
    gathered: dict[str, tuple[dict, dict[int, Group]]] = {}
    for group in groups:
        method, setting = _split(group)
        # Values on test and on held-out labels are never compared.
        entry = gathered.setdefault(key_text([setting, group.evaluated_on]), (setting, {}))
        entry[1][places[key_text(method)]] = group
    return [(setting, dict(sorted(of.items()))) for setting, of in gathered.values()]


def _setting_labels(members: Sequence[tuple[dict, dict[int, Group]]]) -> list[str]:
    keys = _telling_keys([setting for setting, _ in members])
    places = [PLACES[next(iter(of.values())).evaluated_on] for _, of in members]
    parts = [[f"{key.removeprefix('active.')} {setting_text(setting, key)}" for key in keys] for setting, _ in members]
    if len(set(places)) > 1:
        parts = [[*part, place] for part, place in zip(parts, places, strict=True)]
    return [", ".join(part) for part in parts]


def _telling_keys(settings: Sequence[dict]) -> list[str]:
    """Of the keys that differ, those that tell settings apart which the others before them do not."""
    kept: list[str] = []
    known = 1
    for key in differing_keys(settings):
        apart = len({tuple(setting_text(of, name) for name in [*kept, key]) for of in settings})
        if apart > known:
            kept, known = [*kept, key], apart
    return kept


def _common_range(groups: dict[int, Group]) -> tuple[int, int]:
    """From where all groups have begun to where the first of them ends; none if the end is before that.

    A group begins and ends where the most of its runs do: one that is still under way shortens the range of no other.
    """
    firsts = [Counter(min(run.label_counts) for run in group.runs) for group in groups.values()]
    lasts = [Counter(max(run.label_counts) for run in group.runs) for group in groups.values()]
    start = max(max(counts, key=lambda count: (counts[count], -count)) for counts in firsts)
    return start, min(max(counts, key=lambda count: (counts[count], count)) for counts in lasts)


def _complete_runs(groups: dict[int, Group], start: int, stop: int) -> dict[int, tuple[RunRecord, ...]]:
    return {place: tuple(run for run in group.runs if start <= stop and _covers(run, start, stop)) for place, group in groups.items()}


def _note_left_out(
    where: str,
    groups: dict[int, Group],
    runs: dict[int, tuple[RunRecord, ...]],
    within: tuple[int, int],
    labels: Sequence[str],
    notes: list[str],
) -> None:
    start, stop = within
    if start > stop:
        notes.append(f"{where}no range of labels that {', '.join(labels[place] for place in groups)} have in common; no areas.")
        return
    for place, group in groups.items():
        kept = {run.path for run in runs[place]}
        short = [run.path for run in group.runs if run.path not in kept]
        if short:
            what = f"{name_some(short)} without all of {start} to {stop} labels"
            notes.append(f"{where}{labels[place]}: {what}; not in areas and differences.")
        seeds = Counter(run.config.get("seed") for run in runs[place])
        twice = [seed for seed, count in seeds.items() if count > 1]
        if twice:
            which = f"several runs with seed {name_some(twice)}: which one to pair is open"
            notes.append(f"{where}{labels[place]}: {which}; not in differences and ranks.")


def _covers(run: RunRecord, start: int, stop: int) -> bool:
    counts, _ = learning_points(run)
    return bool(counts) and counts[0] <= start and stop <= counts[-1]


def _references(places: Sequence[int], methods: Sequence[dict], labels: Sequence[str], asked: str | None) -> dict[int, int]:
    """What each method is measured against: the reference that differs in its acquisition alone, or the only one there is."""
    exact = [place for place in places if labels[place] == asked]
    candidates = exact or [place for place in places if _is_reference(methods[place].get(_ACQUISITION), asked)]
    found = {}
    for place in places:
        alike = [other for other in candidates if _without_acquisition(methods[other]) == _without_acquisition(methods[place])]
        chosen = [place] if place in candidates else candidates if len(candidates) == 1 else alike
        if len(chosen) == 1:
            found[place] = chosen[0]
    return found


def _is_reference(acquisition: str | None, asked: str | None) -> bool:
    if asked is not None or acquisition not in REGISTRY.names("acquisition"):
        return asked is not None and acquisition == asked
    try:
        return REGISTRY.get("acquisition", acquisition).by_chance
    except UsageError:  # it does not import: nothing is known of it
        return False


def _without_acquisition(method: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in method.items() if not key.startswith("active.acquisition.")}


def _split(group: Group) -> tuple[dict[str, Any], dict[str, Any]]:
    """A group's configuration, flat: what is the method, and what is the setting."""
    setting = {key: value for key, value in group.settings.items() if any(f"{key}.".startswith(f"{own}.") for own in _SETTING_KEYS)}
    method = {key: value for key, value in group.settings.items() if key not in setting and key not in _NEITHER}
    return method, setting
