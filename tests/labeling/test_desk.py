"""What people answer at the desk is in the journal when they are told so, and nothing that was there is lost."""

from __future__ import annotations

import numpy as np
import pytest
from desks import NAMES, PROBS, desk_at, rows, waiting_run

from usb_active.errors import UsageError
from usb_active.labeling.desk import PENDING
from usb_active.pool.answers import volunteered_labels
from usb_active.records import SKIP, SKIPPED, VOLUNTEERED, LabelRow, Query
from usb_active.storage.run_dir import RunDir

CAT, DOG, PIG = range(3)


@pytest.fixture
def path(tmp_path):
    return waiting_run(tmp_path / "run")


@pytest.fixture
def desk(path):
    with desk_at(path) as desk:
        yield desk


def write_sheet(path, cycle: int, *lines: str) -> None:
    (path / "queries" / f"cycle_{cycle:03d}.csv").write_text("\n".join(["index,key,label", *lines, ""]))


def test_the_last_query_comes_first_then_what_was_asked_before(desk):
    assert [(sample.index, sample.key, sample.answer) for sample in desk.samples] == [
        (5, "train/5", None), (4, "train/4", None), (7, "train/7", None), (0, "train/0", "cat"), (1, "train/1", "dog"),
    ]  # fmt: skip
    assert desk.batch == 3 and desk.cycle == 1 and desk.is_asking and not desk.is_interrupted and not desk.is_complete
    assert [sample.suggestion for sample in desk.samples] == [DOG, CAT, PIG, None, None]
    assert [sample.confidence for sample in desk.samples[:3]] == PROBS.max(axis=1).tolist()
    assert [desk.code(place) for place in range(5)] == [PENDING, PENDING, PENDING, CAT, DOG]


def test_an_answer_is_in_the_journal_when_it_is_taken(path, desk):
    desk.answer("anna", 1, CAT)
    assert rows(path)[2:] == [(1, 4, "cat", "labeled", "correction")]
    desk.answer("anna", 0, SKIP)
    assert rows(path)[3:] == [(1, 5, "", "skipped", "correction")]
    assert desk.pending == [2] and not desk.is_complete
    desk.answer("anna", 2, PIG)
    assert desk.is_complete and desk.code(0) == SKIP
    # A label of an earlier query, corrected: a row of that query.
    desk.answer("anna", 4, CAT)
    assert rows(path)[-1] == (0, 1, "cat", "labeled", "correction")


def test_what_nobody_asked_for_gets_its_label_while_the_last_query_is_there(path):
    """Refused in the cycle before: its label is charged from now on, where it is charged at all."""
    with RunDir.open(path, {"seed": 1}) as run:
        run.append_rows([LabelRow(0, 6, "train/6", "", SKIPPED, VOLUNTEERED, "2024-05-01T12:00:00+00:00")])
    with desk_at(path) as desk:
        (place,) = [place for place, sample in enumerate(desk.samples) if sample.index == 6]
        desk.answer("anna", place, PIG)
    assert rows(path)[-1] == (1, 6, "guinea pig", "labeled", "correction")
    assert volunteered_labels(RunDir.read(path).rows(), asked={0, 1, 5, 4, 7}) == [1]


def test_the_same_again_is_no_news(path, desk):
    desk.answer("anna", 0, DOG)
    before = rows(path)
    desk.answer("anna", 0, DOG)
    # Said by the journal already: an answer that was sent a second time, after the server was killed, makes no second row.
    desk.answer("anna", 3, CAT)
    assert rows(path) == before


def test_both_answers_of_two_people_are_kept_and_the_last_counts(path, desk):
    desk.answer("anna", 0, DOG)
    desk.answer("ben", 0, CAT)
    desk.answer("anna", 1, CAT)
    desk.answer("ben", 1, CAT)
    assert [row[1:3] for row in rows(path)[2:]] == [(5, "dog"), (5, "cat"), (4, "cat"), (4, "cat")]
    assert desk.code(0) == CAT


