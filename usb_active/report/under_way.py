"""Runs that are still under way: they are compared with none, so that they shorten the range of no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from usb_active.errors import name_some
from usb_active.report.groups import Group
from usb_active.report.runs import RunRecord
from usb_active.storage.run_dir import RunDir


def trainings_of(config: Mapping[str, Any]) -> int | None:
    """How many trainings a run's configuration asks for; None where it does not say."""
    active = config.get("active")
    cycles = active.get("cycles") if isinstance(active, dict) else None
    return cycles + 1 if isinstance(cycles, int) and not isinstance(cycles, bool) else None


def is_under_way(run: RunRecord) -> bool:
    """Whether trainings are left that the run's configuration asks for, and no stop rule has ended the run before them."""
    return trainings_of(run.config) is not None and not is_over(run.directory, run.config, len(run.metrics))


def is_over(directory: RunDir, config: Mapping[str, Any], finished: int) -> bool:
    """Whether a run has all the trainings that a configuration asks for, or was ended before them by a stop rule as it is there.

    Args:
        directory: of the run.
        config: as a run's config.yaml has it; another one than its own where the base of a study has changed since.
        finished: how many trainings are over.
    """
    trainings = trainings_of(config)
    return trainings is not None and (finished >= trainings or _was_ended(directory, config))


def _was_ended(directory: RunDir, config: Mapping[str, Any]) -> bool:
    """What ended a run under other rules says nothing: under these it may go on."""
    rules, before = ((found.get("active") or {}).get("stop") for found in (config, directory.config))
    return bool(rules) and rules == before and (directory.state() or {}).get("stage") == "stopped"


def finished_runs(groups: Sequence[Group]) -> tuple[list[Group], list[str]]:
    """The groups without what is under way, those without any other run left out; and a line for each that lacks some."""
    found, notes = [], []
    for group in groups:
        finished = tuple(run for run in group.runs if not is_under_way(run))
        left_out = [run for run in group.runs if is_under_way(run)]
        if left_out:
            shown = name_some([run.path for run in left_out])
            counts = "; ".join(sorted({f"{len(run.metrics)} of {trainings_of(run.config)} trainings" for run in left_out}))
            where = "compared with no other" if finished else "the method is compared with no other"
            notes.append(f"{group.label}: under way ({counts}): {shown}; {where}.")
        if finished:
            found.append(replace(group, runs=finished))
    return found, notes
