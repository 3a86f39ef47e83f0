"""`usb-active labels --history`: every row of a sample, and the trainings that began with it."""

from __future__ import annotations

import numpy as np
import pytest

from usb_active import cli
from usb_active.records import AUDIT, CORRECTION, VOLUNTEERED, LabelRow, Query, status_of
from usb_active.storage.audit_file import write_audit
from usb_active.storage.journal_checks import journal_sums
from usb_active.storage.run_dir import RunDir

NAMES = ("cat", "dog")


def row(cycle, index, label, method, minute):
    return LabelRow(cycle, index, f"k{index}", label or "", status_of(label), method, f"2024-05-01T12:{minute:02d}:00+00:00")


def begin(run, cycle):
    rows = len(run.rows())
    run.write_json(f"cycle_{cycle:03d}/start.json", {"cycle": cycle, "journal_rows": rows, **journal_sums(run.path / "labels.csv", rows)})


@pytest.fixture
def run_path(tmp_path):
    """Sample 1: asked for twice, corrected and taken back in between; sample 2: given unasked; sample 3: nothing."""
    with RunDir.open(tmp_path / "run", {}) as run:
        run.write_keys([f"k{i}" for i in range(4)])
        run.save_query(Query(0, np.array([0, 1]), ("k0", "k1"), "random", NAMES))
        run.append_rows([row(0, 1, "cat", "random", 0), row(0, 0, "cat", "random", 1)])
        begin(run, 0)
        run.append_rows([row(0, 1, "dog", CORRECTION, 2), row(0, 1, None, CORRECTION, 3)])
        run.save_query(Query(1, np.array([], dtype=int), (), "margin", NAMES))
        begin(run, 1)
        run.append_rows([row(1, 2, "dog", VOLUNTEERED, 4)])
        run.save_query(Query(2, np.array([1]), ("k1",), "margin", NAMES))
        run.append_rows([row(2, 1, "cat", "margin", 5)])
        begin(run, 2)
        run.save_query(Query(3, np.array([], dtype=int), (), "margin", NAMES))
        begin(run, 3)
    return tmp_path / "run"


def test_all_rows_and_the_trainings_that_began_with_each(run_path, capsys):
    assert cli.main(["labels", str(run_path), "--history", "k1", "--history", "k2", "--history", "k3"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "k1 (sample 1): cat",
        "asked for in cycle 0 by random, in cycle 2 by margin",
        "time                       what       by          cycle  trainings that began with it",
        "2024-05-01T12:00:00+00:00  cat        random          0  cycle 0",
        "2024-05-01T12:02:00+00:00  dog        correction      0  none",
        "2024-05-01T12:03:00+00:00  retracted  correction      0  cycle 1",
        "2024-05-01T12:05:00+00:00  cat        margin          2  cycle 2 to 3",
        "",
        "k2 (sample 2): dog",
        "no query has asked for it",
        "time                       what  by           cycle  trainings that began with it",
        "2024-05-01T12:04:00+00:00  dog   volunteered      1  cycle 2 to 3",
        "",
        "k3 (sample 3): unlabelled",
        "no query has asked for it",
    ]


def test_labels_that_were_brought_were_not_asked_for(tmp_path, capsys):
    with RunDir.open(tmp_path / "run", {"active": {"initial": {"name": "other_run", "path": "old", "size": None}}}) as run:
        run.write_keys(["k0", "k1", "k2"])
        write_audit(run, np.array([1]), ["k0", "k1", "k2"])
        run.save_query(Query(0, np.array([0, 1]), ("k0", "k1"), "other_run", NAMES))
        run.append_rows([row(0, 0, "cat", "other_run", 0), row(0, 1, "cat", AUDIT, 1), row(0, 0, None, CORRECTION, 2)])
        begin(run, 0)
        run.save_query(Query(1, np.array([0]), ("k0",), "margin", NAMES))
    assert cli.main(["labels", str(tmp_path / "run"), "--history", "k0", "--history", "k1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["k0 (sample 0): pending", "brought in cycle 0 by other_run, asked for in cycle 1 by margin"]
    assert "brought in cycle 0 by other_run, drawn for the audit: nothing trains on it" in said


def test_of_the_audit_it_says_which_trainings_it_measured(tmp_path, capsys):
    with RunDir.open(tmp_path / "run", {}) as run:
        run.write_keys(["k0", "k1", "k2"])
        write_audit(run, np.array([1]), ["k0", "k1", "k2"])
        run.save_query(Query(0, np.array([0, 1]), ("k0", "k1"), "random", NAMES))
        run.append_rows([row(0, 0, "cat", "random", 0), row(0, 1, "cat", AUDIT, 1)])
        begin(run, 0)
    assert cli.main(["labels", str(tmp_path / "run"), "--history", "k1", "--history", "k0"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "k1 (sample 1): cat",
        "asked for in cycle 0, drawn for the audit: nothing trains on it",
        "time                       what  by     cycle  trainings measured by it",
        "2024-05-01T12:01:00+00:00  cat   audit      0  cycle 0",
        "",
        "k0 (sample 0): cat",
        "asked for in cycle 0 by random",
        "time                       what  by      cycle  trainings that began with it",
        "2024-05-01T12:00:00+00:00  cat   random      0  cycle 0",
    ]


def test_a_key_that_is_none_is_one_line(run_path, capsys):
    assert cli.main(["labels", str(run_path), "--history", "k1", "--history", "k9"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("usb-active: error: 'k9' is no sample of the pool; known: k0, k1, k2, k3")
