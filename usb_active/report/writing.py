"""Writes a report: reads the runs, groups them, draws, and puts down the text."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from usb_active.config.trust import FLAG, foreign_plugins
from usb_active.errors import UsageError, name_some
from usb_active.report.analyses import check_anything_to_analyse, write_analyses
from usb_active.report.audit import audit_section, audits_section
from usb_active.report.baselines import Entries, baseline_section, group_baselines, groups_section, run_baselines
from usb_active.report.cells import write_cells
from usb_active.report.curves import learning_curve
from usb_active.report.embedding import draw_embedding
from usb_active.report.galleries import draw_galleries, load_dataset
from usb_active.report.glyphs import missing_glyphs_logged
from usb_active.report.groups import group_runs
from usb_active.report.page import caveats, markdown
from usb_active.report.priors import prior_section
from usb_active.report.runs import RunRecord, default_folder, read_runs, run_paths
from usb_active.report.statistics_page import statistics_section
from usb_active.report.study_cells import study_notes
from usb_active.storage.durable import atomic_write, make_folder
from usb_active.storage.run_dir import RunDir

if TYPE_CHECKING:
    from usb_active.contracts.dataset import Dataset

logger = logging.getLogger("usb_active")


def write_report(
    runs: Sequence[Path],
    out: Path | None = None,
    *,
    analysis: bool = False,
    embed: bool = False,
    trusted: bool = False,
    targets: Sequence[float] = (),
    reference: str | None = None,
    dataset_of: Callable[[RunDir], Dataset] | None = None,
) -> list[Path]:
    """Write learning_curve.png, report.md and, for a single run, gallery_cycle_NNN.png, audit.png and prior.png; return their paths.

    Of several runs, cells.csv, and critical_difference.png where there are methods and seeds enough.

    Args:
        runs: run directories, and folders that hold some; those equal apart from their seed are averaged.
        out: where to; by default RUN/report for one run, FOLDER/report for a folder of runs alone, ./report for several.
        analysis: write analysis.md and its figures as well.
        embed: draw embed.png as well, a map of one run's features with its picks.
        trusted: import the runs' plugins even where they are not installed (see `usb_active.config.trust`); without, what needs them is
            left out, and the report says so.
        targets: of several runs, values of the headline metric, as it is shown (in percent), for which the labels needed are looked up.
        reference: of several runs, the acquisition (or a method's label in the report) that others are measured against; by default
            `random`.
        dataset_of: makes the dataset for the gallery and the map; by default from the run's configuration.

    Raises:
        UsageError: no run given, no training has finished in any, or `out` cannot be written; nothing is there for `analysis`;
            `embed` for several runs, or where neither features nor the dataset are there; `targets` or `reference` for one run, or no
            method that is the reference.
    """
    loaded, notes = read_runs(run_paths(runs))
    notes = study_notes(runs, loaded) + notes
    # Made once for all that needs it; a failure is told wherever it matters.
    dataset_of = lru_cache(maxsize=1)(dataset_of or partial(load_dataset, trusted=trusted))
    foreign = [] if trusted else [str(run.path) for run in loaded if foreign_plugins(run.config.get("plugins") or [], run.path)]
    if foreign:
        logger.warning("%s: plugins that are not installed are not imported; what needs them is left out (%s)", name_some(foreign), FLAG)
    groups = group_runs(loaded)
    if analysis:
        check_anything_to_analyse(groups)
    if embed and len(loaded) > 1:
        raise UsageError(f"--embed draws the picks of one run: {len(loaded)} were given")
    if (targets or reference is not None) and len(loaded) == 1:
        raise UsageError("--target and --reference are for several runs: one was given")
    out = out or default_folder(runs)
    make_folder(out)
    notes += caveats(groups)
    baselines, reasons = _baselines(loaded, dataset_of)
    notes += reasons
    of_groups = group_baselines(groups, baselines)
    curves: list[Path] = []
    galleries: list[Path] = []
    analyses: list[Path] = []
    sections: list[str] = []
    drawn: list[Path] = []
    cells: list[Path] = []
    with missing_glyphs_logged():
        if any(group.curve for group in groups):
            curves.append(learning_curve(groups, out / "learning_curve.png", of_groups))
        if len(loaded) == 1:
            sections, drawn = _single_run(loaded[0], out, embed, dataset_of)
            sections.insert(0, baseline_section(loaded[0], baselines.get(loaded[0].path, {})))
            galleries, reasons = draw_galleries(loaded[0], dataset_of, out)
            notes += reasons
        else:
            text, drawn = statistics_section(groups, out, targets, reference)
            cells.append(write_cells(groups, out / "cells.csv"))
            sections = [text, groups_section(of_groups), audits_section(loaded)]
        if analysis:
            analyses = write_analyses(groups, out, trusted)
    text = markdown(groups, notes, curves, list(filter(None, sections)), galleries)
    atomic_write(out / "report.md", lambda stream: stream.write(text.encode()))
    return [*curves, out / "report.md", *cells, *drawn, *galleries, *analyses]


def _baselines(runs: Sequence[RunRecord], dataset_of: Callable[[RunDir], Dataset]) -> tuple[dict[Path, Entries], list[str]]:
    """The baselines of each run, computed where there is but one; those of several are what their own reports have left."""
    if len(runs) == 1:
        entries, notes = run_baselines(runs[0], dataset_of)
        return {runs[0].path: entries}, notes
    found = {run.path: run_baselines(run) for run in runs}
    notes = [note for _, of_run in found.values() for note in of_run]
    without = [path for path, (entries, _) in found.items() if not entries]
    if 0 < len(without) < len(runs):
        notes.append(f"No baselines of {name_some(without)}: a report of a run alone computes them.")
    return {path: entries for path, (entries, _) in found.items()}, notes


def _single_run(run: RunRecord, out: Path, embed: bool, dataset_of: Callable[[RunDir], Dataset]) -> tuple[list[str], list[Path]]:
    """Sections of the page on one run's audit, its prior and its map, and their pictures."""
    made = [audit_section(run, out), prior_section(run, out)]
    sections, drawn = [text for text, _ in made if text], [path for _, paths in made for path in paths]
    if embed:
        path, caption = draw_embedding(run, dataset_of, out / "embed.png")
        sections.append(f"## Map of the pool\n\n![Map of the pool]({path.name})\n\n{caption}")
        drawn.append(path)
    return sections, drawn
