"""Which cells of a study the report of its folder does without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from usb_active.errors import name_some
from usb_active.report.runs import RunRecord
from usb_active.report.under_way import is_under_way
from usb_active.storage.study_list import read_study_list


def study_notes(paths: Sequence[Path], runs: Sequence[RunRecord]) -> list[str]:
    """A line for each folder of a study whose cells are not all finished, from what the sweep knows of them.

    Args:
        paths: what the report was asked of; run directories among them are no studies.
        runs: those that were read.

    Raises:
        UsageError: the list of a study's cells is damaged.
    """
    known = {Path(run.path).resolve(): run for run in runs}
    notes = []
    for path in {Path(path).resolve(): Path(path) for path in paths}.values():
        if path.is_dir() and not (path / "config.yaml").is_file():
            notes += _note(path, known)
    return notes


def _note(folder: Path, known: dict[Path, RunRecord]) -> list[str]:
    listed = read_study_list(folder)
    here = {name for name in listed if (folder / name / "config.yaml").is_file()}
    # What the study has no more, and someone has moved away, nobody waits for.
    cells = [name for name, cell in listed.items() if name in here or not cell.get("dropped")]
    missing = [name for name in cells if name not in here]
    begun = {name: known.get((folder / name).resolve()) for name in cells if name not in missing}
    unfinished = [name for name, run in begun.items() if run is None or is_under_way(run)]
    done = len(cells) - len(missing) - len(unfinished)
    if done == len(cells):
        return []
    parts = [f"{what}: {name_some(of)}" for what, of in (("missing", missing), ("not finished", unfinished)) if of]
    return [f"{folder}: {done} of the study's {len(cells)} cells are finished; {'; '.join(parts)}."]
