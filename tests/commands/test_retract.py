"""A label taken back: the sample is as if it had never been answered, and may be asked for again; nothing else is asked for twice."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import killer
import numpy as np
import pytest
import run_helpers
from human_desk import waiting
from killer import KILLED, assert_same_end

from usb_active import cli
from usb_active.contracts.task import Classification
from usb_active.loop.ledger import Ledger
from usb_active.pool.pool import Pool
from usb_active.records import RETRACTED, LabelRow
from usb_active.storage.journal_checks import check_labels
from usb_active.storage.labels_in_force import labels_in_force
from usb_active.storage.run_dir import RunDir


def answers(desk, key):
    """(cycle, label, status, acquisition) of a sample's rows."""
    return [(row[0], *row[2:]) for row in desk.journal() if row[1] == key]


def counts(desk, cycle):
    return next(line.split() for line in desk.do(0, "labels", str(desk.run)) if line.split()[:1] == [str(cycle)])


# --- while its query waits --------------------------------------------------------------------------------------------------
def test_it_is_pending_again_and_the_old_answer_is_no_news(desk):
    desk.go(3)
    first = desk.keys(0)
    desk.fill(0, "cat", "dog", "dog")
    desk.go(3)
    assert desk.do(0, "labels", str(desk.run), "--retract", first[0]) == [f"{first[0]}: cat -> retracted"]
    assert counts(desk, 0) == ["0", "random", "4", "2", "0", "2"]
    *lines, hint = desk.go(3)
    assert lines == waiting(desk, 0, "2 of 4")
    way_out = f"write another one there, or say the same again: usb-active labels {desk.run} --set KEY=LABEL"
    assert hint == f"1 of them were taken back and still have their old answer there: {first[0]}; {way_out}"
    assert answers(desk, first[0]) == [("0", "cat", "labeled", "random"), ("0", "", "retracted", "correction")]
    assert desk.do(0, "labels", str(desk.run), "--retract", first[0]) == [f"{first[0]}: pending, unchanged"]
    # Another one is.
    desk.fill(0, "guinea pig", "dog", "dog")
    assert desk.go(3) == waiting(desk, 0, "1 of 4")
    assert answers(desk, first[0])[-1] == ("0", "guinea pig", "labeled", "random")


def test_an_emptied_cell_agrees_and_the_same_answer_is_news_then(desk):
    desk.go(3)
    first = desk.keys(0)
    desk.fill(0, "cat", "dog", "dog")
    desk.go(3)
    desk.do(0, "labels", str(desk.run), "--retract", first[0])
    desk.fill(0, "", "dog", "dog")
    assert desk.go(3) == waiting(desk, 0, "2 of 4"), "and no warning that a label stays"
    assert desk.go(3) == waiting(desk, 0, "2 of 4")
    assert answers(desk, first[0])[1:] == [("0", "", "retracted", "correction"), ("0", "", "retracted", "random")], "written once"
    desk.fill(0, "cat", "dog", "dog", "dog")
    assert desk.go(3)[0].startswith("cycle 0: 4 labels")


def test_what_no_run_has_taken_yet_is_taken_back_too(desk):
    desk.go(3)
    first = desk.keys(0)
    desk.fill(0, "cat", "dog", "dog")
    assert desk.do(0, "labels", str(desk.run), "--retract", first[0]) == [f"{first[0]}: cat -> retracted"]
    assert desk.go(3)[:2] == waiting(desk, 0, "2 of 4")
    assert answers(desk, first[0]) == [("0", "cat", "labeled", "random"), ("0", "", "retracted", "correction")]


def test_a_refusal_is_taken_back(desk):
    desk.go(3)
    first = desk.keys(0)
    desk.fill(0, "skip", "dog", "dog")
    desk.go(3)
    assert desk.do(0, "labels", str(desk.run), "--retract", first[0]) == [f"{first[0]}: skipped -> retracted"]
    assert counts(desk, 0) == ["0", "random", "4", "2", "0", "2"]
    assert desk.do(0, "labels", str(desk.run), "--set", f"{first[0]}=cat") == [f"{first[0]}: pending -> cat"]


