"""An audit that people answer: what they are shown, skips, corrections, what is still open, and no test set at all."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_makers import write_folder
from run_helpers import settings, write_yaml

from usb_active import cli
from usb_active.storage.audit_file import read_audit
from usb_active.storage.run_dir import RunDir

CLASSES = ["cat", "dog"]


class Desk:
    """A folder of 30 images without labels or test set, a YAML that wants 5 of them as audit and 4 at first, and a terminal."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture):
        self.folder, self.capsys, self.path = folder, capsys, folder / "run"
        write_folder(folder / "data", {"unlabeled": 30})
        self.write()

    def write(self, **active: object) -> None:
        block = {"initial": {"name": "random", "size": 4}, "budget": 3, "oracle": "csv", "audit": 5, **active}
        data = {"dataset": {"name": "image_folder", "class_names": CLASSES}, "data_dir": str(self.folder / "data")}
        tiny = {"num_train_iter": 3, "num_eval_iter": 3, "epoch": 1, "batch_size": 4}
        write_yaml(self.folder / "c.yaml", settings(self.folder, active=block, **data, **tiny))

    def do(self, code: int, *arguments: object) -> list[str]:
        ended = cli.main([str(argument) for argument in arguments])
        out, err = self.capsys.readouterr()
        assert ended == code, out + err
        return (out + err).splitlines()

    def go(self, code: int) -> list[str]:
        return self.do(code, "run", self.folder / "c.yaml")

    def rows(self, cycle: int) -> list[dict[str, str]]:
        with open(self.path / f"queries/cycle_{cycle:03d}.csv", encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))

    def answer(self, cycle: int, answers: dict[str, str]) -> None:
        rows = self.rows(cycle)
        with open(self.path / f"queries/cycle_{cycle:03d}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "label": answers.get(row["key"], row["label"])} for row in rows)

    def keys(self) -> tuple[list[str], list[str]]:
        """Of the audit, and of what else the first query asks for."""
        audit = json.loads((self.path / "queries/audit.json").read_text())["keys"]
        return audit, [row["key"] for row in self.rows(0) if row["key"] not in audit]

    def metrics(self) -> list[dict]:
        return RunDir.read(self.path).metrics()


@pytest.fixture
def desk(tmp_path, capsys):
    return Desk(tmp_path, capsys)


def test_one_list_of_both_and_what_becomes_of_each_answer(desk):
    assert any(line.startswith("9 of 9 labels are missing") for line in desk.go(3))
    audit, others = desk.keys()
    assert (len(audit), len(others)) == (5, 4)
    # Nothing tells them apart.
    assert set(desk.rows(0)[0]) == {"index", "key", "file", "label"}
    desk.answer(0, {**dict.fromkeys(others, "cat"), others[0]: "dog", **dict.fromkeys(audit[1:], "cat"), audit[0]: "skip"})
    lines = desk.go(3)
    (warning,) = [line for line in lines if "audit" in line and "warning" in line]
    assert warning.endswith("1 of the 5 samples of the audit were skipped, and have left it: it says nothing of samples like these")
    (trained,) = [line for line in lines if line.startswith("cycle 0: ")]
    assert trained.startswith("cycle 0: 8 labels, no held-out labels to evaluate on, audit ") and "4 samples" in trained
    (line,) = desk.metrics()
    assert (line["num_labels"], line["audit_samples"], line["audit_skipped"], sum(line["class_counts"])) == (8, 4, 1, 4)
    assert line["audit_class_counts"] == [4, 0]
    assert (line["audit_class_low"][1], line["audit_class_high"][1]) == (0, 1)
    # A label that is corrected is one of the audit still, and so is one given to what was skipped.
    desk.do(0, "labels", desk.path, "--set", f"{audit[1]}=dog", "--set", f"{audit[0]}=dog")
    desk.answer(1, {row["key"]: "dog" for row in desk.rows(1)})
    desk.go(0)
    line = desk.metrics()[1]
    assert (line["num_labels"], line["audit_samples"], line["audit_skipped"]) == (4 + 3 + 5, 5, 0)
    assert line["audit_class_counts"] == [3, 2] and sum(line["class_counts"]) == 7
    shown = [line.split() for line in desk.do(0, "labels", desk.path)]
    assert ["0", "random,", "audit", "9", "9", "0", "0"] in shown or ["0", "audit,", "random", "9", "9", "0", "0"] in shown


def test_what_is_taken_back_is_asked_for_again_by_the_next_query(desk):
    desk.write(cycles=3)
    desk.go(3)
    audit, others = desk.keys()
    desk.answer(0, {**dict.fromkeys(audit, "cat"), **dict.fromkeys(others, "dog")})
    desk.go(3)
    desk.do(0, "labels", desk.path, "--retract", audit[2])
    desk.answer(1, {row["key"]: "dog" for row in desk.rows(1)})
    lines = desk.go(3)
    said = "1 of the 5 samples of the audit are not answered yet (1 of them were taken back, which the next query asks for again)"
    assert any(line.endswith(f"{said}: it is of the others alone") for line in lines)
    assert audit[2] not in [row["key"] for row in desk.rows(1)]
    # Beside the budget of 3, and by no other sample of the audit.
    asked = [row["key"] for row in desk.rows(2)]
    assert len(asked) == 4 and set(asked) & set(audit) == {audit[2]}
    assert any(line.startswith("4 of 4 labels are missing") for line in lines)
    assert f"{audit[2]},,pending,audit," in "\n".join(desk.do(0, "labels", desk.path, "--csv"))
    desk.answer(2, dict.fromkeys(asked, "dog"))
    lines = desk.go(3)
    assert not any("audit are not answered" in line for line in lines)
    measured = [(line["num_labels"], line["audit_samples"], line["audit_class_counts"]) for line in desk.metrics()]
    assert measured == [(9, 5, [5, 0]), (11, 4, [4, 0]), (15, 5, [4, 1])]
    assert [sum(line["class_counts"]) for line in desk.metrics()] == [4, 7, 10]
    # Once it is answered it is asked for no more; after the last query, by nobody.
    assert not set(audit) & {row["key"] for row in desk.rows(3)}
    desk.do(0, "labels", desk.path, "--retract", audit[2])
    desk.answer(3, {row["key"]: "dog" for row in desk.rows(3)})
    assert any("(1 of them were taken back, which no query asks for again: --set)" in line for line in desk.go(0))


def test_a_pool_that_grows(desk):
    desk.write(cycles=2)
    desk.go(3)
    audit, others = desk.keys()
    desk.answer(0, {**dict.fromkeys(audit, "cat"), **dict.fromkeys(others, "dog")})
    # It joins before the query of cycle 1.
    shutil.copy(desk.folder / "data" / audit[0], desk.folder / "data/unlabeled/zzz.png")
    lines = desk.go(3)
    said = "the audit was drawn from 30 samples: it says nothing of the 1 that have joined the pool since"
    assert any(line.endswith(said) for line in lines)
    desk.answer(1, {row["key"]: "dog" for row in desk.rows(1)})
    lines = desk.go(3)
    assert any("5 samples, none of the 1 that joined the pool later)" in line for line in lines if line.startswith("cycle 1: "))
    desk.answer(2, {row["key"]: "dog" for row in desk.rows(2)})
    desk.go(0)
    assert [line["audit_joined"] for line in desk.metrics()] == [0, 1, 1]
    assert desk.keys()[0] == audit
    # What stands for the pool is drawn again from all of it, and models are compared on the same samples only.
    folder = desk.path / "artifacts"
    sets = [set(np.load(folder / f"{name}.npy").tolist()) for name in ("stop_set", "stop_set_of_31")]
    drawn = set(read_audit(RunDir.read(desk.path)).tolist())
    assert sets == [set(range(size)) - drawn for size in (30, 31)]
    assert [len(np.load(folder / f"stop_set_{cycle:03d}.npy")) for cycle in range(3)] == [25, 26, 26]
    assert [line["kappa"] is None for line in desk.metrics()] == [True, True, False]
    text = (desk.path / "report/report.md").read_text()
    assert "The audit was drawn from the 30 samples that there were: it says nothing of the 1 that joined the pool later." in text


def test_what_is_answered_so_far(desk):
    desk.write(oracle={"name": "csv", "accept_partial": True})
    desk.go(3)
    audit, others = desk.keys()
    # Of the audit alone nothing can be trained on.
    desk.answer(0, dict.fromkeys(audit[:2], "cat"))
    assert any(line.startswith("7 of 9 labels are missing") for line in desk.go(3))
    desk.answer(0, {others[0]: "cat", others[1]: "dog"})
    lines = desk.go(3)
    assert any(line.endswith("3 of the 5 samples of the audit are not answered yet: it is of the others alone") for line in lines)
    (line,) = desk.metrics()
    assert (line["num_labels"], line["audit_samples"]) == (4, 2)
    # Those that are open are of the audit whenever their answers come.
    desk.answer(0, dict.fromkeys(audit, "cat"))
    desk.answer(1, {desk.rows(1)[0]["key"]: "dog"})
    desk.go(0)
    assert (desk.metrics()[1]["num_labels"], desk.metrics()[1]["audit_samples"]) == (3 + 5, 5)


def test_beside_labels_that_exist_the_audit_alone_is_asked(desk):
    keys = [f"unlabeled/{path.name}" for path in sorted((desk.folder / "data/unlabeled").iterdir())[:6]]
    (desk.folder / "known.csv").write_text("key,label\n" + "".join(f"{key},{CLASSES[n % 2]}\n" for n, key in enumerate(keys)))
    desk.write(initial={"name": "file", "path": str(desk.folder / "known.csv")})
    assert any(line.startswith("5 of 5 labels are missing") for line in desk.go(3))
    audit, others = desk.keys()
    assert others == [] and not set(audit) & set(keys)
    assert {row.acquisition for row in RunDir.read(desk.path).rows()} == {"file"}
    desk.answer(0, dict.fromkeys(audit, "dog"))
    desk.go(3)
    desk.answer(1, {row["key"]: "dog" for row in desk.rows(1)})
    lines = desk.go(0)
    assert not any("are gone" in line for line in lines)
    assert [line["num_labels"] for line in desk.metrics()] == [11, 14]
    assert [line["audit_samples"] for line in desk.metrics()] == [5, 5]


def test_labels_of_the_audit_alone_are_nothing_to_train_on(desk):
    desk.go(3)
    audit, others = desk.keys()
    desk.answer(0, {**dict.fromkeys(audit, "cat"), **dict.fromkeys(others, "skip")})
    assert any("all samples that were asked for were skipped or taken back, so there is nothing to train on" in line for line in desk.go(2))
    assert len(read_audit(RunDir.read(desk.path))) == 5
