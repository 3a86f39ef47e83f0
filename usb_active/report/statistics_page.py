"""The section "Statistics" of the report of several runs: intervals, areas, labels needed, differences, ranks, seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from usb_active.errors import UsageError, name_some
from usb_active.numerics.statistics import SAME, Bounds, label_efficiency, labels_to_reach, mean_curve, mean_interval, paired_differences
from usb_active.records import Metric
from usb_active.report.compared import Compared, ComparedSetting, find_compared, learning_points
from usb_active.report.critical_difference import find_ranking, ranking_section
from usb_active.report.differences import LEAST_COMMON, differences_section, find_differences, signed
from usb_active.report.groups import Group
from usb_active.report.runs import RunRecord, repeated_seeds
from usb_active.report.tables import escape, table

# So many accuracies are looked up where none are asked for.
_ROUND_TARGETS = 4
_TRAINING, _ACQUISITION = ("train_seconds",), ("acquisition_seconds",)

# (L,) numbers of labels, (L,) scores.
Curve = tuple[np.ndarray, np.ndarray]


def statistics_section(
    groups: Sequence[Group], out: Path, targets: Sequence[float] = (), reference: str | None = None
) -> tuple[str, list[Path]]:
    """The Markdown section, and the pictures that it shows, written into `out`; "" where nothing was evaluated.

    Args:
        groups: of several runs.
        out: the folder of the report.
        targets: values of the headline metric, as it is shown (in percent), whose labels are looked up; by default round ones.
        reference: see `find_compared`.

    Raises:
        UsageError: no method is the reference that was asked for.
    """
    evaluated = [group for group in groups if group.curve]
    if not evaluated:
        if reference is not None or targets:
            raise UsageError("--reference and --target compare what runs measured: none of these was evaluated")
        return "", []
    measure = evaluated[0].measure
    compared = find_compared(evaluated, reference)
    pages, drawn = _interval_part(evaluated, measure), []
    if compared.found:
        pages += [*_area_part(compared, measure), *_labels_part(compared, measure, targets)]
        pages += differences_section(compared, find_differences(compared), measure) or _no_differences(compared)
        ranks, drawn = ranking_section(find_ranking(compared, measure.higher_is_better), out)
        pages += [*ranks, *_cost_part(compared)]
    else:
        pages.append("Nothing is compared yet: all runs are still under way.")
    if compared.notes:
        pages.append("\n".join(f"- {escape(note)}" for note in compared.notes))
    pages.append("Every run at every number of labels: [cells.csv](cells.csv).")
    return "\n\n".join(["## Statistics", *pages]), drawn


def mean_text(values: Sequence[float], factor: float, digits: int, runs: Sequence[RunRecord] = ()) -> str:
    """`81.25 ± 0.50 (5)`: the mean with its 95 % interval and how many values.

    Without an interval for fewer than three, and where several of the `runs` behind them have one seed: they are no sample of seeds.
    """
    if not values:
        return "–"
    found = mean_interval(values)
    around = f" ± {factor * found.half:.{digits}f}" if found.count >= LEAST_COMMON and not repeated_seeds(runs) else ""
    return f"{factor * found.mean:.{digits}f}{around} ({found.count})"


def _no_differences(compared: Compared) -> list[str]:
    if len(compared.methods) < 2:
        return []
    return ["### Differences between methods", "No two methods have a seed in common in any setting: nothing is paired."]


def _interval_part(groups: Sequence[Group], measure: Metric) -> list[str]:
    counts = sorted({count for group in groups for count in group.curve})
    scale = measure.factor, measure.digits
    rows = [[group.label, *(mean_text(group.curve.get(count, ()), *scale, group.runs) for count in counts)] for group in groups]
    twice = [group.label for group in groups if repeated_seeds(group.runs)]
    none = f" No interval of {name_some(twice)}: several runs have one seed." if twice else ""
    unit = f" ({measure.unit})" if measure.unit else ""
    caption = (
        f"Mean ± half the 95 % confidence interval by Student's t (n runs), here and below; none for fewer than {LEAST_COMMON} runs. "
        f"It is the interval of the mean over seeds; the table above has the spread of the runs.{none}{_direction(measure)}"
    )
    return [f"### {measure.name[:1].upper()}{measure.name[1:]}{unit}, mean and interval", table(["method", *counts], rows), escape(caption)]


def _direction(measure: Metric) -> str:
    return "" if measure.higher_is_better else " Lower is better."


# ------------------------------------------------------------------------------------------ areas
def _area_part(compared: Compared, measure: Metric) -> list[str]:
    rows = []
    for setting, place in _members(compared):
        areas = [setting.area(run) for run in setting.runs[place]]
        against = setting.references.get(place, place)
        gaps = [] if against == place else _gaps(setting, place, against)
        gain = f"{signed(float(np.mean(gaps)), measure)}{_around(gaps, measure)} ({len(gaps)})" if gaps else "–"
        area = mean_text(areas, measure.factor, measure.digits, setting.runs[place])
        rows.append([*_who(compared, setting, place), _range_text(setting), area, gain])
    references = _reference_names(compared)
    caption = (
        "Mean height of each run's learning curve over the numbers of labels that all methods of a setting have in common: the area by the "
        "trapezoid rule, divided by the range. On unequal grids a curve is a straight line between its points. "
        f"Difference: from {references}, pairwise over the seeds in common (n pairs)."
        if references
        else "Mean height of each run's learning curve (trapezoid rule, divided by the range) over the numbers of labels in common."
    )
    header = [*_who_header(compared), "labels", "area", f"difference from {references}" if references else "difference"]
    return ["### Area under the learning curve", table(header, rows), escape(caption) + _direction(measure), *_without_reference(compared)]


def _without_reference(compared: Compared) -> list[str]:
    """A line on the methods that are measured against none because several would do, and what chooses one."""
    names = {compared.methods[place]: None for setting, place in _members(compared) if place in setting.undecided}
    fitting = {compared.methods[place]: None for setting in compared.found for of in setting.undecided.values() for place in of}
    if not names:
        return []
    text = f"No reference of {name_some(names)}: each of {name_some(fitting)} fits; --reference NAME takes one."
    return [escape(text)]


def _range_text(setting: ComparedSetting) -> str:
    if setting.start < setting.stop:
        return f"{setting.start}–{setting.stop}"
    return str(setting.start) if setting.start == setting.stop else "–"


def _gaps(setting: ComparedSetting, one: int, other: int) -> list[float]:
    pairs = setting.in_common(one, other)
    return paired_differences([setting.area(mine) for mine, _ in pairs], [setting.area(theirs) for _, theirs in pairs]).tolist()


def _around(gaps: Sequence[float], measure: Metric) -> str:
    return f" ± {measure.factor * mean_interval(gaps).half:.{measure.digits}f}" if len(gaps) >= LEAST_COMMON else ""


# ------------------------------------------------------------------------------------------ labels needed
def _labels_part(compared: Compared, measure: Metric, targets: Sequence[float]) -> list[str]:
    # Of a single number of labels there is nothing to look up.
    keys = [(number, place) for number, place in _keys(compared) if compared.found[number].start < compared.found[number].stop]
    curves = {(number, place): _mean_curve(compared.found[number].runs[place]) for number, place in keys}
    heading, missing = "### Labels needed", _single_numbers(compared)
    if not any(curves.values()):
        return [heading, *missing] if missing else []
    asked = list(targets) or round_targets(filter(None, curves.values()), measure)
    has_reference = any(compared.found[number].references for number, _ in keys)
    if not asked and not has_reference:
        return [heading, "No mean curve gets better: --target VALUE looks up a value.", *missing]
    rows = []
    for number, place in keys:
        setting = compared.found[number]
        ratios = _paired_curves(setting, place)
        cells = [_needed(curves[number, place], ratios, target / measure.factor, measure) for target in asked]
        if has_reference:
            cells.append(_needed_for_the_end(curves[number, place], ratios, setting.references.get(place) == place, measure))
        rows.append([*_who(compared, setting, place), len(setting.runs[place]), *cells])
    names = _reference_names(compared)
    columns = [f"{target:g}{measure.unit and f' {measure.unit}'}" for target in asked]
    header = [*_who_header(compared), "runs", *columns, *([f"what {names} ends with"] if has_reference else [])]
    caption = _labels_caption(names if has_reference else "") + _direction(measure)
    return [heading, table(header, rows), caption, *missing]


def _single_numbers(compared: Compared) -> list[str]:
    """A line on the settings whose methods have one number of labels in common."""
    alone = [setting for setting in compared.found if setting.start == setting.stop]
    if not alone:
        return []
    where = f" in {name_some([setting.label for setting in alone])}" if len(compared.found) > 1 else ""
    counts = name_some(sorted({setting.start for setting in alone}))
    return [escape(f"Not looked up{where}: the methods have a single number of labels in common ({counts}).")]


def _labels_caption(reference: str) -> str:
    caption = (
        "Labels at which the mean learning curve of a method's runs is first so good, by straight lines between its points. "
        "`>`: not so good with the labels that there are; `≤`: at the first number of labels already."
    )
    if not reference:
        return caption
    return (
        f"{caption} In brackets the label efficiency: how many times as many labels {escape(reference)} needs (above 1: more than the "
        "method), by the mean curves of the seeds that both have; the last column is of these seeds altogether. "
        f"It has no interval, and of fewer than {LEAST_COMMON} runs it claims nothing."
    )


def _mean_curve(runs: Sequence[RunRecord]) -> Curve | None:
    return mean_curve([learning_points(run) for run in runs]) if runs else None


def _paired_curves(setting: ComparedSetting, place: int) -> tuple[Curve, Curve] | None:
    """The mean curves of a method and its reference, of the seeds that both have; None without any, and for the reference itself."""
    against = setting.references.get(place, place)
    pairs = [] if against == place else setting.in_common(place, against)
    mine, theirs = _mean_curve([one for one, _ in pairs]), _mean_curve([other for _, other in pairs])
    return None if mine is None or theirs is None else (mine, theirs)


def _needed(curve: Curve | None, pair: tuple[Curve, Curve] | None, target: float, measure: Metric) -> str:
    """`153 (1.31×)`: by a method's curve; in brackets how many times as many its reference needs, by the curves of the pair."""
    if curve is None:
        return "–"
    shown = _bounds_text(labels_to_reach(*curve, target, measure.higher_is_better), ">", 0)
    if pair is None:
        return shown
    mine, theirs = (labels_to_reach(*of, target, measure.higher_is_better) for of in pair)
    ratio = label_efficiency(theirs, mine)
    return shown if ratio is None else f"{shown} ({_bounds_text(ratio, '≥', 2).replace(' ', '')}×)"


