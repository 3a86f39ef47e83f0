"""A run's baselines: cheap classifiers on the labels of each cycle, computed once, kept with the run, and shown beside its model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.errors import UsageError, name_some, reason_of
from usb_active.numerics.baselines import TITLES, Baselines, majority_accuracy, noise
from usb_active.report.baseline_data import Labelling, evaluation, features_in_use, labellings, pool_rows
from usb_active.report.groups import Group
from usb_active.report.runs import PLACES, RunRecord, metric
from usb_active.report.tables import escape, number, spread, table
from usb_active.storage.durable import atomic_write, dump_json, make_folder
from usb_active.storage.journal_checks import Journal
from usb_active.storage.run_dir import RunDir
from usb_active.storage.schemas import BASELINES_FILE, read_baselines, read_start

if TYPE_CHECKING:
    from usb_active.contracts.dataset import Dataset

logger = logging.getLogger("usb_active")

# What an entry was computed by, beside the libraries: to be raised when the numbers change.
_METHOD = "1"
# Beyond so many seconds, it is said what took them.
_LONG = 10
# Of several runs, these are drawn and listed.
BETTER = ("logistic", "spreading")

# Cycle → an entry of artifacts/baselines.json.
Entries = dict[int, dict[str, Any]]
# A group's label → baseline → number of labels → its accuracy in every run that has it.
GroupBaselines = dict[str, dict[str, dict[int, list[float]]]]


def run_baselines(run: RunRecord, dataset_of: Callable[[RunDir], Dataset] | None = None) -> tuple[Entries, list[str]]:
    """Those of each training that was evaluated, as far as there are any, and a line for what is missing or damaged.

    Args:
        dataset_of: makes the data set, where those that are not on disk (or of other versions) are to be computed, and then kept in the
            run's artifacts/baselines.json; None: only what is on disk.
    """
    try:
        wanted, notes = _wanted(run)
    except UsageError as error:  # what says which features a run used does not fit this version
        return {}, [f"The baselines are left out: {error}"]
    if not wanted:
        return {}, notes
    try:
        kept = {entry["cycle"]: entry for entry in read_baselines(run.directory)}
    except UsageError as error:
        logger.warning("%s", error)
        kept, notes = {}, [str(error)]
    same = ("labels", "evaluated_on")
    found = {cycle: kept[cycle] for cycle, keys in wanted.items() if cycle in kept and _holds(kept[cycle], keys, same)}
    missing = {cycle: keys for cycle, keys in wanted.items() if cycle not in found or not _holds(found[cycle], keys, keys)}
    if missing and dataset_of is not None:
        try:
            found |= _compute(run, dataset_of(run.directory), missing)
        except Exception as error:  # a dataset may be anyone's code; the report says why its baselines are missing
            cycles = sorted(missing.keys() - found.keys())
            of_cycles = f" of cycle{'s' * (len(cycles) > 1)} {name_some(cycles)}" if found else ""
            what = f"The baselines{of_cycles} are left out"
            return dict(sorted(found.items())), notes + ([f"{what}: {reason_of(error)}"] if cycles else [])
        notes += _keep(run, {**kept, **found})
    return dict(sorted(found.items())), notes


def _wanted(run: RunRecord) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """Cycle → what an entry must say to be that of this training; and why there are none."""
    if not run.has_classes or (run.config.get("active") or {}).get("baselines") is False:
        return {}, []
    lines = [line for line in run.metrics if line["evaluated_on"] != "none"]
    if not lines or not (run.path / "labels.csv").is_file():
        # Of a run that was copied for its curve alone, the labels are not known.
        return {}, []
    rows = {}
    for line in lines:
        start = read_start(run.directory, line["cycle"])
        if start is None:
            return {}, [f"The baselines are left out: {run.path} has no cycle_{line['cycle']:03d}/start.json"]
        rows[line["cycle"]] = start["journal_rows"]
    counts = sorted(set(rows.values()))
    sums = dict(zip(counts, Journal(run.path / "labels.csv").sha256(counts), strict=True))
    features = {place: features_in_use(run, place).title for place in {line["evaluated_on"] for line in lines}}
    versions = {"baselines": _METHOD, **{name: version(name) for name in ("numpy", "scikit-learn")}}
    wanted = {
        line["cycle"]: {
            "labels": sums[rows[line["cycle"]]],
            "evaluated_on": line["evaluated_on"],
            "features": features[line["evaluated_on"]],
            "versions": versions,
        }
        for line in lines
    }
    return wanted, []


def _holds(entry: Mapping[str, Any], keys: Mapping[str, Any], names: Sequence[str] | Mapping[str, Any]) -> bool:
    return all(entry[name] == keys[name] for name in names)


def _compute(run: RunRecord, dataset: Dataset, wanted: Mapping[int, Mapping[str, Any]]) -> Entries:
    began = time.monotonic()
    made = labellings(run, dataset, list(wanted))
    entries: Entries = {}
    for place in sorted({keys["evaluated_on"] for keys in wanted.values()}):
        cycles = {cycle: made[cycle] for cycle, keys in wanted.items() if keys["evaluated_on"] == place}
        entries |= {cycle: {"cycle": cycle, **wanted[cycle], **entry} for cycle, entry in _at(run, dataset, place, cycles).items()}
    seconds = time.monotonic() - began
    if seconds > _LONG:
        logger.info("baselines of %d trainings: %.0f s (`active.baselines: off` leaves them out)", len(entries), seconds)
    return entries


def _at(run: RunRecord, dataset: Dataset, place: str, cycles: Mapping[int, Labelling]) -> Entries:
    """Accuracies of the cycles that were evaluated on one place: the features are read once."""
    in_use = features_in_use(run, place)
    idx, pool = pool_rows(dataset, in_use, cycles.values())
    tried = evaluation(dataset, place, in_use, cycles.values())
    classifiers = Baselines(pool, tried.features)
    entries = {}
    for cycle, labelling in cycles.items():
        chosen = np.isin(labelling.labeled, idx)
        labeled, labels = np.searchsorted(idx, labelling.labeled[chosen]), labelling.labels[chosen]
        rows, targets = tried.of(labelling)
        if not len(targets):
            continue
        predicted = classifiers.predict(labeled, labels, dataset.num_classes)
        accuracies = {name: float((values[rows] == targets).mean()) for name, values in predicted.items()}
        accuracies = {"majority": majority_accuracy(labelling.labels, targets), **accuracies}
        available = tried.available if place == "test" else len(targets)
        entries[cycle] = {"evaluated": len(targets), "available": available, "accuracies": accuracies}
    return entries


def _keep(run: RunRecord, entries: Entries) -> list[str]:
    """Write them; a line where that cannot be."""
    path = run.path / BASELINES_FILE
    data = dump_json({"cycles": [entries[cycle] for cycle in sorted(entries)]})
    try:
        make_folder(path.parent)
        atomic_write(path, lambda file: file.write(data))
    except UsageError as error:
        return [f"The baselines are not kept: {error}"]
    return []


# ---------------------------------------------------------------------------------------------- what is shown
def by_labels(run: RunRecord, entries: Entries, name: str) -> dict[int, float]:
    """Number of labels → accuracy of a baseline, as `RunRecord.by_labels` has the model's."""
    lines = [line for line in run.metrics if line["evaluated_on"] == run.evaluated_on and line["cycle"] in entries]
    values = {line["num_labels"]: entries[line["cycle"]]["accuracies"].get(name) for line in lines}
    return {count: value for count, value in values.items() if value is not None}


