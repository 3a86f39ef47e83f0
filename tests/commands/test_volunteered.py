"""Labels that nobody asked for: taken for any image of the pool, and charged to the budget where the run says so."""

from __future__ import annotations

import numpy as np
from human_desk import waiting
from hypothesis import given
from hypothesis import strategies as st

from usb_active import cli
from usb_active.pool.answers import charge, volunteered_labels
from usb_active.records import VOLUNTEERED, LabelRow, Query, status_of
from usb_active.storage.journal_checks import check_labels
from usb_active.storage.labels_in_force import labels_in_force
from usb_active.storage.run_dir import RunDir


def unasked(desk, *cycles):
    """Keys that none of these queries asks for."""
    asked = {key for cycle in cycles for key in desk.keys(cycle)}
    return [key for key in RunDir.read(desk.run).keys() if key not in asked]


def test_any_image_of_the_pool_may_be_labelled(desk):
    desk.go(3)
    one, other, third, *_ = unasked(desk, 0)
    said = desk.do(0, "labels", str(desk.run), "--set", f"{one}=cat", "--skip", other, "--retract", third)
    assert said == [f"{one}: unlabelled -> cat", f"{other}: unlabelled -> skipped", f"{third}: unlabelled, unchanged"]
    assert desk.journal() == [("0", one, "cat", "labeled", "volunteered"), ("0", other, "", "skipped", "volunteered")]
    assert desk.go(3) == waiting(desk, 0, "4 of 4"), "it is no answer to what was asked"
    desk.fill(0, "dog", "dog", "cat", "cat")
    lines = desk.go(3)
    assert lines[0].startswith("cycle 0: 5 labels") and lines[1:] == waiting(desk, 1, "3 of 3")
    assert not {one, other} & {*desk.keys(1)}
    table = [line.split() for line in desk.do(0, "labels", str(desk.run))]
    assert table[:5] == [
        ["cycle", "acquisition", "asked", "labeled", "skipped", "pending"],
        ["0", "random", "4", "4", "0", "0"],
        ["1", "margin", "3", "0", "0", "3"],
        ["volunteered", "0", "1", "1", "0"],
        ["total", "7", "5", "1", "3"],
    ]
    check_labels(RunDir.read(desk.run))
    found = labels_in_force(desk.run)
    assert found.labels[one] == "cat" and found.skipped == (other,)
    # What was chosen is one thing, what was given another.
    (line,) = RunDir.read(desk.run).metrics()
    assert line["class_counts"] == [3, 2, 0] and line["selected_class_counts"] == [2, 2, 0]


def test_it_is_corrected_and_taken_back_like_any_other(desk):
    desk.go(3)
    key = unasked(desk, 0)[0]
    for option, text in (("--set", f"{key}=cat"), ("--set", f"{key}=dog"), ("--retract", key)):
        desk.do(0, "labels", str(desk.run), option, text)
    assert [row[2:] for row in desk.journal()] == [
        ("cat", "labeled", "volunteered"),
        ("dog", "labeled", "correction"),
        ("", "retracted", "correction"),
    ]
    (line,) = [line for line in desk.do(0, "labels", str(desk.run)) if "volunteered" in line]
    assert line.split() == ["volunteered", "0", "0", "0", "0", "1"]


def test_before_any_query_there_is_none_it_could_belong_to(tmp_path, capsys):
    with RunDir.open(tmp_path / "run", {}) as run:
        run.write_keys(["a", "b"])
    assert cli.main(["labels", str(tmp_path / "run"), "--skip", "a"]) == 2
    assert capsys.readouterr().err == (
        "usb-active: error: 'a': nothing has been asked yet, and a label belongs to a query; start the run first\n"
    )
    assert not (tmp_path / "run" / "labels.csv").exists()


def test_a_misspelt_key_among_many_is_found(tmp_path, capsys):
    keys = [f"unlabeled/IMG_{number:05d}.png" for number in range(20_000)]
    with RunDir.open(tmp_path / "run", {}) as run:
        run.write_keys(keys)
        run.save_query(Query(0, np.array([7]), (keys[7],), "random", ("one", "two")))
    assert cli.main(["labels", str(tmp_path / "run"), "--set", "unlabelled/IMG_00001.png=one"]) == 2
    assert capsys.readouterr().err == (
        "usb-active: error: 'unlabelled/IMG_00001.png' is no sample of the pool; did you mean 'unlabeled/IMG_00001.png'?\n"
    )
    assert cli.main(["labels", str(tmp_path / "run"), "--set", "IMG_00001.png=tow"]) == 2
    assert "unknown class 'tow'; did you mean 'two'?" in capsys.readouterr().err
    (tmp_path / "in.csv").write_text("key,label\nunlabelled/IMG_00001.png,one\n")
    assert cli.main(["labels", str(tmp_path / "run"), "--import", str(tmp_path / "in.csv")]) == 2
    assert "key is not in the pool ('unlabelled/IMG_00001.png'); valid: did you mean 'unlabeled/IMG_00001.png'?" in capsys.readouterr().err
    assert cli.main(["labels", str(tmp_path / "run"), "--set", "IMG_00001.png=one"]) == 0
    assert [row.key for row in RunDir.read(tmp_path / "run").rows()] == [keys[1]]