def _needed_for_the_end(curve: Curve | None, pair: tuple[Curve, Curve] | None, is_reference: bool, measure: Metric) -> str:
    """What the reference ends with, for the method's runs of the seeds that both have."""
    if is_reference and curve is not None:
        return _needed(curve, None, float(curve[1][-1]), measure)
    return "–" if pair is None else _needed(pair[0], pair, float(pair[1][1][-1]), measure)


def _bounds_text(bounds: Bounds, beyond: str, digits: int) -> str:
    if bounds.high == math.inf:
        return f"{beyond} {bounds.low:.{digits}f}"
    return f"{bounds.high:.{digits}f}" if bounds.low == bounds.high else f"≤ {bounds.high:.{digits}f}"


def round_targets(curves: Iterable[Curve], measure: Metric) -> list[float]:
    """A few round values, as they are shown, that some mean curve begins without and some reaches."""
    scores = [measure.factor * np.asarray(curve[1]) for curve in curves]
    sign = 1 if measure.higher_is_better else -1
    low, high = min(sign * of[0] for of in scores), max((sign * of).max() for of in scores)
    # Means are rounded: one of 70 may be a little less.
    if high - low <= SAME * max(abs(low), abs(high)):
        return []
    rough = (high - low) / _ROUND_TARGETS * (1 - SAME)
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = (math.floor(end / step + SAME * max(1, abs(end / step))) for end in (low, high))
    found = [number * step for number in range(first + 1, last + 1)]
    return [float(f"{sign * value:.6g}") for value in found]