def test_all_or_nothing(desk):
    desk.go(3)
    first = desk.keys(0)
    desk.fill(0, "cat", "dog", "dog")
    desk.go(3)
    before = desk.journal()
    desk.do(2, "labels", str(desk.run), "--retract", first[0], "--retract", "no such key")
    assert desk.journal() == before


# --- when its query is over -------------------------------------------------------------------------------------------------
# What asks in the pool's order. Named by its path, as wherever it is used: a module of this name would register it a second time.
TOYS = str(Path(__file__).parents[1] / "toy_plugins.py")
FIRST = {"initial": {"name": "toy_first", "size": 4}, "acquisition": "toy_first"}


def again(desk):
    """A run whose second query asks for a sample of the first one again; the sample's key."""
    desk.write(FIRST | {"cycles": 2}, plugins=[TOYS])
    desk.go(3)
    first = desk.keys(0)
    desk.fill(0, "cat", "dog", "dog", "guinea pig")
    with pytest.MonkeyPatch.context() as patch:
        # Ends before the second query, as a process that is killed there does.
        patch.setattr(Ledger, "prepare_query", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli.main(["run", str(desk.folder / "c.yaml")]) == 130
    desk.do(0, "labels", str(desk.run), "--retract", first[0])
    assert counts(desk, 0) == ["0", "toy_first", "4", "3", "0", "0", "1"]
    desk.go(3)
    assert first[0] in desk.keys(1) and not {*first[1:]} & {*desk.keys(1)} and len(desk.keys(1)) == 3
    return first[0]


def label(desk, cycle, **labels):
    """Write labels by key; all others get `dog`."""
    rows = desk.asked(cycle)
    with open(desk.sheet(cycle), "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("key", "label"), *((row["key"], labels.get(row["key"], "dog")) for row in rows)])


def test_the_file_of_the_last_query_counts(desk):
    key = again(desk)
    assert counts(desk, 0) == ["0", "toy_first", "3", "3", "0", "0"] and counts(desk, 1)[2:] == ["3", "0", "0", "3"]
    # What stands in the first file, or is written there now, is an answer to a question that is over.
    label(desk, 0, **{key: "guinea pig"})
    assert desk.go(3)[-2:] == waiting(desk, 1, "3 of 3")
    assert [row[1] for row in answers(desk, key)] == ["cat", ""]
    # The same answer as the first time is one all the same.
    label(desk, 1, **{key: "cat"})
    desk.go(3)
    assert answers(desk, key) == [
        ("0", "cat", "labeled", "toy_first"),
        ("0", "", "retracted", "correction"),
        ("1", "cat", "labeled", "toy_first"),
    ]
    run = RunDir.read(desk.run)
    check_labels(run)
    assert labels_in_force(desk.run).labels[key] == "cat"
    assert (desk.run / "cycle_001" / "start.json").is_file()


def test_an_emptied_cell_of_the_later_query_is_no_answer_that_is_gone(desk):
    again(desk)
    assert not any("answers that were given are gone" in line for line in desk.go(3))


def test_it_is_no_label_of_the_next_training_nor_of_another_run(desk):
    desk.go(3)
    first = desk.keys(0)
    desk.fill(0, "cat", "dog", "dog", "guinea pig")
    desk.go(3)
    desk.do(0, "labels", str(desk.run), "--retract", first[0], "--skip", first[1])
    desk.fill(1, "cat", "dog", "dog")
    assert any(line.startswith("cycle 1: 5 labels") for line in desk.go(0))
    found = labels_in_force(desk.run)
    assert first[0] not in found.labels and found.skipped == (first[1],)
    predicted = desk.do(0, "predict", str(desk.run))
    assert any(line.startswith(f"{first[0]},") for line in predicted)


def test_a_journal_that_asks_again_without_an_answer_is_damaged(desk):
    key = again(desk)
    label(desk, 1, **{key: "cat"})
    desk.go(3)
    path = desk.run / "labels.csv"
    lines = path.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("1,") or f",{key}," not in line]
    assert len(kept) == len(lines) - 1
    path.write_text("\n".join(kept) + "\n")
    # As if nothing were known of its checksum.
    (desk.run / "cycle_001" / "start.json").write_text(json.dumps({"cycle": 1, "journal_rows": len(kept) - 1, "pending": 0}))
    (line,) = desk.do(2, "labels", str(desk.run))
    assert f"there must be answers to the query of cycle 1 (queries/cycle_001.json), and there are none for {key}" in line


# --- killed and resumed -----------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_killed_after_a_retraction_it_ends_the_same(tmp_path):
    data = killer.settings(tmp_path)
    ended = killer.run(data, "predict")
    assert ended.code == KILLED
    run = killer.directory(data)
    keys = [row.key for row in RunDir.read(run).rows()][:5]
    assert cli.main(["labels", str(run), *(text for key in keys for text in ("--retract", key))]) == 0
    shutil.copytree(run, tmp_path / "uninterrupted")
    config = tmp_path / "uninterrupted" / "config.yaml"
    config.write_text(config.read_text().replace("save_name: run\n", "save_name: uninterrupted\n"))
    reference = killer.finish({**data, "save_name": "uninterrupted"})
    for point in ("select", "query", "in_labels", "labels", "train", "last_done"):
        ended = killer.run(data, point)
        assert ended.code == KILLED, (point, ended)
    assert_same_end(killer.finish(data), reference)
    assert sum(row.status == RETRACTED for row in RunDir.read(run).rows()) == 5


def test_a_simulated_oracle_answers_again(tmp_path):
    """Retracted between the answers and the training; what a computer answers is no old answer."""
    data = run_helpers.settings(tmp_path, num_train_iter=2, num_eval_iter=2, epoch=1, active={"cycles": 0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "begin", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_helpers.train(data)
    rows = RunDir.read(tmp_path / "run").rows()
    cli.main(["labels", str(tmp_path / "run"), "--retract", rows[0].key])
    algorithm = run_helpers.train(data)
    now = RunDir.read(tmp_path / "run").rows()
    assert [row.label for row in now if row.index == rows[0].index] == [rows[0].label, "", rows[0].label]
    assert len(algorithm.session.pool.labeled) == 20


def test_the_pool_asks_for_it_from_the_next_query_on():
    def row(index, label, cycle=0):
        status = RETRACTED if label is None else "labeled" if label else "skipped"
        return LabelRow(cycle, index, f"k{index}", label or "", status, "random", "")

    rows = [row(0, "cat"), row(1, ""), row(2, "dog"), row(0, None), row(1, None), row(2, None, 1), row(2, "cat", 2), row(3, None)]
    pool = Pool.from_rows(rows, np.ones(5, dtype=bool), Classification(("cat", "dog")), starts=[3])
    assert pool.labels.tolist() == [-1, -1, 0, -1, -1] and pool.round.tolist() == [-1, -1, 2, -1, -1]
    assert not pool.skipped.any() and not pool.pending.any() and pool.retracted.tolist() == [0, 0, -1, 0, -1]
    assert pool.candidates.tolist() == [0, 1, 3, 4]
    # What it was at first stays, or held-out labels would move.
    assert pool.first_label.tolist() == [0, -1, 1, -1, -1] and pool.first_cycle.tolist() == [0, -1, 0, -1, -1]
    pool.retract(np.array([2]), 2)
    assert pool.retracted[2] == 2 and pool.labels[2] == -1
    pool.skip(np.array([0]))
    pool.set_labels(np.array([2]), np.array([1]), 3)
    assert pool.retracted.tolist() == [-1, 0, -1, 0, -1]
