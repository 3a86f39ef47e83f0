"""People change their minds, in the CSV, in a workbook and by a command: the last edit counts, and nothing is passed over in silence."""

from __future__ import annotations

import csv
import os

import numpy as np
import openpyxl
import pytest

from usb_active import cli
from usb_active.builtin import answer_files
from usb_active.builtin.oracles import CsvOracle
from usb_active.contracts.task import Classification
from usb_active.errors import UsageError
from usb_active.pool.answers import emptied_answers, merge_answers
from usb_active.records import LabelRow, Query, status_of
from usb_active.storage.run_dir import RunDir

CLASSES = ("A", "B", "C")
KEYS = ("k0", "k1", "k2", "k3")


class Desk:
    """A run that waits for four labels; `run` takes what is in the files, as a run does before it trains."""

    def __init__(self, folder, capsys, classes=CLASSES):
        self.path, self.capsys = folder / "run", capsys
        self.query = Query(0, np.arange(4), KEYS, "random", classes)
        with RunDir.open(self.path, {}) as run:
            run.save_query(self.query)
        self.oracle = CsvOracle(CsvOracle.Config())
        self.oracle.run_path = self.path
        self.sheet = self.oracle.csv_path(0)
        self.write(*[""] * 4)

    def write(self, *labels, keys=KEYS):
        with open(self.sheet, "w", newline="") as file:
            csv.writer(file).writerows([("key", "label"), *zip(keys, labels, strict=True)])

    def run(self):
        """The labels as they stand then; and the samples whose answers are gone."""
        answers = self.oracle.collect(self.query)
        with RunDir.open(self.path, {}) as run:
            gone = [row.key for row in emptied_answers(run.rows(), answers)]
            more = {"emptied": answers.emptied, "retracted": answers.retracted}
            news = merge_answers(run.rows(), answers.labels, answers.skipped, Classification(self.query.class_names), **more)
            run.append_rows([LabelRow(0, i, KEYS[i], label or "", status_of(label), "random", "") for i, label in news])
        return self.standing(), gone

    def standing(self):
        found = {row.index: row.label or row.status for row in RunDir.read(self.path).rows()}
        return [found.get(index, "") for index in range(4)]

    def correct(self, *options):
        assert cli.main(["labels", str(self.path), *options]) == 0
        return self.capsys.readouterr().out


@pytest.fixture
def desk(tmp_path, capsys):
    return Desk(tmp_path, capsys)


def test_a_cell_edited_back_counts(desk):
    for label, expected in (("A", "A"), ("B", "B"), ("A", "A"), ("A", "A")):
        desk.write(label, "", "", "")
        assert desk.run()[0][0] == expected
    desk.correct("--set", "k0=B")
    assert desk.run()[0][0] == "B", "the CSV says what it said before"
    desk.write("B", "", "", "")
    assert desk.run()[0][0] == "B"
    desk.write("A", "", "", "")
    assert desk.run()[0][0] == "A", "the last edit"
    rows = len(RunDir.read(desk.path).rows())
    desk.run()
    assert len(RunDir.read(desk.path).rows()) == rows, "and nothing is written twice"


def test_a_correction_after_an_edit_that_no_run_has_taken_counts(desk):
    desk.write("A", "", "", "")
    desk.run()
    desk.write("B", "", "", "")
    desk.correct("--set", "k0=C")
    assert desk.run()[0][0] == "C"
    desk.write("A", "", "", "")
    assert desk.run()[0][0] == "A"


def test_skips_are_answers_too(desk):
    desk.write("skip", "A", "", "")
    desk.run()
    desk.correct("--set", "k0=B", "--skip", "k1")
    assert desk.run()[0][:2] == ["B", "skipped"]
    desk.write("B", "skip", "", "")
    desk.run()
    desk.write("skip", "A", "", "")
    assert desk.run()[0][:2] == ["skipped", "A"]


def test_a_correction_is_not_held_up_by_a_mistake_in_the_file(desk):
    desk.write("A", "", "", "")
    desk.run()
    desk.write("A", "no class", "", "")
    assert desk.correct("--set", "k0=B") == "k0: A -> B\n"


def test_readable_rows_came_before_a_correction_whatever_else_is_in_the_file(desk):
    desk.write("A", "no class", "", "")
    assert desk.correct("--set", "k0=B") == "k0: A -> B\n"
    desk.write("A", "C", "", "")
    assert desk.run()[0] == ["B", "C", "", ""], "only the mistake was mended"
    desk.write("C", "C", "", "")
    assert desk.run()[0][0] == "C"


