"""`usb-active run NEW.yaml --from RUN`: another network, algorithm or acquisition on the labels that exist in a run."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from types import SimpleNamespace

import killer
import numpy as np
import pytest
import yaml
from data_makers import write_folder
from run_helpers import checkpoint, command, config_of, labels_of, settings, train, weights_equal, write_yaml

from usb_active import UsageError, cli, load_config, run
from usb_active.records import SKIPPED
from usb_active.storage.run_dir import RunDir

OTHER = {"algorithm": "fixmatch", "net": {"name": "small_cnn", "width": 6}}


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    """20 + 10 labels, of which one was corrected, and one was taken back by a skip."""
    folder = tmp_path_factory.mktemp("old")
    session = train(settings(folder, "old")).session
    first, second = (session.dataset.keys[i] for i in session.run_dir.query(1).idx[:2])
    wrong = (int(session.dataset.targets[session.run_dir.query(1).idx[0]]) + 1) % 10
    assert cli.main(["labels", str(folder / "old"), "--set", f"{first}={wrong}", "--skip", second]) == 0
    return folder / "old"


def in_force(path: Path) -> tuple[dict[str, str], set[str]]:
    """Labels by key, and what is skipped, as the journal says it line by line."""
    rows = {row.key: row for row in RunDir.read(path).rows()}
    labels = {key: row.label for key, row in rows.items() if row.status != SKIPPED}
    return labels, rows.keys() - labels


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def new(tmp_path: Path, active=None, **usb) -> Path:
    """A configuration that would choose 20 labels of its own."""
    return write_yaml(tmp_path / "new.yaml", settings(tmp_path, "new", active=active, **usb))


def go(code: int, capsys, *arguments: object) -> list[str]:
    """The lines of `usb-active`, warnings and errors included, without those of the training."""
    capsys.readouterr()
    ended = cli.main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    assert ended == code, out + err
    return [*out.splitlines(), *err.splitlines()]


def refused(capsys, *arguments: object) -> str:
    """The one line of the error."""
    (line,) = [line for line in go(2, capsys, *arguments) if "error: " in line]
    return line.removeprefix("usb-active: error: ")


# ---------------------------------------------------------------------------------------------- simulated
def test_all_labels_in_force_are_there_before_the_first_training(old, tmp_path, capsys):
    before, path = files_of(old), new(tmp_path, {"acquisition": "entropy", "budget": 5}, **OTHER)
    brings = f"{path}: active.initial: 'random' is not used: --from {old} brings 29 labels and 1 skipped sample"
    assert go(0, capsys, "check", path, "--from", old) == [
        f"{path}: fine; it would run in {tmp_path / 'new'}", f"usb-active: warning: {brings}",
    ]  # fmt: skip
    assert not (tmp_path / "new").exists()
    assert f"usb-active: warning: {brings}" in go(0, capsys, "run", path, "--from", old)
    rows = RunDir.read(tmp_path / "new").rows()
    taken, asked = rows[:30], rows[30:]
    labels, skipped = in_force(old)
    assert {row.key: row.label for row in taken if row.label} == labels and len(labels) == 29
    assert {row.key for row in taken if not row.label} == skipped and len(skipped) == 1
    assert {(row.cycle, row.acquisition) for row in taken} == {(0, "other_run")}
    # What was skipped is not asked for again, nor is anything that has a label.
    assert [(row.cycle, row.acquisition) for row in asked] == [(1, "entropy")] * 5
    assert not {row.key for row in asked} & {row.key for row in taken}
    assert [line["num_labels"] for line in RunDir.read(tmp_path / "new").metrics()] == [29, 34]
    # Where they came from.
    block = yaml.safe_load((tmp_path / "new/config.yaml").read_text())["active"]["initial"]
    number = RunDir.read(old).run_id
    assert block == {"name": "other_run", "path": str(old), "run": number, "size": None}
    assert files_of(old) == before


def test_one_training_on_the_labels_is_that_on_a_file_of_them(old, tmp_path):
    """Cycle 0 trains on exactly these labels: bit-identical to a run that has them from a CSV."""
    labels, _ = in_force(old)
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("key", "label"), *labels.items()])
    train(settings(tmp_path, "file", active={"cycles": 0, "initial": {"name": "file", "path": str(tmp_path / "labels.csv")}}))
    config = load_config(settings(tmp_path, "new", active={"cycles": 0}), labels_from=old)
    assert run(config, quiet=True).labels() is not None
    assert weights_equal(checkpoint(tmp_path / "file", 0), checkpoint(tmp_path / "new", 0))


def test_the_same_command_resumes_wherever_the_other_run_has_gone(old, tmp_path, capsys):
    copy = tmp_path / "here" / "old"
    shutil.copytree(old, copy)
    path = new(tmp_path)
    go(0, capsys, "run", path, "--from", copy)
    ended, rows = checkpoint(tmp_path / "new", 1), labels_of(tmp_path / "new")
    # It labels on, and is no longer what was taken over.
    assert cli.main(["labels", str(copy), "--skip", rows[1][2]]) == 0
    for code, source in ((0, copy), (0, old)):
        go(code, capsys, "run", path, "--from", source)
    shutil.rmtree(copy)
    go(0, capsys, "run", path, "--from", copy)
    go(0, capsys, "run", path, "--from", tmp_path / "elsewhere" / "old")
    # Its own config.yaml says it as well.
    go(0, capsys, "run", tmp_path / "new/config.yaml")
    assert labels_of(tmp_path / "new") == rows and weights_equal(ended, checkpoint(tmp_path / "new", 1))
    # Neither without it nor with another.
    assert refused(capsys, "run", path) == f"{tmp_path / 'new'} has begun with --from {copy}; give it again, or choose another save_name"
    for other in (tmp_path / "new2", tmp_path / "other"):
        assert refused(capsys, "run", path, "--from", other) == (
            f"{tmp_path / 'new'} has begun with the labels of another run, {copy}, and not of {other}; choose another save_name"
        )


def test_another_run_at_the_place_of_the_first_is_not_taken(old, tmp_path, capsys):
    train(settings(tmp_path, "other", active={"cycles": 0}))
    path = new(tmp_path, {"cycles": 0})
    go(0, capsys, "run", path, "--from", old)
    said = refused(capsys, "run", path, "--from", tmp_path / "other")
    assert said.endswith(f"and not of {tmp_path / 'other'}; choose another save_name") and "\n" not in said
    # By its number, where labels were not taken over yet.
    block = {"name": "other_run", "path": str(old), "run": "0" * 16}
    fresh = write_yaml(tmp_path / "fresh.yaml", settings(tmp_path, "fresh", active={"initial": block}))
    assert refused(capsys, "check", fresh) == f"{old} is another run than the one that was to be taken over; give its own directory"


def test_a_run_that_has_begun_without_it_is_not_changed(old, tmp_path, capsys):
    path = new(tmp_path, {"cycles": 0})
    train(settings(tmp_path, "new", active={"cycles": 0}))
    before = files_of(tmp_path / "new")
    assert refused(capsys, "run", path, "--from", old) == (
        f"{tmp_path / 'new'} has begun without --from, with labels of its own; choose another save_name, or leave --from out"
    )
    assert refused(capsys, "run", path, "--from", tmp_path / "new").startswith(f"{tmp_path / 'new'} has begun without --from")
    assert files_of(tmp_path / "new") == before
    # Of another network there is a way out, which keeps the labels.
    other = write_yaml(tmp_path / "other.yaml", settings(tmp_path, "new", active={"cycles": 0}, net="mlp"))
    said = go(2, capsys, "run", other)[0]
    assert f"choose another save_name (--from {tmp_path / 'new'} takes its labels over), or undo these changes:" in said


def test_what_is_left_must_last_for_the_cycles(old, tmp_path, capsys):
    path = new(tmp_path, {"cycles": 1, "budget": 1314})
    # 1,343 samples, less 29 labels and one skip.
    assert "beside the 29 that 'other_run' brings only 1313 samples can be queried" in refused(capsys, "check", path, "--from", old)


# ---------------------------------------------------------------------------------------------- killed
@pytest.mark.slow
def test_killed_while_labels_are_taken_over(old, tmp_path):
    """After each kill the same command goes on, where the other run has moved too; a label is neither lost nor there twice."""
    source = tmp_path / "source"
    shutil.copytree(old, source)
    more = ("--from", str(source))
    data = killer.settings(tmp_path, "killed", {"cycles": 1})
    for point in ("before_first_labels", "in_first_labels", "first_labels", "first_query", "first_start", "train"):
        ended = killer.run(data, point, more=more)
        assert ended.code == killer.KILLED, (point, ended)
        if point == "in_first_labels":
            before = RunDir.read(killer.directory(data)).rows()
            assert 0 < len(before) < 30
        if point in ("before_first_labels", "in_first_labels", "first_query"):
            source = source.rename(tmp_path / f"moved_after_{point}")
            more = ("--from", str(source)) if point != "first_query" else more
    whole = {**data, "save_name": "whole"}
    for one, place in ((data, more), (whole, ("--from", str(source)))):
        ended = killer.run(one, more=place)
        assert ended.code == 0, ended
    assert sorted(labels_of(tmp_path / "killed")[:31]) == sorted(labels_of(tmp_path / "whole")[:31])
    assert weights_equal(checkpoint(tmp_path / "killed", 1), checkpoint(tmp_path / "whole", 1))
    rows = RunDir.read(tmp_path / "killed").rows()
    assert len({row.index for row in rows}) == len(rows) == 40 and rows[: len(before)] == before


# ---------------------------------------------------------------------------------------------- people
CLASSES = ("cat", "dog")


def photos(tmp_path: Path, name: str, size: int, **usb) -> Path:
    data = {"dataset": {"name": "image_folder", "class_names": list(CLASSES)}, "data_dir": str(tmp_path / "data")}
    tiny = {"num_train_iter": 3, "num_eval_iter": 3, "epoch": 1, "batch_size": 4}
    active = {"initial": {"name": "random", "size": size}, "budget": 3, "oracle": "csv"}
    return write_yaml(tmp_path / f"{name}.yaml", settings(tmp_path, name, active=active, **{**data, **tiny, **usb}))


def answered(tmp_path: Path, capsys) -> None:
    """A run at `first`, of nine images, of which a cat and a dog are labelled; it waits for more."""
    write_folder(tmp_path / "data", {"unlabeled": 9})
    first = photos(tmp_path, "first", 2)
    go(3, capsys, "run", first)
    fill(tmp_path / "first/queries/cycle_000.csv", ["cat", "dog"])
    go(3, capsys, "run", first)


def fill(path: Path, labels: list[str]) -> None:
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    for row, label in zip(rows, labels, strict=False):
        row["label"] = label
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_what_people_said_is_not_asked_again(tmp_path, capsys):
    write_folder(tmp_path / "data", {"unlabeled": 9})
    first, second = photos(tmp_path, "first", 4), photos(tmp_path, "second", 4, **OTHER)
    go(3, capsys, "run", first)
    # Nothing there yet: and the new run has no directory.
    assert refused(capsys, "run", second, "--from", tmp_path / "first") == (
        f"{tmp_path / 'first'} holds no label yet: there is nothing to begin with"
    )
    assert not (tmp_path / "second").exists()
    sheet = tmp_path / "first/queries/cycle_000.csv"
    fill(sheet, ["cat", "dog", "skip"])
    # It waits for the fourth: that one is simply unlabelled.
    assert go(3, capsys, "run", first)[0].startswith("1 of 4 labels are missing")
    corrected = RunDir.read(tmp_path / "first").rows()[0].key
    assert cli.main(["labels", str(tmp_path / "first"), "--set", f"{corrected}=dog"]) == 0
    before, (pending, skipped) = files_of(tmp_path / "first"), (RunDir.read(tmp_path / "first").query(0).keys[i] for i in (3, 2))
    lines = go(3, capsys, "run", second, "--from", tmp_path / "first")
    assert any(line.startswith("3 of 3 labels are missing") for line in lines) and any("cycle 0: 2 labels" in line for line in lines)
    rows = RunDir.read(tmp_path / "second").rows()
    assert [row.label for row in rows] == ["dog", "dog", ""] and rows[2].key == skipped
    # Six are left, of nine; among them the one that waits in the other run.
    asked = RunDir.read(tmp_path / "second").query(1).keys
    assert not {row.key for row in rows} & set(asked)
    assert pending not in {row.key for row in rows}
    fill(tmp_path / "second/queries/cycle_001.csv", ["cat", "dog", "cat"])
    go(0, capsys, "run", second, "--from", tmp_path / "first")
    assert [line["num_labels"] for line in RunDir.read(tmp_path / "second").metrics()] == [2, 5]
    assert files_of(tmp_path / "first") == before


def test_a_pool_that_has_grown_is_the_same_and_one_that_lacks_a_sample_is_not(tmp_path, capsys):
    write_folder(tmp_path / "data", {"unlabeled": 9})
    first, second = photos(tmp_path, "first", 2), photos(tmp_path, "second", 2)
    go(3, capsys, "run", first)
    fill(tmp_path / "first/queries/cycle_000.csv", ["cat"])
    go(3, capsys, "run", first)
    write_folder(tmp_path / "data", {"unlabeled": 12})
    go(0, capsys, "check", second, "--from", tmp_path / "first")
    for name in ("003", "005"):
        (tmp_path / f"data/unlabeled/{name}.png").unlink()
    assert refused(capsys, "run", second, "--from", tmp_path / "first") == (
        f"{tmp_path / 'first'}: 2 of its 9 samples are not in the pool of dataset 'image_folder', first 'unlabeled/003.png'; "
        "all of them must be in it"
    )
    assert not (tmp_path / "second").exists()


def test_other_classes_are_one_line(tmp_path, capsys):
    answered(tmp_path, capsys)
    for names, said in (
        (["cat", "hen", "cow"], "2 classes there, 3 here, 3 in only one of them, first 'dog' (only there)"),
        (["cat", "dog", "cow"], "2 classes there, 3 here, 1 in only one of them, first 'cow' (only here)"),
    ):
        path = photos(tmp_path, "second", 2, dataset={"name": "image_folder", "class_names": names})
        assert refused(capsys, "check", path, "--from", tmp_path / "first") == (
            f"{tmp_path / 'first'}: other classes than this pool's: {said}"
        )
    # Of classes that were added there since, it says what names them.
    assert cli.main(["labels", str(tmp_path / "first"), "--add-class", "owl: snowy"]) == 0
    said = "3 classes there, 2 here, 1 in only one of them, first 'owl: snowy' (only there); with those there it is "
    two = photos(tmp_path, "second", 2, dataset={"name": "image_folder", "class_names": ["cat", "dog"]})
    assert refused(capsys, "check", two, "--from", tmp_path / "first") == (
        f"{tmp_path / 'first'}: other classes than this pool's: {said}dataset.class_names: [cat, dog, 'owl: snowy']"
    )


def test_classes_in_another_order_are_the_same(tmp_path, capsys):
    answered(tmp_path, capsys)
    # Labels are texts: the same classes in another order are the same.
    path = photos(tmp_path, "second", 2, dataset={"name": "image_folder", "class_names": ["dog", "cat"]})
    go(3, capsys, "run", path, "--from", tmp_path / "first")
    assert [row.label for row in RunDir.read(tmp_path / "second").rows()] == ["cat", "dog"]


# ---------------------------------------------------------------------------------------------- refused
def test_what_is_no_run_or_of_a_later_version(old, tmp_path, capsys):
    path = new(tmp_path)
    assert refused(capsys, "check", path, "--from", tmp_path / "no") == f"{tmp_path / 'no'} is not a run directory: it has no config.yaml"
    later = tmp_path / "later"
    shutil.copytree(old, later)
    text = (later / "dataset.json").read_text()
    (later / "dataset.json").write_text(text.replace('"format":2', '"format":99').replace('"format": 2', '"format": 99'))
    said = refused(capsys, "run", path, "--from", later)
    assert said.startswith(f"{later / 'dataset.json'}: format 99 is of a later version of usb-active")
    assert not (tmp_path / "new").exists()
    # A journal that was altered is not taken over.
    (later / "dataset.json").write_text(text)
    rows = (later / "labels.csv").read_text().splitlines(keepends=True)
    (later / "labels.csv").write_text("".join([rows[0], *rows[2:]]))
    assert "not as it was when cycle" in refused(capsys, "run", path, "--from", later)


def test_numbers_are_no_classes(tmp_path, old):
    """Labels of a task without classes are other labels, whatever their texts."""
    from usb_active.builtin.other_run import OtherRun

    dataset = SimpleNamespace(class_names=(), task=SimpleNamespace(name="numbers"))
    with pytest.raises(UsageError, match="its labels are classes, and those of this pool of the task 'numbers'$"):
        OtherRun(OtherRun.Config(path=old)).known_labels(SimpleNamespace(dataset=dataset))


def test_the_python_interface_takes_it_of_a_dict_and_of_a_file(old, tmp_path):
    data = settings(tmp_path, "new")
    path = write_yaml(tmp_path / "new.yaml", data)
    for config in (load_config(data, labels_from=old), load_config(path, ["seed=4"], labels_from=str(old))):
        assert config.active.initial.name == "other_run" and Path(config.active.initial.config.path) == old
    assert data["active"]["initial"]["name"] == "random"
    with pytest.raises(UsageError, match="is not a run directory"):
        load_config(data, labels_from=tmp_path)
    # A configuration without a block of its own says so, whatever it begins with.
    with pytest.raises(UsageError, match="active: missing"):
        load_config({**data, "active": None}, labels_from=old)
    by_hand = settings(tmp_path, active={"initial": {"name": "other_run", "path": str(old)}})
    assert config_of(by_hand).active.initial.brings_labels


def test_the_help_says_it():
    for name in ("run", "check"):
        assert "--from RUN" in command(name, "--help").stdout


def test_labels_and_skips_are_checked_apart_from_the_plugin():
    from usb_active.contracts.initial_labels import check_initial_skips

    assert check_initial_skips((), np.array([1]), 9, "x").tolist() == []
    assert check_initial_skips([8, 0], np.array([1]), 9, "x").tolist() == [8, 0]
    wrong = ([1], "both labelled and skipped: 1"), ([9], "samples out of range: 9"), ([0, 0], "a sample stands there twice: 0")
    for returned, said in wrong:
        with pytest.raises(UsageError, match=f"^x: {said}"):
            check_initial_skips(returned, np.array([1]), 9, "x")
