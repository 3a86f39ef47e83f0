"""Runs that are still under way: they are compared with none, so that they shorten the range of no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from usb_active.errors import name_some
from usb_active.report.groups import Group
from usb_active.report.runs import RunRecord


def trainings_of(config: dict) -> int | None:
    """How many trainings a run's configuration asks for; None where it does not say."""
    active = config.get("active")
    cycles = active.get("cycles") if isinstance(active, dict) else None
    return cycles + 1 if isinstance(cycles, int) and not isinstance(cycles, bool) else None


def is_under_way(run: RunRecord) -> bool:
    """Whether trainings are left that the run's configuration asks for, and no stop rule has ended the run before them."""
    trainings = trainings_of(run.config)
    return trainings is not None and len(run.metrics) < trainings and not _was_ended(run)


def _was_ended(run: RunRecord) -> bool:
    return bool((run.config.get("active") or {}).get("stop")) and (run.directory.state() or {}).get("stage") == "stopped"


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