@pytest.mark.parametrize("damaged", [".csv", ".xlsx"])
def test_a_file_that_cannot_be_decoded_hides_nothing_of_the_other(desk, damaged):
    desk.write("A", "", "", "")
    save_workbook(desk, [HEADER, (0, "k0", "A")], 10)
    path = desk.sheet.with_suffix(damaged)
    data = path.read_bytes()
    path.write_bytes(b"PK\x03\x04")
    desk.correct("--set", "k0=B")
    path.write_bytes(data)
    assert desk.run()[0][0] == "B"


def test_agreeing_is_no_correction(desk):
    desk.write("A", "", "", "")
    desk.run()
    desk.correct("--set", "k0=B")
    desk.write("B", "", "", "")
    desk.run()
    assert "1 corrected" in desk.correct() and len(RunDir.read(desk.path).rows()) == 3


def test_what_is_said_by_a_command_stands_over_an_answer_that_no_run_has_taken(desk):
    desk.write("A", "", "", "")
    desk.run()
    desk.write("B", "C", "", "")
    # The first says again what the journal has; the second says what the CSV has; the third is new.
    said = desk.correct("--set", "k0=A", "--set", "k1=C", "--set", "k2=A")
    assert said == "k0: B -> A\nk1: C, unchanged\nk2: pending -> A\n"
    assert desk.run()[0] == ["A", "C", "A", ""]
    assert desk.correct("--set", "k0=A", "--set", "k0=A") == "k0: A, unchanged\nk0: A, unchanged\n"


def test_what_was_taken_back_in_between_is_corrected_where_the_answer_is_another(desk):
    desk.correct("--set", "k0=A", "--set", "k1=A", "--set", "k2=A", "--skip", "k3")
    desk.correct("--retract", "k0", "--retract", "k1", "--retract", "k3")
    assert "corrected" not in desk.correct()
    desk.correct("--set", "k0=A", "--set", "k1=B")
    assert "1 corrected" in desk.correct()


def test_an_emptied_cell_is_told(desk):
    desk.write("A", "B", "", "")
    assert desk.run() == (["A", "B", "", ""], [])
    desk.write("", "B", "", "")
    assert desk.run() == (["A", "B", "", ""], ["k0"])
    desk.write("B", keys=["k1"])
    assert desk.run()[1] == [], "a row that is gone is another matter"


def test_the_word_retract_takes_a_label_back(desk):
    desk.write("A", "skip", "C", "retract")
    assert desk.run()[0] == ["A", "skipped", "C", ""], "where nothing stands there is nothing to take back"
    desk.write(" Retract", "RETRACT", "C", "")
    assert desk.run() == (["retracted", "retracted", "C", ""], [])
    rows = len(RunDir.read(desk.path).rows())
    assert desk.run() == (["retracted", "retracted", "C", ""], []) and len(RunDir.read(desk.path).rows()) == rows, "written once"
    # A correction stands against the word that repeats itself.
    desk.correct("--set", "k0=B")
    assert desk.run()[0] == ["B", "retracted", "C", ""]
    # An answer is one, also the same as the first.
    desk.write("A", "skip", "C", "")
    assert desk.run()[0] == ["A", "skipped", "C", ""]


def test_a_correction_is_taken_back_by_the_word(desk):
    desk.correct("--set", "k0=B")
    desk.write("retract", "", "", "")
    assert desk.run()[0][0] == "retracted"


def test_a_class_may_be_called_retract(tmp_path, capsys):
    desk = Desk(tmp_path, capsys, ("A", "Retract"))
    desk.write("retract", "A", "", "")
    assert desk.run()[0] == ["Retract", "A", "", ""]
    desk.write("A", "RETRACT", "", "")
    assert desk.run()[0] == ["A", "Retract", "", ""]


def test_rows_that_are_gone_are_named(desk):
    desk.write("A", "", "", "")
    desk.run()
    desk.write("", keys=["k3"])
    *_, line = desk.oracle.instructions(desk.query, 3).splitlines()
    assert line.startswith("2 of them have no row there any more: k1, k2; put them back, or move the file away")
    desk.write(*[""] * 4)
    assert len(desk.oracle.instructions(desk.query, 3).splitlines()) == 2