# ------------------------------------------------------------------------------------------ seconds
def _cost_part(compared: Compared) -> list[str]:
    rows = []
    for setting, place in _members(compared):
        seconds = [_seconds(setting, setting.runs[place], names) for names in (_TRAINING, _ACQUISITION, _TRAINING + _ACQUISITION)]
        if any(seconds):
            runs = setting.runs[place]
            row = [*_who(compared, setting, place), setting.stop, *(mean_text(of, 1, 1, runs) for of in seconds), _times(setting, place)]
            rows.append([*row, mean_text(_cpu_seconds(setting, place), 1, 1, runs)])
    if not rows:
        return []
    header = [*_who_header(compared), "labels", "training s", "acquisition s", "both s", "× reference", "CPU s"]
    caption = (
        "Wall seconds of a run's trainings and acquisitions up to so many labels, the largest number that all methods of the setting have; "
        "pretraining and waiting for labels are not in them. × reference: of the seeds that both have. Comparable only between runs on "
        "machines that are alike and equally busy."
    )
    if all(row[-1] == "–" for row in rows):
        # Runs from before have none.
        return ["### Cost", table(header[:-1], [row[:-1] for row in rows]), caption]
    return ["### Cost", table(header, rows), f"{caption} CPU seconds are of both, and of all threads."]