def baseline_section(run: RunRecord, entries: Entries) -> str:
    """One run's table, and what its columns are; "" without any."""
    if not entries:
        return ""
    lines = [line for line in run.metrics if line["cycle"] in entries]
    rows = [
        [
            line["cycle"],
            line["num_labels"],
            number(metric(line, run.measure.key, run.measure.key)),
            *(number(entries[line["cycle"]]["accuracies"].get(name)) for name in TITLES),
        ]
        for line in lines
    ]
    head = ["cycle", "labels", "trained model", *TITLES.values()]
    return f"## Baselines\n\n{table(head, rows)}\n\n{_caption(list(entries.values()))}"


def _caption(entries: Sequence[Mapping[str, Any]]) -> str:
    last = entries[-1]
    places = name_some(dict.fromkeys(PLACES[entry["evaluated_on"]] for entry in entries))
    subset = f", {last['evaluated']:,} of {last['available']:,} samples drawn at random" if last["evaluated"] < last["available"] else ""
    features = escape(name_some(dict.fromkeys(entry["features"] for entry in entries)))
    return (
        f"Accuracy in %, {places}{subset}: classifiers that are fitted in seconds to the labels that the training of the cycle had, "
        f"on {features}. Label spreading sees the unlabelled samples of the pool too."
    )


def group_baselines(groups: Sequence[Group], of_runs: Mapping[Any, Entries]) -> GroupBaselines:
    """Those of the runs of each group: all of them for one run alone, the better ones for several. `of_runs`: by the run's path."""
    found: GroupBaselines = {}
    for group in groups:
        for name in TITLES if len(of_runs) == 1 else BETTER:
            values: dict[int, list[float]] = {}
            for run in group.runs:
                for count, value in by_labels(run, of_runs.get(run.path, {}), name).items():
                    values.setdefault(count, []).append(value)
            if values:
                found.setdefault(group.label, {})[name] = dict(sorted(values.items()))
    return found


def groups_section(found: GroupBaselines) -> str:
    """The table for several runs; "" without any."""
    counts = sorted({count for of_group in found.values() for values in of_group.values() for count in values})
    rows = [
        [label, TITLES[name], *(spread(values.get(count, ())) for count in counts)]
        for label, of_group in found.items()
        for name, values in of_group.items()
    ]
    return f"## Baselines on the same labels\n\n{table(['labels chosen by', 'baseline', *counts], rows)}" if rows else ""


def baseline_warning(run: RunRecord, entries: Entries) -> str | None:
    """A line where the best baseline of the last training is above the model, or within noise of it; else None."""
    line = run.metrics[-1]
    model, entry = metric(line, run.measure.key, run.measure.key), entries.get(line["cycle"])
    if model is None or entry is None or not entry["accuracies"]:
        return None
    name, best = max(entry["accuracies"].items(), key=lambda item: item[1])
    margin = noise(model, best, entry["evaluated"])
    if best <= model - margin and best < model:
        return None
    gap = "above" if best > model + margin else f"within noise (± {100 * margin:.1f}) of"
    where = f"{PLACES[entry['evaluated_on']]}, {entry['evaluated']:,} samples"
    ema = "a shorter EMA (a smaller ema_m), " if run.config.get("ema_m") else ""
    return (
        f"{TITLES[name]} on the same labels has {100 * best:.1f} %, {gap} the trained model's {100 * model:.1f} % ({where}); ways out: "
        f"a longer training (num_train_iter), {ema}or another net"
    )