# --- workbooks --------------------------------------------------------------------------------------------------------------
def save_workbook(desk, rows, seconds):
    """`seconds` after the CSV was changed."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    path = desk.sheet.with_suffix(".xlsx")
    book.save(path)
    changed = desk.sheet.stat().st_mtime + seconds
    os.utime(path, (changed, changed))
    return path


HEADER = ("index", "key", "label")


def test_a_workbook_says_it_too(desk):
    desk.write("A", "B", "", "")
    desk.run()
    desk.write("", "B", "", "")
    save_workbook(desk, [HEADER, (0, "k0", "retract"), (1, "k1", "retract")], 10)
    with pytest.raises(UsageError, match=r"'k1' is 'retract' in cycle_000\.xlsx, and here it is another \('B'\)"):
        desk.run()
    desk.write("", "", "", "")
    assert desk.run() == (["retracted", "retracted", "", ""], [])


def test_the_files_complete_each_other(desk):
    desk.write("A", "", "C", "")
    save_workbook(desk, [HEADER, (0, "k0", "A"), (1, "k1", "C"), (2.0, "k2", None)], 10)
    assert desk.run()[0] == ["A", "C", "C", ""]


@pytest.mark.parametrize("seconds", [10, -10])
@pytest.mark.parametrize(("one", "other"), [("A", "B"), ("skip", "B"), ("A", "skip")])
def test_files_that_contradict_each_other_are_refused(desk, seconds, one, other):
    desk.write(one, "", "C", "")
    save_workbook(desk, [HEADER, (0, "k0", other), (2.0, "k2", "C")], seconds)
    with pytest.raises(UsageError) as caught:
        desk.run()
    expected = f"{desk.sheet}: 'k0' is '{other}' in cycle_000.xlsx, and here it is another ('{one}'); valid: the same in both"
    assert str(caught.value).startswith(expected) and "\n" not in str(caught.value) and desk.standing() == [""] * 4


def test_what_a_workbook_corrected_does_not_go_back_when_the_csv_is_saved(desk):
    desk.write("A", "", "", "")
    desk.run()
    desk.write("", "", "", "")
    workbook = save_workbook(desk, [HEADER, (0, "k0", "B")], 10)
    assert desk.run()[0][0] == "B"
    desk.write("A", "C", "", "")
    os.utime(desk.sheet, (workbook.stat().st_mtime + 10,) * 2)
    with pytest.raises(UsageError, match="'k0' is 'B' in cycle_000.xlsx"):
        desk.run()
    assert desk.standing()[0] == "B"
    desk.write("B", "C", "", "")
    assert desk.run()[0] == ["B", "C", "", ""]


def test_a_correction_waits_for_files_that_agree_on_its_sample(desk, capsys):
    desk.write("A", "", "", "")
    save_workbook(desk, [HEADER, (0, "k0", "B")], 10)
    assert desk.correct("--set", "k1=C") == "k1: pending -> C\n"
    assert cli.main(["labels", str(desk.path), "--set", "k0=C"]) == 2
    assert "'k0' is 'B' in cycle_000.xlsx, and here it is another ('A')" in capsys.readouterr().err and desk.standing()[0] == ""


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"no workbook", b"PK\x05\x06" + b"\0" * 18])
def test_a_damaged_workbook_is_one_line(desk, data):
    desk.sheet.with_suffix(".xlsx").write_bytes(data)
    with pytest.raises(UsageError, match=r"cycle_000\.xlsx: cannot be read as a workbook \(.*\); save it again, or as CSV") as caught:
        desk.run()
    assert "\n" not in str(caught.value)


def test_mistakes_in_a_workbook_are_named_by_row(desk):
    save_workbook(desk, [("index", "label"), (0, "A"), (1, "D"), (77, "A")], 5)
    with pytest.raises(UsageError) as caught:
        desk.run()
    one, other = str(caught.value).splitlines()
    assert ".xlsx:3: unknown class ('D')" in one and ".xlsx:4: index is not in this query ('77')" in other


def test_without_openpyxl_it_is_said(desk, monkeypatch, caplog):
    monkeypatch.setattr(answer_files, "can_read", lambda: False)
    desk.write("A", "", "", "")
    path = save_workbook(desk, [("index", "label"), (0, "B")], 5)
    assert desk.run()[0][0] == "A"
    assert f"{path} is not read: pip install 'usb-active[xlsx]', or save it as CSV" in caplog.text