def test_undo_puts_back_what_stood(path, desk):
    desk.answer("anna", 0, DOG)
    desk.answer("anna", 3, DOG)
    desk.answer("anna", 1, SKIP)
    assert [desk.undo("anna") for _ in range(4)] == [[1], [3], [0], []]
    assert rows(path)[5:] == [
        (1, 4, "", "retracted", "correction"),
        (0, 0, "cat", "labeled", "correction"),
        (1, 5, "", "retracted", "correction"),
    ]
    assert len(desk.pending) == 3 and desk.code(3) == CAT


def test_undo_takes_back_ones_own_step_alone(path, desk):
    desk.answer("anna", 0, DOG)
    desk.answer("ben", 1, CAT)
    assert desk.undo("carl") == []
    assert desk.undo("anna") == [0] and desk.code(1) == CAT
    # What somebody has answered since is theirs.
    desk.answer("anna", 0, DOG)
    desk.answer("ben", 0, CAT)
    before = rows(path)
    assert desk.undo("anna") == [] and rows(path) == before and desk.code(0) == CAT


def test_what_two_people_said_alike_is_taken_back_by_the_last_alone(path, desk):
    desk.answer("anna", 1, CAT)
    desk.answer("anna", 0, CAT)
    desk.answer("ben", 0, CAT)
    before = rows(path)
    # Anna's last step is void: the one before it is taken back, and it alone.
    assert desk.undo("anna") == [1] and desk.code(0) == CAT
    assert rows(path)[len(before) :] == [(1, 4, "", "retracted", "correction")]
    assert desk.undo("anna") == []


def test_what_stands_again_is_whose_it_was(path, desk):
    desk.answer("anna", 0, CAT)
    desk.answer("ben", 0, DOG)
    assert desk.undo("ben") == [0] and desk.code(0) == CAT
    # It is Anna's again, who may take it back; what a file says is nobody's.
    assert desk.undo("anna") == [0] and desk.code(0) == PENDING
    desk.answer("anna", 0, CAT)
    write_sheet(path, 1, "5,train/5,dog", "4,train/4,", "7,train/7,")
    assert desk.undo("anna") == [] and desk.code(0) == DOG


def test_suggestions_are_accepted_and_taken_back_in_one_step(path, desk):
    assert desk.sure("anna", 0.8, now=0) == [0, 1]
    assert desk.accept_above("anna", 0.8, now=0) == [0, 1]
    assert rows(path)[2:] == [(1, 5, "dog", "labeled", "correction"), (1, 4, "cat", "labeled", "correction")]
    assert desk.accept_above("anna", 0.0, now=0) == [2]
    assert desk.undo("anna") == [2] and desk.undo("anna") == [0, 1]
    assert desk.pending == [0, 1, 2] and len(rows(path)) == 2 + 3 + 3


def test_nothing_is_accepted_that_somebody_answered_or_looks_at(desk):
    desk.answer("ben", 1, DOG)
    desk.leases.hold("ben", [0], 1, now=0)
    assert desk.accept_above("anna", 0.5, now=1) == [] and desk.sure("ben", 0.5, now=1) == [0]
    assert desk.accept_above("anna", 0.5, now=61) == [0] and desk.code(1) == DOG
    with pytest.raises(UsageError, match="must be from 0 to 1, is 1.5"):
        desk.accept_above("anna", 1.5, now=61)
    with pytest.raises(UsageError, match="is nan"):
        desk.accept_above("anna", float("nan"), now=61)


def test_a_query_without_predictions_suggests_nothing(tmp_path):
    probs = PROBS.copy()
    probs[1, 1] = np.nan
    with desk_at(waiting_run(tmp_path / "run", probs=probs)) as desk:
        assert [sample.suggestion for sample in desk.samples] == [DOG, None, PIG, None, None]
        assert desk.sure("anna", 0.0, now=0) == [0, 2]


