"""Runs of a study are told apart by what it varies, even where a run may be resumed with another value of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from study_runs import groups_of, study_run

from usb_active import cli
from usb_active.errors import UsageError
from usb_active.report.compared import find_compared
from usb_active.storage.study_list import STUDY_FILE, read_study_list, study_list, varied_keys


def make_study(folder: Path, varied: list[str], runs: list[Path]) -> None:
    cells = {run.name: {"seed": 0, "overrides": [], "base": "/base.yaml", "varied": varied} for run in runs}
    (folder / STUDY_FILE).write_bytes(study_list("study.yaml", cells))


def runs_on(folder: Path, place: str, seeds: tuple[int, ...] = (0, 1), **keys) -> list[Path]:
    return [study_run(folder / f"data_dir={place},seed={seed}", [0.5, 0.6], seed=seed, data_dir=f"/{place}", **keys) for seed in seeds]


def test_a_free_key_in_the_matrix_tells_groups_apart(tmp_path):
    runs = [*runs_on(tmp_path, "a"), *runs_on(tmp_path, "b")]
    # By hand it is one data set that has been moved.
    assert [len(group.runs) for group in groups_of(*runs)] == [4]
    make_study(tmp_path, ["data_dir"], runs)
    groups = groups_of(*runs)
    assert [(group.label, len(group.runs)) for group in groups] == [("data_dir=/a", 2), ("data_dir=/b", 2)]
    # Other data are another setting, and the method the same.
    found = find_compared(groups)
    assert found.methods == ("random",) and [setting.label for setting in found.found] == ["data_dir /a", "data_dir /b"]


@pytest.mark.parametrize("key", ["active.cycles", "num_workers", "img_size"])
def test_so_does_any_other(tmp_path, key):
    name = key.rpartition(".")[2]
    keys = [{"active": {"cycles": value}} if key.startswith("active.") else {key: value} for value in (1, 2)]
    runs = [study_run(tmp_path / f"{name}={number},seed=0", [0.5], **of) for number, of in enumerate(keys)]
    assert len(groups_of(*runs)) == 1
    make_study(tmp_path, [key], runs)
    assert [group.label for group in groups_of(*runs)] == [f"{name}=1", f"{name}=2"]


def test_what_is_not_in_the_matrix_does_not(tmp_path):
    runs = [*runs_on(tmp_path, "a"), *runs_on(tmp_path, "b")]
    make_study(tmp_path, ["active.acquisition"], runs)
    assert [len(group.runs) for group in groups_of(*runs)] == [4]
    # Nor what the matrix of other runs in the folder has: a run that is no cell is told by what cells are told by.
    make_study(tmp_path, ["data_dir"], runs[:2])
    assert [(group.label, len(group.runs)) for group in groups_of(*runs)] == [("data_dir=/a", 2), ("data_dir=/b", 2)]
    assert [len(group.runs) for group in groups_of(*runs[2:])] == [2]


def test_a_list_of_an_earlier_version_and_a_file_of_something_else_say_nothing(tmp_path):
    runs = [*runs_on(tmp_path, "a"), *runs_on(tmp_path, "b")]
    cells = {run.name: {"seed": 0, "overrides": [], "base": "/base.yaml"} for run in runs}
    (tmp_path / STUDY_FILE).write_bytes(study_list("study.yaml", cells))
    assert varied_keys(runs) == ()
    assert read_study_list(tmp_path) == cells and read_study_list(tmp_path / "nowhere") == {}


DAMAGED = ("{", "[1]", '{"cells": 3}', '{"cells": {"data_dir=a,seed=0": 1}}', '{"cells": {"data_dir=a,seed=0": {"varied": 1}}}')


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_list_is_one_line(tmp_path, capsys, text):
    runs_on(tmp_path, "a")
    (tmp_path / STUDY_FILE).write_text(text)
    assert cli.main(["report", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / STUDY_FILE} is damaged" in line and line.endswith("delete it: the runs are not touched")
    with pytest.raises(UsageError, match="is damaged"):
        varied_keys([tmp_path / "data_dir=a,seed=0"])


def test_a_run_is_a_cell_wherever_it_is_named_from(tmp_path, monkeypatch):
    runs = runs_on(tmp_path, "a")
    make_study(tmp_path, ["data_dir"], runs)
    monkeypatch.chdir(tmp_path)
    assert varied_keys([Path(runs[0].name)]) == ("data_dir",)
    assert json.loads((tmp_path / STUDY_FILE).read_text())["format"] == 1
