"""The report of a study's folder names the cells that it does without."""

from __future__ import annotations

import pytest
from study_runs import study_run

from usb_active import cli
from usb_active.report.tables import escape
from usb_active.storage.study_list import STUDY_FILE, study_list

CELLS = [f"acquisition={rule},seed={seed}" for rule in ("margin", "random") for seed in range(3)]
ASKED = {"active": {"cycles": 2}}


def make_study(folder, cells=CELLS, lengths=(), dropped=()):
    """Of each cell a run with so many trainings; None for none at all."""
    for place, name in enumerate(cells):
        length = lengths[place] if place < len(lengths) else 3
        if length is not None:
            rule, seed = (part.partition("=")[2] for part in name.split(","))
            study_run(folder / name, [0.5, 0.6, 0.7][:length], seed=int(seed), acquisition=rule, **ASKED)
    of_each = {name: {"seed": 0, "overrides": [], "base": "/base.yaml", "varied": ["active.acquisition"]} for name in cells}
    for name in dropped:
        of_each[name]["dropped"] = True
    folder.mkdir(exist_ok=True)
    (folder / STUDY_FILE).write_bytes(study_list("study.yaml", of_each))


def notes_of(folder, *more) -> list[str]:
    out = folder.parent / "out"
    assert cli.main(["report", str(folder), *map(str, more), "--out", str(out)]) == 0
    return [line for line in (out / "report.md").read_text(encoding="utf-8").splitlines() if line.startswith("- ")]


def test_cells_that_are_missing_or_under_way_are_named(tmp_path):
    # Never began; has begun, without a training yet; is under way; its folder was made and it failed.
    make_study(tmp_path / "study", lengths=[3, 0, 2, 3, None, None])
    (tmp_path / "study" / CELLS[5]).mkdir()
    (tmp_path / "study" / CELLS[5] / "lock").touch()
    missing, unfinished = f"missing: {CELLS[4]}, {CELLS[5]}", f"not finished: {CELLS[1]}, {CELLS[2]}"
    line = f"{tmp_path / 'study'}: 2 of the study's 6 cells are finished; {missing}; {unfinished}."
    assert f"- {escape(line)}" in notes_of(tmp_path / "study")


@pytest.mark.parametrize("lengths", [(3, None, None, None, None, None), (2, None, None, None, None, None)])
def test_so_they_are_in_the_report_of_a_single_run(tmp_path, lengths):
    make_study(tmp_path / "study", lengths=lengths)
    assert any(f"{int(lengths[0] == 3)} of the study's 6 cells are finished; missing: " in note for note in notes_of(tmp_path / "study"))


def test_of_a_study_that_is_finished_and_of_no_study_nothing_is_said(tmp_path):
    make_study(tmp_path / "study")
    assert not any("cells are finished" in note for note in notes_of(tmp_path / "study"))
    (tmp_path / "study" / STUDY_FILE).unlink()
    (tmp_path / "study" / CELLS[0] / "metrics.jsonl").write_text("")
    assert not any("cells are finished" in note for note in notes_of(tmp_path / "study"))


def test_what_a_study_has_no_more_counts_while_it_is_there(tmp_path):
    make_study(tmp_path / "study", lengths=[3, 3, 3, 2, 3, None], dropped=[CELLS[3], CELLS[5]])
    line = f"{tmp_path / 'study'}: 4 of the study's 5 cells are finished; not finished: {CELLS[3]}."
    assert f"- {escape(line)}" in notes_of(tmp_path / "study")


def test_each_study_is_named_once(tmp_path):
    for name in ("one", "two"):
        make_study(tmp_path / name, lengths=[3, 3, 3, 3, 3, None])
    found = notes_of(tmp_path / "one", tmp_path / "two", tmp_path / "one" / ".." / "one", tmp_path / "one" / CELLS[0])
    assert [note.count("5 of the study's 6 cells") for note in found if "cells are finished" in note] == [1, 1]