@pytest.mark.parametrize(
    ("place", "label", "line"), [(5, 0, "no sample at place 5"), (-1, 0, "no sample"), (0, 3, "no class 3"), (0, -2, "no class -2")]
)
def test_what_does_not_exist_is_refused(path, desk, place, label, line):
    before = rows(path)
    with pytest.raises(UsageError, match=line):
        desk.answer("anna", place, label)
    assert rows(path) == before


def test_an_answer_that_cannot_be_written_is_none(path, desk):
    journal = path / "labels.csv"
    before = journal.read_bytes()
    journal.rename(path / "kept.csv")
    journal.mkdir()
    with pytest.raises(UsageError, match=r"cannot (read|write) .*labels\.csv"):
        desk.answer("anna", 0, DOG)
    assert desk.code(0) == PENDING and desk.history == [] and desk.undo("anna") == []
    journal.rmdir()
    (path / "kept.csv").rename(journal)
    desk.answer("anna", 0, DOG)
    assert journal.read_bytes().startswith(before) and rows(path)[2:] == [(1, 5, "dog", "labeled", "correction")]


def test_what_stands_in_the_csv_is_taken_up_when_the_desk_opens(path):
    write_sheet(path, 1, "5,train/5,dog", "4,train/4,dgo", "7,train/7,")
    with desk_at(path) as desk:
        # What is wrong there is for the next run to say.
        assert [desk.code(place) for place in range(3)] == [DOG, PENDING, PENDING]
    assert rows(path)[2:] == [(1, 5, "dog", "labeled", "margin")]


def test_what_is_written_into_the_csv_meanwhile_came_before_the_next_answer(path, desk):
    desk.answer("anna", 0, DOG)
    write_sheet(path, 1, "5,train/5,cat", "4,train/4,dog", "7,train/7,")
    desk.answer("anna", 1, CAT)
    assert rows(path)[2:] == [
        (1, 5, "dog", "labeled", "correction"),
        (1, 5, "cat", "labeled", "margin"),
        (1, 4, "dog", "labeled", "margin"),
        (1, 4, "cat", "labeled", "correction"),
    ]
    assert [desk.code(place) for place in range(3)] == [CAT, CAT, PENDING]
    # And it is taken once.
    desk.answer("anna", 2, PIG)
    assert len(rows(path)) == 7


def test_pages_are_told_what_changed(desk):
    desk.answer("anna", 2, PIG)
    known = len(desk.history)
    desk.answer("ben", 0, DOG)
    desk.answer("ben", 2, CAT)
    assert desk.changed_since(known) == {0: DOG, 2: CAT} and desk.changed_since(len(desk.history)) == {}
    assert desk.changed_since(0) == {2: CAT, 0: DOG}


def test_a_batch_with_a_training_asks_for_nothing(path):
    with RunDir.open(path, {"seed": 1}) as run:
        run.write_json("cycle_001/start.json", {"cycle": 1, "journal_rows": 2, "pending": 3, "samples": 8})
    with desk_at(path) as desk:
        assert not desk.is_asking and desk.is_interrupted and desk.is_complete
        desk.answer("anna", 3, PIG)
        assert desk.code(3) == PIG


def test_nobody_else_works_in_the_run_meanwhile(path):
    with desk_at(path):
        with pytest.raises(UsageError, match="already uses"):
            desk_at(path)
    desk_at(path).close()


def test_a_run_that_asks_for_nothing_or_for_no_classes_is_refused(tmp_path):
    with RunDir.open(tmp_path / "new", {"seed": 1}):
        pass
    with pytest.raises(UsageError, match="nothing has been asked yet: usb-active run "):
        desk_at(tmp_path / "new")
    with RunDir.open(tmp_path / "numbers", {"seed": 1}) as run:
        run.write_keys(["a"])
        run.save_query(Query(0, np.array([0]), ("a",), "random", (), expects="a number, such as 0.37"))
    with pytest.raises(UsageError, match=r"labels are no classes here \(a number, such as 0.37\)"):
        desk_at(tmp_path / "numbers")
    # The lock was given back.
    with RunDir.open(tmp_path / "numbers", {"seed": 1}):
        assert NAMES