def _seconds(setting: ComparedSetting, runs: Sequence[RunRecord], names: Sequence[str]) -> list[float]:
    """The sum of these metrics up to the end of the range, of each run that has any of them."""
    parts = [[run.total(name, setting.stop) for name in names] for run in runs]
    return [sum(value for value in of if value is not None) for of in parts if any(value is not None for value in of)]


def _cpu_seconds(setting: ComparedSetting, place: int) -> list[float]:
    """The sum of CPU seconds up to the end of the range, of each run that has them of every training."""
    lines = [[line for line in run.metrics if line["num_labels"] <= setting.stop] for run in setting.runs[place]]
    parts = [[line.get("cpu_seconds") for line in of] for of in lines]
    return [sum(of) for of in parts if None not in of]


def _times(setting: ComparedSetting, place: int) -> str:
    """How many times the seconds of the reference, over the seeds that both have."""
    against = setting.references.get(place)
    pairs = [] if against is None else setting.in_common(place, against)
    seconds = [[_seconds(setting, [run], _TRAINING + _ACQUISITION) for run in pair] for pair in pairs]
    mine, theirs = (sum(of[number][0] for of in seconds if all(of)) for number in (0, 1))
    return f"{mine / theirs:.2f}" if theirs else "–"


# ------------------------------------------------------------------------------------------ rows
def _keys(compared: Compared) -> Iterator[tuple[int, int]]:
    """(number of the setting, place of the method), setting by setting."""
    return ((number, place) for number, setting in enumerate(compared.found) for place in setting.groups)


def _members(compared: Compared) -> Iterator[tuple[ComparedSetting, int]]:
    return ((compared.found[number], place) for number, place in _keys(compared))


def _who_header(compared: Compared) -> list[str]:
    return ["method", "setting"] if len(compared.found) > 1 else ["method"]


def _who(compared: Compared, setting: ComparedSetting, place: int) -> list[str]:
    return [compared.methods[place], setting.label][: len(_who_header(compared))]


def _reference_names(compared: Compared) -> str:
    """The reference's label, or how several are called together; "" without any."""
    places = {place for setting in compared.found for place in setting.references.values()}
    return compared.methods[places.pop()] if len(places) == 1 else "the reference" if places else ""