# --- charged ----------------------------------------------------------------------------------------------------------------
def test_the_next_query_asks_for_fewer(desk):
    desk.write({"charge_volunteered": True, "cycles": 3})
    desk.go(3)
    one, other, third, fourth, skipped, *_ = unasked(desk, 0)
    given = [text for key in (one, other, third, fourth) for text in ("--set", f"{key}=cat")]
    desk.do(0, "labels", str(desk.run), *given, "--skip", skipped)
    desk.fill(0, "dog", "dog", "cat", "cat")
    # Four of a budget of three: nothing is asked in the first cycle, and two in the second.
    lines = desk.go(3)
    charged = "cycle {}: {} labels were given unasked and are charged, so {} are asked for"
    assert [line for line in lines if "charged" in line] == [charged.format(1, 3, 0), charged.format(2, 1, 2)]
    assert [line.split(",")[0] for line in lines if "accuracy" in line or "evaluate" in line] == ["cycle 0: 8 labels", "cycle 1: 8 labels"]
    assert lines[-2:] == waiting(desk, 2, "2 of 2")
    assert desk.keys(1) == []


def test_it_is_charged_only_where_the_run_says_so(desk):
    desk.go(3)
    desk.do(0, "labels", str(desk.run), "--set", f"{unasked(desk, 0)[0]}=cat")
    desk.fill(0, "dog", "dog", "cat", "cat")
    assert desk.go(3)[-2:] == waiting(desk, 1, "3 of 3")
    assert "charge_volunteered" not in (desk.run / "config.yaml").read_text()


@given(given=st.lists(st.integers(0, 5), max_size=6), budget=st.integers(1, 4))
def test_a_charge_is_paid_once(given, budget):
    """Against single labels that each wait for the first place that is left."""
    places = {cycle: budget for cycle in range(1, 100)}
    for before in sorted(given):
        first = next(cycle for cycle in range(before + 1, 100) if places[cycle])
        places[first] -= 1
    for cycle in range(1, 12):
        assert charge(given, cycle, budget) == budget - places[cycle]


def test_only_labels_that_stand_and_that_nobody_asked_for_are_charged():
    def row(index, label, acquisition, cycle=0):
        return LabelRow(cycle, index, f"k{index}", label or "", status_of(label), acquisition, "")

    rows = [
        row(0, "a", VOLUNTEERED),
        row(1, "a", VOLUNTEERED),
        row(2, "", VOLUNTEERED),
        row(3, "a", "correction"),
        row(1, None, "correction"),
    ]
    rows += [row(4, "a", VOLUNTEERED, 2), row(5, "a", VOLUNTEERED), row(4, "b", "correction", 2)]
    assert volunteered_labels(rows, asked={3, 5}) == [0, 2]
    # From when on there has been a label: refused before, or taken back in between; a correction changes nothing.
    rows = [
        row(0, "", VOLUNTEERED),
        row(1, "a", VOLUNTEERED),
        row(2, "a", VOLUNTEERED),
        row(1, None, "correction", 1),
        row(0, "a", "correction", 3),
        row(1, "b", "correction", 4),
        row(2, "b", "correction", 4),
    ]
    assert volunteered_labels(rows, asked=()) == [3, 4, 0]


def test_what_was_refused_or_taken_back_is_charged_when_it_gets_a_label(desk):
    """Not to a query that was made before, where nothing can be charged any more."""
    desk.write({"charge_volunteered": True, "cycles": 2})
    desk.go(3)
    refused, back, *_ = unasked(desk, 0)
    desk.do(0, "labels", str(desk.run), "--skip", refused, "--set", f"{back}=cat")
    desk.do(0, "labels", str(desk.run), "--retract", back)
    desk.fill(0, "dog", "dog", "cat", "cat")
    assert desk.go(3)[-2:] == waiting(desk, 1, "3 of 3")
    assert back not in desk.keys(1), "the draw has changed: the test needs a sample that this query does not ask for"
    desk.do(0, "labels", str(desk.run), "--set", f"{refused}=cat", "--set", f"{back}=dog")
    assert [(row[0], row[2], row[4]) for row in desk.journal()[-2:]] == [("1", "cat", "correction"), ("1", "dog", "correction")]
    desk.fill(1, "cat", "dog", "dog")
    lines = desk.go(3)
    assert "cycle 2: 2 labels were given unasked and are charged, so 1 are asked for" in lines
    assert lines[-2:] == waiting(desk, 2, "1 of 1")


def test_a_run_that_is_done_says_what_it_trains_on_no_more(desk):
    desk.go(3)
    desk.fill(0, "dog", "dog", "cat", "cat")
    desk.go(3)
    desk.fill(1, "dog", "dog", "cat")
    assert not any("trains on no more" in line for line in desk.go(0))
    late = unasked(desk, 0, 1)[0]
    desk.do(0, "labels", str(desk.run), "--set", f"{late}=cat", "--retract", desk.keys(0)[0])
    (said,) = (line for line in desk.go(0) if "trains on no more" in line)
    assert "said of 2 samples after the last training began" in said and late in said and f"--from {desk.run}" in said
