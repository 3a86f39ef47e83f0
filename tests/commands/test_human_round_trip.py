"""The csv oracle as a person uses it: the command line, a spreadsheet in between, and what a folder of images goes through."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from data_makers import write_folder, write_image
from human_desk import CLASSES, waiting
from PIL import Image
from run_helpers import command


def test_from_the_first_question_to_the_report(desk):
    assert desk.go(3) == ["20 samples, 3 classes, img_size 8", *waiting(desk, 0, "4 of 4")]
    for row in desk.asked(0):
        assert Path(row["file"]) == desk.data / row["key"] and row["label"] == ""
    first = desk.keys(0)
    # Some of it, in whatever case.
    desk.fill(0, "Cat", "", "guinea pig")
    assert desk.go(3) == waiting(desk, 0, "2 of 4")
    taken = {("0", first[0], "cat", "labeled", "random"), ("0", first[2], "guinea pig", "labeled", "random")}
    assert set(desk.journal()) == taken
    # Wrong: every mistake with its place, and what was taken stays.
    desk.fill(0, "cat", "dgo", "guinea pig", "7")
    kept = desk.sheet(0).read_bytes()
    assert desk.go(2) == [
        f"usb-active: error: {desk.sheet(0)}:3: unknown class ('dgo'); valid: did you mean 'dog'? cat, dog, guinea pig, skip",
        f"usb-active: error: {desk.sheet(0)}:5: unknown class ('7'); valid: cat, dog, guinea pig, skip",
    ]
    assert set(desk.journal()) == taken and desk.sheet(0).read_bytes() == kept
    # The rest, one refused: it trains, and asks the next question with the model's suggestions.
    desk.fill(0, "cat", "dog", "guinea pig", "skip")
    trained, *rest = desk.go(3)
    assert trained.startswith("cycle 0: 3 labels, no held-out labels to evaluate on, trained ")
    assert rest == waiting(desk, 1, "3 of 3")
    assert not set(desk.keys(1)) & set(first)
    assert all(row["suggestion"] in CLASSES and 0 < float(row["confidence"]) <= 1 for row in desk.asked(1))
    assert [line.split() for line in desk.do(0, "labels", str(desk.run))][:4] == [
        ["cycle", "acquisition", "asked", "labeled", "skipped", "pending"],
        ["0", "random", "4", "3", "1", "0"],
        ["1", "margin", "3", "0", "0", "3"],
        ["total", "7", "3", "1", "3"],
    ]
    desk.fill(1, "cat", "cat", "dog")
    assert f"run: {desk.run}" in desk.go(0)
    assert (desk.run / "report" / "report.md").is_file()
    # The refused sample has no label, so it is among what the model can be asked about.
    predicted = desk.do(0, "predict", str(desk.run))
    assert len(predicted) == 1 + 20 - 6 and any(line.startswith(first[3] + ",") for line in predicted)


def test_a_run_that_takes_what_there_is(desk):
    desk.write({"oracle": {"name": "csv", "accept_partial": True}, "cycles": 2})
    assert desk.go(3)[-2:] == waiting(desk, 0, "4 of 4")
    first = desk.keys(0)
    desk.fill(0, "cat", "dog")
    lines = desk.go(3)
    assert lines[0].startswith("cycle 0: 2 labels") and lines[-2:] == waiting(desk, 1, "3 of 3")
    # What is still open is not asked a second time; a late answer and a second thought are taken with the next ones.
    assert not set(desk.keys(1)) & set(first)
    desk.fill(0, "cat", "cat", "guinea pig")
    desk.fill(1, "dog")
    assert any(line.startswith("cycle 1: 4 labels") for line in desk.go(3))
    journal = desk.journal()
    assert journal[:2] == [("0", first[0], "cat", "labeled", "random"), ("0", first[1], "dog", "labeled", "random")]
    new = {("0", first[1], "cat", "labeled", "random"), ("0", first[2], "guinea pig", "labeled", "random")}
    assert set(journal[2:]) == {*new, ("1", desk.keys(1)[0], "dog", "labeled", "margin")}


def test_a_correction_by_command_outlives_the_spreadsheet(desk):
    desk.go(3)
    first = desk.keys(0)
    desk.fill(0, "cat", "dog", "dog")
    desk.go(3)
    assert desk.do(0, "labels", str(desk.run), "--set", f"{first[0]}=guinea pig") == [f"{first[0]}: cat -> guinea pig"]
    # The file still says cat.
    desk.fill(0, "cat", "dog", "dog", "dog")
    desk.go(3)
    assert [row[2:] for row in desk.journal() if row[1] == first[0]] == [
        ("cat", "labeled", "random"),
        ("guinea pig", "labeled", "correction"),
    ]
    assert "1 corrected" in desk.do(0, "labels", str(desk.run))
    # Until it says something else.
    desk.fill(0, "dog")
    desk.go(3)
    assert desk.journal()[-1] == ("0", first[0], "dog", "labeled", "random")


def test_images_of_an_array_data_set_can_be_looked_at(desk):
    desk.write({"oracle": "csv", "initial": {"name": "random", "size": 2}, "cycles": 0}, dataset="digits")
    lines = desk.go(3)
    assert lines[-1].startswith("with one of: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9; 'skip'")
    from sklearn.datasets import load_digits

    by_key = {row["key"]: Path(row["file"]) for row in desk.asked(0)}
    for row in desk.asked(0):
        with Image.open(row["file"]) as image:
            assert image.size == (128, 128)
            small = np.asarray(image)[::16, ::16]
        # The picture is the digit: among all of scikit-learn's it is nearest to itself.
        distance = np.abs(load_digits().images / 16 - small / small.max()).sum(axis=(1, 2))
        assert distance.min() < 1, row["key"]
        row["label"] = str(load_digits().target[distance.argmin()])
    # What a spreadsheet makes of digits: numbers.
    desk.fill(0, *(f"{load_digits().target[_nearest(by_key[key])]},0" for key in desk.keys(0)))
    assert f"run: {desk.run}" in desk.go(0)
    assert len(desk.journal()) == 2


def _nearest(path: Path) -> int:
    from sklearn.datasets import load_digits

    small = np.asarray(Image.open(path))[::16, ::16]
    return int(np.abs(load_digits().images / 16 - small / small.max()).sum(axis=(1, 2)).argmin())


# --- labels that exist already ----------------------------------------------------------------------------------------------


def test_a_start_from_a_file_of_labels(desk):
    """It is read like any other that people write; one more query follows."""
    text = "\ufeffkey;label\r\nunlabeled/003.png;Cat\r\nunlabeled/001.png;dog\r\nunlabeled/002.png;\r\nunlabeled/003.png;guinea pig\r\n"
    (desk.folder / "known.csv").write_text(text, encoding="utf-8", newline="")
    desk.write({"initial": {"name": "file", "path": "known.csv"}})
    lines = desk.go(3)
    assert lines[1].startswith("cycle 0: 2 labels") and lines[2:] == waiting(desk, 1, "3 of 3")
    known = {("0", "unlabeled/003.png", "guinea pig", "labeled", "file"), ("0", "unlabeled/001.png", "dog", "labeled", "file")}
    assert set(desk.journal()) == known
    assert not {"unlabeled/001.png", "unlabeled/003.png"} & set(desk.keys(1))


def test_mistakes_in_a_file_of_labels(desk):
    desk.write({"initial": {"name": "file", "path": "known.csv"}})
    known = desk.folder / "known.csv"
    assert desk.go(2) == [f"usb-active: error: {desk.folder / 'c.yaml'}: active.initial.path: there is no file {known}"]
    known.write_text("key,label\nunlabeled/3.png,cat\nunlabeled/004.png,bird\n")
    first, second = desk.go(2)[-2:]
    assert first.startswith(f"usb-active: error: {known}:2: key is not in the pool ('unlabeled/3.png'); valid: did you mean 'unlabeled/")
    assert second == f"usb-active: error: {known}:3: unknown class ('bird'); valid: cat, dog, guinea pig, skip"
    known.write_text("key,label\nunlabeled/003.png,\n")
    assert desk.go(2) == [f"usb-active: error: {known}: holds no label"]
    assert not (desk.run / "labels.csv").exists() or desk.journal() == []


def test_the_journal_of_another_run_is_such_a_file(desk):
    """Skipped and corrected rows mean there what they mean in the journal."""
    desk.go(3)
    first = desk.keys(0)
    desk.fill(0, "cat", "dog", "dog", "skip")
    desk.go(3)
    desk.do(0, "labels", str(desk.run), "--skip", first[1], "--set", f"{first[0]}=guinea pig")
    desk.write({"initial": {"name": "file", "path": str(desk.run / "labels.csv")}}, save_name="other")
    desk.go(3)
    with open(desk.folder / "other" / "labels.csv", newline="") as file:
        assert {(row["key"], row["label"]) for row in csv.DictReader(file)} == {(first[0], "guinea pig"), (first[2], "dog")}


def test_a_start_from_class_folders(desk):
    write_folder(desk.data, {"train/cat": 2, "train/dog": 1})
    desk.write({"initial": "known"})
    lines = desk.go(3)
    assert lines[1].startswith("cycle 0: 3 labels") and lines[2:] == waiting(desk, 1, "3 of 3")
    names = [("cat", 0), ("cat", 1), ("dog", 0)]
    assert {row[1:3] for row in desk.journal()} == {(f"train/{name}/{number:03d}.png", name) for name, number in names}
    assert all(key.startswith("unlabeled/") for key in desk.keys(1))


# --- a folder that changes --------------------------------------------------------------------------------------------------


def test_a_grown_folder_keeps_its_labels(desk):
    desk.go(3)
    first = desk.keys(0)
    desk.fill(0, "cat", "dog", "dog", "guinea pig")
    # Its name comes first in the order of names, and yet it joins the pool at the end, and not before the next question.
    write_image(desk.data / "unlabeled" / "000-new.png")
    lines = desk.go(3)
    assert lines[1] == "new samples in the pool: 1" and lines[2:] == waiting(desk, 1, "3 of 3")
    assert [row[1:3] for row in sorted(desk.journal(), key=lambda row: row[1])] == list(
        zip(first, ["cat", "dog", "dog", "guinea pig"], strict=True)
    )
    keys = (desk.run / "keys.txt").read_text().split()
    assert len(keys) == 21 and keys[-1] == '"unlabeled/000-new.png"'


def test_a_vanished_image_is_named(desk):
    desk.go(3)
    (desk.data / "unlabeled" / "007.png").rename(desk.data / "007.png")
    expected = f"usb-active: error: data_dir: images of the run are gone from {desk.data}: unlabeled/007.png; put them back"
    assert desk.go(2) == [expected]
    (desk.data / "007.png").rename(desk.data / "unlabeled" / "007.png")
    assert desk.go(3) == waiting(desk, 0, "4 of 4")


def test_an_unreadable_image_is_named_before_anyone_is_asked(desk):
    torn = desk.data / "unlabeled" / "005.png"
    torn.write_bytes(torn.read_bytes()[:50])
    line = desk.go(2)[-1]
    assert line.startswith(f"usb-active: error: 1 of 20 images below {desk.data} cannot be read, repair or remove them: unlabeled/005.png")
    assert not desk.sheet(0).exists()


def test_what_the_folder_decided_at_first_holds_for_the_run(desk):
    desk.go(3)
    image = desk.data / "unlabeled" / "020.png"
    write_image(image, np.zeros((30, 40, 3), dtype=np.uint8))
    # A folder of several sizes would be one of 224 pixels, had the run not begun.
    assert desk.go(3) == waiting(desk, 0, "4 of 4")
    assert desk.do(0, "check", str(desk.folder / "c.yaml")) == [f"{desk.folder / 'c.yaml'}: fine; it would run in {desk.run}"]
    assert desk.go(3, "--set", "img_size=8") == waiting(desk, 0, "4 of 4")
    (line,) = desk.go(2, "--set", "img_size=16")
    assert line.startswith(f"usb-active: error: {desk.run}: the run began with img_size: 8, and now it is 16")


def test_new_class_folders_are_another_experiment(desk):
    write_folder(desk.data, {"train/cat": 3, "train/dog": 3})
    desk.write(dataset="image_folder")
    desk.go(3)
    write_image(desk.data / "train" / "horse" / "1.png")
    assert desk.go(2) == [
        f"usb-active: error: {desk.run}: the run began with class_names: [cat, dog], and now it is [cat, dog, horse]; "
        "to resume, write class_names: [cat, dog] below `dataset:` in the YAML, and take away folders of other classes"
    ]
    (desk.data / "train" / "horse" / "1.png").unlink()
    (desk.data / "train" / "horse").rmdir()
    desk.write(dataset={"name": "image_folder", "class_names": ["cat", "dog"]})
    assert desk.go(3)[0].startswith("4 of 4 labels are missing")


@pytest.mark.parametrize(("validation", "shown"), [(0.0, "no held-out labels to evaluate on"), (0.5, "% (validation)")])
def test_without_a_test_folder(desk, validation, shown):
    write_folder(desk.data, {"train/cat": 3, "train/dog": 3})
    desk.write({"initial": "known", "validation": validation, "cycles": 0}, dataset="image_folder")
    assert shown in desk.go(0)[1]


@pytest.mark.slow
def test_the_command_itself(desk):
    """All of the above in a process of its own: nothing but the two lines on the standard output, exit code 3."""
    result = command("run", desk.folder / "c.yaml")
    assert result.returncode == 3 and result.stderr == ""
    assert result.stdout.splitlines()[1:] == waiting(desk, 0, "4 of 4")
