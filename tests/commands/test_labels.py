"""`usb-active labels`: what is labelled, skipped and pending, and corrections."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from usb_active import cli
from usb_active.records import LABELED, SKIPPED, LabelRow, Query
from usb_active.storage.run_dir import RunDir

NAMES = ("cat", "dog", "a=b")


@pytest.fixture
def run_path(tmp_path):
    """Query 0: three labels and a refusal. Query 1: one label, two pending."""
    path = tmp_path / "run"
    with RunDir.open(path, {"seed": 1}) as run:
        run.write_keys([f"train/{i}" for i in range(7)] + ["x=y"])
        for cycle, method, idx in ((0, "random", [0, 1, 2, 3]), (1, "margin", [5, 4, 7])):
            keys = tuple(run.keys()[i] for i in idx)
            run.save_query(Query(cycle, np.array(idx), keys, method, NAMES))
        for index, label in ((0, "cat"), (1, "cat"), (2, "dog"), (3, "")):
            run.append_rows([row(0, index, f"train/{index}", label, "random")])
        run.append_rows([row(1, 5, "train/5", "dog", "margin")])
    return path


def row(cycle, index, key, label, method) -> LabelRow:
    return LabelRow(cycle, index, key, label, LABELED if label else SKIPPED, method, "2024-05-01T12:00:00+00:00")


def lines(capsys) -> list[list[str]]:
    return [line.split() for line in capsys.readouterr().out.splitlines() if line]


def test_counts_a_cycle_and_a_class(run_path, capsys):
    assert cli.main(["labels", str(run_path)]) == 0
    assert lines(capsys) == [
        ["cycle", "acquisition", "asked", "labeled", "skipped", "pending"],
        ["0", "random", "4", "3", "1", "0"],
        ["1", "margin", "3", "1", "0", "2"],
        ["total", "7", "4", "1", "2"],
        ["class", "labeled"],
        ["cat", "2"],
        ["dog", "2"],
        ["a=b", "0"],
    ]


def test_a_correction_is_a_new_row_and_the_last_one_counts(run_path, capsys):
    assert cli.main(["labels", str(run_path), "--set", "train/0=dog", "--skip", "train/4", "--set", "x=y=a=b"]) == 0
    assert capsys.readouterr().out == "train/0: cat -> dog\nx=y: pending -> a=b\ntrain/4: pending -> skipped\n"
    rows = RunDir.read(run_path).rows()
    assert [(item.cycle, item.index, item.label) for item in rows if item.index == 0] == [(0, 0, "cat"), (0, 0, "dog")]
    new = [(1, "x=y", "a=b", LABELED), (1, "train/4", "", SKIPPED)]
    assert [(item.cycle, item.key, item.label, item.status) for item in rows[-2:]] == new
    cli.main(["labels", str(run_path)])
    shown = lines(capsys)
    assert ["1", "margin", "3", "2", "1", "0"] in shown and ["cat", "1"] in shown and ["dog", "3"] in shown
    # Only train/0 had an answer before; the other two were pending.
    assert shown[-1] == ["1", "corrected"]


def test_what_stands_already_is_not_written_again(run_path, capsys):
    before = RunDir.read(run_path).rows()
    assert cli.main(["labels", str(run_path), "--set", "train/1=cat", "--skip", "train/3"]) == 0
    assert capsys.readouterr().out.splitlines() == ["train/1: cat, unchanged", "train/3: skipped, unchanged"]
    assert RunDir.read(run_path).rows() == before


def test_csv_has_every_sample_as_it_stands(run_path, capsys):
    cli.main(["labels", str(run_path), "--set", "train/0=dog"])
    capsys.readouterr()
    assert cli.main(["labels", str(run_path), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {item["key"]: (item["label"], item["status"]) for item in rows} == {
        "train/0": ("dog", "labeled"),
        "train/1": ("cat", "labeled"),
        "train/2": ("dog", "labeled"),
        "train/3": ("", "skipped"),
        "train/5": ("dog", "labeled"),
        "train/4": ("", "pending"),
        "x=y": ("", "pending"),
    }


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--set", "train/0", "--set train/0: must be KEY=LABEL"),
        ("--set", "train/0=cats", "--set train/0=cats: unknown class 'cats'; did you mean 'cat'?"),
        ("--set", "train/66=cat", "'train/66' is no sample of the pool; did you mean 'train/6'?"),
        ("--skip", "trian/6", "'trian/6' is no sample of the pool; did you mean 'train/6'?"),
        ("--retract", "train/1", "'train/1' is given twice: dog, retracted; one for each sample"),
        ("--retract", "x=z", "'x=z' is no sample of the pool; did you mean 'x=y'?"),
    ],
)
def test_wrong_corrections_write_nothing(run_path, capsys, option, text, message):
    before = (run_path / "labels.csv").read_bytes()
    assert cli.main(["labels", str(run_path), "--set", "train/1=dog", option, text]) == 2
    assert capsys.readouterr().err.startswith(f"usb-active: error: {message}")
    assert (run_path / "labels.csv").read_bytes() == before


def test_a_run_without_questions(tmp_path, capsys):
    RunDir.open(tmp_path / "run", {}).close()
    assert cli.main(["labels", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run'}: nothing has been asked yet\n"
